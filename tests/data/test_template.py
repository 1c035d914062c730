"""Templates and label masks: what is supervised is the replies and their end markers, and nothing else."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from olivine.data.encoding import TemplateEncoder
from olivine.data.template import TEMPLATES, PieceKind, independent_segments
from olivine.errors import DataError, RequestError
from olivine.model.build import image_token
from olivine.records import Role, Sample, Turn
from olivine.testing import gemma_tokenizer, llama_tokenizer

TOKENIZERS = {
    "gemma": gemma_tokenizer(),
    "llama": llama_tokenizer(legacy=False),
    "llama-legacy": llama_tokenizer(legacy=True),
}
IMAGE_TOKENS = 5
#: Surrogates cannot be written as UTF-8; everything else, markers spelled out included, is fair.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30),
    st.sampled_from(
        ["<end_of_turn>", "<bos>", "<image>", "</s>", "\n", "\n\n", " ", "ASSISTANT:", "<start_of_turn>model\n"]
    ),
)
CONVERSATIONS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def encoder(template: str, tokenizer: str) -> TemplateEncoder:
    selected = TOKENIZERS[tokenizer]
    return TemplateEncoder(
        TEMPLATES[template], selected, image_token_id=image_token(selected), image_tokens=IMAGE_TOKENS
    )


ENCODERS = {
    ("gemma", "gemma"): encoder("gemma", "gemma"),
    ("vicuna", "llama"): encoder("vicuna", "llama"),
    ("vicuna", "llama-legacy"): encoder("vicuna", "llama-legacy"),
}


def conversation(pairs):
    return tuple(turn for q, a in pairs for turn in (Turn(Role.USER, q), Turn(Role.ASSISTANT, a)))


def exact_text(tokenizer, ids: list[int]) -> str:
    """Tokens as the text they stand for, byte for byte: `decode` would tidy spaces up."""
    data = b""
    for token in tokenizer.convert_ids_to_tokens(ids):
        if len(token) == 6 and token.startswith("<0x"):
            data += bytes([int(token[3:5], 16)])
        else:
            data += token.replace("▁", " ").encode()
    return data.decode()


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@example(pairs=[("\n", "\n\nfoo"), ("", "▁")], image=True)
@settings(max_examples=150, deadline=None)
def test_supervised_tokens_are_the_replies_and_their_ends(kind, pairs, image):
    template, tokenizer = kind
    made = ENCODERS[kind]
    tokens = made.conversation(conversation(pairs), image)
    end = {"gemma": "<end_of_turn>", "vicuna": "</s>"}[template]
    lead = " " if template == "vicuna" else ""
    supervised = [i for i, flag in zip(tokens.ids, tokens.supervised, strict=True) if flag]
    # The metaspace itself stands for a space in these tokenizers: they cannot tell the two apart.
    requested = "".join(lead + a.replace("▁", " ") + end for _, a in pairs)
    assert exact_text(TOKENIZERS[tokenizer], supervised) == requested


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_text_never_becomes_a_marker(kind, pairs, image):
    """However a text spells them: one beginning, one end a reply, exactly the image's placeholders."""
    template, tokenizer = kind
    selected = TOKENIZERS[tokenizer]
    ids = ENCODERS[kind].conversation(conversation(pairs), image).ids
    assert ids.count(selected.bos_token_id) == 1
    assert ids[0] == selected.bos_token_id
    assert ids.count(image_token(selected)) == (IMAGE_TOKENS if image else 0)
    end = {"gemma": "<end_of_turn>", "vicuna": "</s>"}[template]
    turns = {"gemma": 2, "vicuna": 1}[template] * len(pairs)
    assert ids.count(selected.convert_tokens_to_ids(end)) == turns


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_prompt_at_inference_is_what_training_put_before_the_reply(kind, pairs, image):
    made = ENCODERS[kind]
    prefix, continuation = made.prompt(pairs[0][0], image)
    tokens = made.conversation(conversation(pairs), image)
    assert tokens.ids[: tokens.supervised.index(True)] == prefix + continuation


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_independent_parts_are_single_questions_taken_apart(kind, pairs, image):
    made = ENCODERS[kind]
    sample = Sample("s", conversation(pairs), "x.png" if image else None)
    whole = made.example(sample, independent=True)
    assert whole.length == sum(map(len, whole.parts))
    alone = [made.conversation(conversation([pair]), image) for pair in pairs]
    if len(pairs) == 1:
        assert [whole.parts[0].ids] == [alone[0].ids]
        return
    shared = whole.parts[0]
    for part, single in zip(whole.parts[1:], alone, strict=True):
        assert shared.ids + part.ids == single.ids
        assert shared.supervised + part.supervised == single.supervised


