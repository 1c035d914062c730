"""The trained tokenizer: Gemma's layout, any text round-trips, the same texts give the same tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from olivine.data.vocabulary import byte_tokenizer, train_tokenizer
from olivine.errors import RequestError

TEXTS = ["what color is the shape?", "is there a red circle?"] * 5
TOKENIZER = train_tokenizer(TEXTS, 600)


def test_special_ids_are_gemmas():
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "<0x00>", "<0xFF>"]
    assert TOKENIZER.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 106, 107, 108, 217, 472]
    assert TOKENIZER.convert_tokens_to_ids("<image>") == len(TOKENIZER) - 1


def test_the_templates_role_words_are_one_token_each():
    assert len(TOKENIZER("user\nmodel\n", add_special_tokens=False).input_ids) == 4


def test_merges_are_learnt_and_stay_within_words():
    pieces = TOKENIZER.convert_ids_to_tokens(TOKENIZER("what color is it?", add_special_tokens=False).input_ids)
    assert pieces[:3] == ["what", "▁color", "▁is"]
    assert not [piece for piece in TOKENIZER.get_vocab() if "?" in piece and len(piece) > 1]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40).filter(lambda t: "▁" not in t and "<" not in t))
@settings(max_examples=200, deadline=None)
def test_any_text_round_trips(text):
    for tokenizer in (TOKENIZER, byte_tokenizer()):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_same_texts_give_the_same_tokenizer_and_it_survives_saving(tmp_path):
    again = train_tokenizer(TEXTS, 600)
    assert again.get_vocab() == TOKENIZER.get_vocab()
    again.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("is there a cat?").input_ids == TOKENIZER("is there a cat?").input_ids
    assert loaded("a").input_ids[0] == 2


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(RequestError, match="at least 475"):
        train_tokenizer(TEXTS, 300)
