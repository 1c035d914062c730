"""The encoder, the saved Jinja and transformers' assistant mask agree, for every template; `chat` changes nothing."""

import pickle
from dataclasses import replace

import pytest
from encoded import (
    expected_replies,
    jinja_ids,
    jinja_mask,
    spells_a_special_token,
    supervised_replies,
    token_lies_across_a_border,
)
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from olivine.data.encoding import TemplateEncoder
from olivine.data.template import OWN, TEMPLATES, independent_segments
from olivine.errors import DataError, RequestError
from olivine.model import checkpoint
from olivine.model.extra_tokens import make_markers_special
from olivine.model.generate import answer_one
from olivine.model.own_template import own_template
from olivine.model.processor import saved_chat_template
from olivine.model.tokenizers import image_token
from olivine.records import Role, Turn
from olivine.testing import gemma_tokenizer, llama_tokenizer, tiny_vlm
from olivine.testing.hostile_text import hostile_conversations
from olivine.testing.tokenizers import chat_tokenizer

GEMMAS_OWN = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n'"
    " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TOKENIZERS = {
    "gemma": lambda: gemma_tokenizer(),
    "llama": lambda: llama_tokenizer(),
    "llama-legacy": lambda: llama_tokenizer(legacy=True),
    "chatml": lambda: chat_tokenizer("chatml"),
    "llama3": lambda: chat_tokenizer("llama3"),
    "phi3": lambda: chat_tokenizer("phi3"),
}
KINDS = [
    ("gemma", "gemma"),
    ("gemma", "plain"),
    ("gemma", OWN),
    ("llama", "vicuna"),
    ("llama", "llava-v1"),
    ("llama", "prismatic-base"),
    ("llama-legacy", "vicuna"),
    ("llama-legacy", "prismatic-base"),
    ("chatml", "chatml"),
    ("chatml", "plain"),
    ("chatml", "prismatic-base"),
    ("chatml", OWN),
    ("llama3", "llama3"),
    ("llama3", OWN),
    ("phi3", "phi3"),
    ("phi3", OWN),
]
U, A, S = (lambda text, role=role: Turn(role, text) for role in (Role.USER, Role.ASSISTANT, Role.SYSTEM))
COUNT = 60
PLAIN_CHAT = (U("is there a circle?"), A("yes, a red one"), U("what color is it?"), A("red"))


def made(tokenizer_name, template, *, chat_template=GEMMAS_OWN, image_tokens=3):
    tokenizer = TOKENIZERS[tokenizer_name]()
    if tokenizer.chat_template is None:
        tokenizer.chat_template = chat_template
    token_id = image_token(tokenizer)
    chosen = own_template(tokenizer) if template == OWN else TEMPLATES[template]
    make_markers_special(tokenizer, chosen)
    return TemplateEncoder(chosen, tokenizer, image_token_id=token_id, image_tokens=image_tokens), tokenizer


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def written(request):
    return made(*request.param)


def conversations(template, count, **options):
    """Yield conversations that a template can represent: for `plain` one caption."""
    found = hostile_conversations(count, **options)
    return [conversation[:2] if template == "plain" else conversation for conversation in found]


def test_supervised_tokens_are_the_replies(written):
    encoder, tokenizer = written
    spelled = ["<image>", "<end_of_turn>", "</s>", "<|im_end|>\n", "<|eot_id|>", "<|end|>", "<|user|>"]
    for number, conversation in enumerate(conversations(encoder.template.name, COUNT, spelled=spelled)):
        tokens = encoder.conversation(conversation, bool(number % 2))
        replies = expected_replies(encoder, tokenizer, conversation)
        if "phi3" in str(tokenizer.all_special_tokens) or "<|user|>" in tokenizer.get_vocab():
            replies = [reply.lstrip() for reply in replies]
        assert supervised_replies(tokenizer, tokens) == replies
        assert tokens.ids.count(encoder.image_token_id) == number % 2 * 3


def test_the_saved_template_gives_the_encoders_ids_and_its_mask(written):
    encoder, tokenizer = written
    jinja = saved_chat_template(encoder.template, tokenizer)
    compared = 0
    for conversation in conversations(encoder.template.name, COUNT, seed=1):
        if spells_a_special_token(tokenizer, conversation):
            continue
        question = conversation[:1]
        assert jinja_ids(tokenizer, jinja, question) == encoder.conversation(question, False).ids
        if token_lies_across_a_border(encoder, tokenizer, jinja, conversation):
            continue
        tokens = encoder.conversation(conversation, False)
        assert jinja_ids(tokenizer, jinja, conversation) == tokens.ids
        assert jinja_mask(tokenizer, jinja, conversation) == (tokens.ids, tokens.supervised)
        compared += 1
    assert compared > COUNT / 2