def test_gemma_string_is_llava_gemmas():
    """The exact string of IntelLabs/multimodal_cognitive_ai's conv_gemma, final newline included."""
    pieces = TEMPLATES["gemma"].render(conversation([("QUESTION", "ANSWER")]), True)
    text = "".join(piece.text for piece in pieces)
    assert text == (
        "<bos><start_of_turn>user\n<image>\nQUESTION<end_of_turn>\n<start_of_turn>model\nANSWER<end_of_turn>\n"
    )
    assert [p.text for p in pieces if p.supervised] == ["ANSWER", "<end_of_turn>"]


def test_gemma_ids_are_at_their_published_places():
    tokens = ENCODERS["gemma", "gemma"].conversation(conversation([("QUESTION", "ANSWER")]), True)
    assert tokens.ids[:2] == [2, 106]
    image = image_token(TOKENIZERS["gemma"])
    assert tokens.ids.index(image) == len(tokens.ids[: tokens.ids.index(image)])
    assert tokens.ids[-2:] == [107, 108]
    assert tokens.supervised[-2:] == [True, False]


def test_vicuna_string_is_llavas_v1():
    pieces = TEMPLATES["vicuna"].render(conversation([("Q", "A"), ("Q2", "A2")]), True)
    assert "".join(piece.text for piece in pieces) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "USER: <image>\nQ ASSISTANT: A</s>USER: Q2 ASSISTANT: A2</s>"
    )


def test_plain_is_image_and_caption():
    pieces = TEMPLATES["plain"].render(conversation([("Describe it.", "a dog")]), True)
    assert "".join(piece.text for piece in pieces) == "<bos><image>a dog\n"
    tokens = encoder("plain", "gemma").conversation(conversation([("Describe it.", "a dog")]), True)
    supervised = [i for i, flag in zip(tokens.ids, tokens.supervised, strict=True) if flag]
    assert exact_text(TOKENIZERS["gemma"], supervised) == "a dog\n"
    with pytest.raises(DataError, match="2 replies"):
        TEMPLATES["plain"].render(conversation([("a", "b"), ("c", "d")]), True)


def test_a_token_over_the_border_is_split_where_inference_splits_it():
    """A reply that begins with a newline: 'model\\n' and '\\n' would be one token in a tokenizer that merges them."""
    made = ENCODERS["gemma", "gemma"]
    prefix, continuation = made.prompt("q", False)
    tokens = made.conversation(conversation([("q", "\nyes")]), False)
    assert tokens.ids[: len(prefix + continuation)] == prefix + continuation
    assert tokens.supervised[len(prefix + continuation)]


@pytest.mark.parametrize("text", ["what color is it?", string.printable, "é😀\u0301"])
def test_llama_text_is_tokenised_as_transformers_does(text):
    """Around special tokens too, where Llama's prefix space is added or not."""
    for name in ("llama", "llama-legacy"):
        made = ENCODERS["vicuna", name]
        tokenizer = TOKENIZERS[name]
        rendered = made.template.render(conversation([(text, "fine")]), True)
        whole = "".join(piece.text for piece in rendered[1:]).replace("<image>", "<image>" * IMAGE_TOKENS)
        assert made.conversation(conversation([(text, "fine")]), True).ids == tokenizer(whole).input_ids


def test_a_template_that_the_tokenizer_has_no_markers_for():
    with pytest.raises(RequestError, match="needs the special token '<end_of_turn>'"):
        encoder("gemma", "llama")


def test_prefix_ends_with_the_image():
    parts = independent_segments(TEMPLATES["gemma"], conversation([("a", "b"), ("c", "d")]), True)
    assert parts[0][-1].kind is PieceKind.IMAGE
    assert len(parts) == 3
