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
from olivine.testing.tokenizers import chat_tokenizer

TOKENIZERS = {
    "gemma": gemma_tokenizer(),
    "llama": llama_tokenizer(legacy=False),
    "llama-legacy": llama_tokenizer(legacy=True),
    "chatml": chat_tokenizer("chatml"),
    "llama3": chat_tokenizer("llama3"),
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
    chosen = TOKENIZERS[tokenizer]
    return TemplateEncoder(TEMPLATES[template], chosen, image_token_id=image_token(chosen), image_tokens=IMAGE_TOKENS)


ENCODERS = {
    ("gemma", "gemma"): encoder("gemma", "gemma"),
    ("vicuna", "llama"): encoder("vicuna", "llama"),
    ("vicuna", "llama-legacy"): encoder("vicuna", "llama-legacy"),
    ("llava-v1", "llama"): encoder("llava-v1", "llama"),
    ("prismatic-base", "llama"): encoder("prismatic-base", "llama"),
    ("llama3", "llama3"): encoder("llama3", "llama3"),
    ("chatml", "chatml"): encoder("chatml", "chatml"),
}
#: What ends a reply, what stands before its text, and how often a question and a reply have the end.
ENDS = {
    "gemma": ("<end_of_turn>", "", 2),
    "vicuna": ("</s>", " ", 1),
    "llava-v1": ("</s>", " ", 1),
    "prismatic-base": ("</s>", " ", 1),
    "llama3": ("<|eot_id|>", "", 2),
    "chatml": ("<|im_end|>", "", 2),
}


def conversation(pairs):
    return tuple(turn for q, a in pairs for turn in (Turn(Role.USER, q), Turn(Role.ASSISTANT, a)))


def exact_text(tokenizer, ids: list[int]) -> str:
    """Tokens as the text they stand for, byte for byte: `decode` would tidy spaces up."""
    if "▁" not in tokenizer.get_vocab():
        return tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    data = b""
    for token in tokenizer.convert_ids_to_tokens(ids):
        if len(token) == 6 and token.startswith("<0x"):
            data += bytes([int(token[3:5], 16)])
        else:
            data += token.replace("▁", " ").encode()
    return data.decode()


def written(tokenizer, text):
    """Return a text as the tokenizer preserves it: normalised, and with a space where the metaspace stands for one."""
    if "▁" in tokenizer.get_vocab():
        return text.replace("▁", " ")
    normalizer = tokenizer.backend_tokenizer.normalizer
    return text if normalizer is None else normalizer.normalize_str(text)


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@example(pairs=[("\n", "\n\nfoo"), ("", "▁")], image=True)
@settings(max_examples=150, deadline=None)
def test_supervised_tokens_are_the_replies_and_their_ends(kind, pairs, image):
    template, tokenizer = kind
    made = ENCODERS[kind]
    tokens = made.conversation(conversation(pairs), image)
    end, lead, _ = ENDS[template]
    supervised = [i for i, flag in zip(tokens.ids, tokens.supervised, strict=True) if flag]
    chosen = TOKENIZERS[tokenizer]
    wanted = "".join(written(chosen, lead + a) + end for _, a in pairs)
    assert exact_text(chosen, supervised) == wanted


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_text_never_becomes_a_marker(kind, pairs, image):
    """However a text spells markers: one beginning, one end per reply, and exactly the image's placeholders."""
    template, tokenizer = kind
    chosen = TOKENIZERS[tokenizer]
    ids = ENCODERS[kind].conversation(conversation(pairs), image).ids
    if chosen.bos_token_id is not None:
        assert ids.count(chosen.bos_token_id) == 1
        assert ids[0] == chosen.bos_token_id
    assert ids.count(image_token(chosen)) == (IMAGE_TOKENS if image else 0)
    end, _, often = ENDS[template]
    turns = often * len(pairs)
    assert ids.count(chosen.convert_tokens_to_ids(end)) == turns


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_prompt_at_inference_is_what_precedes_the_reply_in_training(kind, pairs, image):
    made = ENCODERS[kind]
    prefix, continuation = made.prompt(pairs[0][0], image)
    tokens = made.conversation(conversation(pairs), image)
    assert tokens.ids[: tokens.supervised.index(True)] == prefix + continuation


@pytest.mark.parametrize("kind", ENCODERS, ids="-".join)
@given(pairs=CONVERSATIONS, image=st.booleans())
@settings(max_examples=80, deadline=None)
def test_independent_segments_equal_separate_single_questions(kind, pairs, image):
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


def test_gemma_ids_have_their_published_values():
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


def test_a_token_across_the_border_is_split_where_inference_splits_it():
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


SYSTEM = {
    "gemma": "<bos><start_of_turn>user\nBe brief.\n\n<image>\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n",
    "vicuna": "<s>Be brief. USER: <image>\nQ ASSISTANT: A</s>",
    "plain": "<bos><image>A\n",
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    ),
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\n<image>\nQ<|end|>\n<|assistant|>\nA<|end|>\n",
}
SAID = (Turn(Role.SYSTEM, "Be brief."), *conversation([("Q", "A")]))


@pytest.mark.parametrize("template", SYSTEM)
def test_each_template_puts_a_system_turn_where_it_belongs(template):
    pieces = TEMPLATES[template].render(SAID, True)
    assert "".join(piece.text for piece in pieces) == SYSTEM[template]
    assert "Be brief." not in "".join(piece.text for piece in pieces if piece.supervised)


def test_prismatics_base_prompt_has_no_place_for_a_system_turn():
    with pytest.raises(DataError, match="no system turn"):
        TEMPLATES["prismatic-base"].render(SAID, True)
    pieces = TEMPLATES["prismatic-base"].render(conversation([("Q", "A"), ("Q2", "A2")]), True)
    text = "".join(piece.text for piece in pieces)
    assert text == "<bos><image>In: Q\nOut: A<eos>In: Q2\nOut: A2<eos>"


def test_independent_questions_share_the_system_turn():
    pairs = conversation([("Q", "A"), ("Q2", "A2")])
    shared, *parts = independent_segments(TEMPLATES["gemma"], (SAID[0], *pairs), True)
    assert "".join(piece.text for piece in shared) == "<bos><start_of_turn>user\nBe brief.\n\n<image>"
    assert [part[1].text for part in parts] == ["Q", "Q2"]


def test_a_template_whose_beginning_is_an_ordinary_token_of_the_tokenizer():
    """Gemma's vocabulary has the HTML tag `<s>`, which is not its beginning of sequence."""
    tokenizer = gemma_tokenizer()
    tokenizer.add_tokens(["<s>", "</s>"])
    with pytest.raises(RequestError, match=r"begins with '<s>', but this tokenizer .* begins with '<bos>'"):
        TemplateEncoder(TEMPLATES["vicuna"], tokenizer, image_token_id=image_token(tokenizer), image_tokens=2)


def test_a_template_that_begins_with_text_shares_no_prefix_without_an_image():
    made = encoder("prismatic-base", "chatml")
    prefix, continuation = made.prompt("q", False)
    assert prefix == []
    assert exact_text(TOKENIZERS["chatml"], continuation) == "In: q\nOut:"
    assert made.prompt("q", True)[0] == [made.image_token_id] * IMAGE_TOKENS