def test_the_fast_and_the_careful_tokenisation_agree(written):
    """Tokenising the whole text at once gives the same ids as piece by piece."""
    encoder, _ = written
    quick = 0
    for number, conversation in enumerate(conversations(encoder.template.name, COUNT, seed=2)):
        pieces = encoder._present(encoder.template.render(conversation, bool(number % 2)))
        together = encoder._encode_together(pieces, ())
        if together is not None:
            assert together == encoder._encode_apart(pieces, ())
            quick += 1
    assert quick > COUNT / 2


def test_independent_questions_are_conversations_of_one(written):
    encoder, _ = written
    for conversation in conversations(encoder.template.name, 40, seed=3):
        shared, *parts = encoder.encode_segments(independent_segments(encoder.template, conversation, True))
        for number, part in enumerate(parts):
            alone = encoder.conversation(conversation[2 * number : 2 * number + 2], True)
            assert (shared.ids + part.ids, shared.supervised + part.supervised) == (alone.ids, alone.supervised)


@pytest.mark.parametrize("kind", ["gemma", "chatml", "llama3", "phi3"])
def test_own_template_is_what_the_tokenizer_writes(kind):
    encoder, tokenizer = made(kind, OWN)
    source = TOKENIZERS[kind]().chat_template or GEMMAS_OWN
    settings = {"enable_thinking": False} if kind == "chatml" else {}
    messages = [{"role": turn.role.value, "content": turn.text} for turn in PLAIN_CHAT]
    text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **settings)
    pieces = encoder.template.render(PLAIN_CHAT, False)
    names = {"<bos>": tokenizer.bos_token}
    assert "".join(names.get(piece.text, piece.text) for piece in pieces) == text
    asked = tokenizer.apply_chat_template(
        messages[:3], chat_template=source, tokenize=False, add_generation_prompt=True, **settings
    )
    prompt = encoder.template.render(PLAIN_CHAT[:3], False)
    assert "".join(names.get(piece.text, piece.text) for piece in prompt) == asked
    end = {"gemma": "<end_of_turn>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "phi3": "<|end|>"}[kind]
    assert [p.text for p in pieces if p.supervised] == ["yes, a red one", end, "red", end]
    assert tokenizer.convert_tokens_to_ids(end) in encoder.stop_ids


@pytest.mark.parametrize("kind", ["gemma", "chatml", "llama3", "phi3"])
def test_own_template_is_the_same_again_when_it_was_saved(kind, tmp_path):
    encoder, tokenizer = made(kind, OWN)
    tokenizer.chat_template = saved_chat_template(encoder.template, tokenizer)
    again = own_template(tokenizer)
    assert again.jinja == encoder.template.jinja
    assert again.render(PLAIN_CHAT, True) == encoder.template.render(PLAIN_CHAT, True)
    assert again.stop == encoder.template.stop


def test_own_template_follows_trimming_and_names_a_changed_turn():
    template = made("llama3", OWN)[0].template
    pieces = template.render((U(" a \n"), A("\n b ")), True)
    assert [p.text for p in pieces if p.supervised] == ["b", "<|eot_id|>"]
    shouting = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('no', 'No') }}"
    shouting += (
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = shouting
    template = own_template(tokenizer)
    assert template.render(PLAIN_CHAT, False)
    with pytest.raises(DataError, match=r"changes turn 4 \(assistant\): it writes 'No"):
        template.render((*PLAIN_CHAT[:3], A("no")), False)


REFUSED = {
    "none": (None, "has no chat template of its own"),
    "no end": (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}{{ 'assistant: ' }}",
        "writes nothing to end a reply",
    ),
    "left out": ("{{ messages[0].content }}{{ '<|im_end|>' }}", "writes turn 2"),
    "another prompt": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'bot: ' }}{% endif %}",
        "prompts with",
    ),
    "a date": ("{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}", "the date of today"),
    "broken": ("{% for m in messages %}", "refuses"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_own_templates_that_cannot_be_trained_on(kind):
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template, why = REFUSED[kind]
    with pytest.raises(RequestError, match=why):
        own_template(tokenizer)


def test_the_parsed_tokenizer_is_cached_until_the_tokenizer_changes():
    encoder, tokenizer = made("gemma", "gemma")
    options = {"image_token_id": encoder.image_token_id, "image_tokens": 3}
    assert TemplateEncoder(TEMPLATES["plain"], tokenizer, **options)._parsed is encoder._parsed
    tokenizer.add_special_tokens({"extra_special_tokens": ["<unused7>"]})
    changed = TemplateEncoder(TEMPLATES["plain"], tokenizer, **options)
    assert changed._parsed is not encoder._parsed
    conversation = (U("a"), A("<unused7>"))
    assert tokenizer.convert_tokens_to_ids("<unused7>") not in changed.conversation(conversation, False).ids


def test_a_marker_that_is_no_special_token_is_made_one_with_its_id():
    tokenizer = gemma_tokenizer()
    values = tokenizer.backend_tokenizer.to_str()
    plain = type(tokenizer.backend_tokenizer).from_str(values.replace('"special":true', '"special":false'))
    tokenizer._tokenizer = plain
    token_id = image_token(tokenizer)
    with pytest.raises(RequestError, match="'<bos>' is no special token"):
        TemplateEncoder(TEMPLATES["gemma"], tokenizer, image_token_id=token_id, image_tokens=3)
    make_markers_special(tokenizer, TEMPLATES["gemma"])
    encoder = TemplateEncoder(TEMPLATES["gemma"], tokenizer, image_token_id=token_id, image_tokens=3)
    ids = encoder.conversation((U("<end_of_turn>"), A("a")), False).ids
    assert ids.count(107) == 2
    assert jinja_ids(tokenizer, saved_chat_template(TEMPLATES["gemma"], tokenizer), PLAIN_CHAT) == (
        encoder.conversation(PLAIN_CHAT, False).ids
    )


def test_an_encoder_can_be_sent_to_another_process():
    encoder, _ = made("phi3", OWN)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.conversation(PLAIN_CHAT, True) == encoder.conversation(PLAIN_CHAT, True)


@pytest.fixture(scope="module", params=["gemma", "vicuna", "chat"])
def saved(request, tmp_path_factory):
    """(processor, Olivine's model) of a saved model folder, as plain transformers and Olivine load it."""
    folder = tmp_path_factory.mktemp(request.param)
    language = "llama" if request.param == "vicuna" else "gemma"
    vlm = replace(tiny_vlm(language=language, folder=folder / "tokenizer"), template=request.param)
    if request.param == OWN:
        vlm.tokenizer.chat_template = GEMMAS_OWN
    checkpoint.save(vlm, folder / "saved")
    return AutoProcessor.from_pretrained(folder / "saved"), checkpoint.load(folder / "saved")


def test_the_saved_processor_marks_supervised_tokens_after_an_image(saved):
    processor, ours = saved
    messages = [{"role": turn.role.value, "content": [{"type": "text", "text": turn.text}]} for turn in PLAIN_CHAT]
    messages[0]["content"].insert(0, {"type": "image", "image": Image.new("RGB", (9, 9))})
    found = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    tokens = ours.encoder().conversation(PLAIN_CHAT, True)
    assert found["input_ids"][0] == tokens.ids
    if not hasattr(ProcessorMixin, "_adjust_assistant_masks_indices"):
        pytest.skip("this transformers computes the mask before it inserts the image tokens")
    assert [bool(flag) for flag in found["assistant_masks"][0]] == tokens.supervised


def test_a_system_message_is_served_as_it_was_trained(saved):
    processor, ours = saved
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what?"}]
    if ours.template == OWN:  # which refuses a system message, as this tokenizer's own template does
        with pytest.raises(DataError, match="no system"):
            ours.encoder().prompt("what?", False, "Be brief.")
        with pytest.raises(TemplateError, match="no system"):
            processor.apply_chat_template(asked, add_generation_prompt=True)
        return
    prefix, continuation = ours.encoder().prompt("what?", False, "Be brief.")
    text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    assert processor(text=text)["input_ids"][0] == prefix + continuation
    assert ("Be brief." in ours.tokenizer.decode(prefix + continuation)) is True
    conversation = (S("Be brief."), *PLAIN_CHAT)
    whole = jinja_mask(processor.tokenizer, processor.chat_template, conversation)
    tokens = ours.encoder().conversation(conversation, False)
    assert whole == (tokens.ids, tokens.supervised)
    assert answer_one(ours, "what?", None, system="Be brief.", max_new_tokens=3) is not None
    with pytest.raises(TemplateError, match="Unsupported role"):
        processor.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_own_template_survives_training_and_saving(saved, tmp_path):
    processor, ours = saved
    before = ours.encoder().conversation(PLAIN_CHAT, True)
    checkpoint.save(ours, tmp_path / "again")
    again = checkpoint.load(tmp_path / "again")
    assert again.template == ours.template
    assert again.encoder().conversation(PLAIN_CHAT, True) == before
    assert saved_chat_template(again.chat_template(), again.tokenizer) == processor.chat_template
