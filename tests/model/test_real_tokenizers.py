"""Chat templates on five published tokenizers, if they are installed (`make real-parts` says how)."""

import os
from pathlib import Path

import pytest
from encoded import (
    expected_replies,
    jinja_ids,
    jinja_mask,
    spells_a_special_token,
    supervised_replies,
    token_lies_across_a_border,
)
from transformers import AutoTokenizer

from olivine.data.encoding import TemplateEncoder
from olivine.data.template import OWN, TEMPLATES
from olivine.errors import DataError, RequestError
from olivine.model.extra_tokens import make_markers_special
from olivine.model.own_template import own_template
from olivine.model.processor import saved_chat_template
from olivine.model.tokenizers import image_token
from olivine.testing.hostile_text import hostile_conversations

#: Each tokenizer's folder, and the templates that it can write.
TOKENIZERS = {
    "gemini": ("gemma", OWN),
    "gemma3": ("gemma", OWN),
    "llama2": ("vicuna", "prismatic-base"),
    "llama3": ("llama3", OWN, "prismatic-base"),
    "qwen3": ("chatml", OWN),
}
KINDS = [(name, template) for name, templates in TOKENIZERS.items() for template in templates]
COUNT = 1500


def real_tokenizer(name):
    root = os.environ.get("OLIVINE_REAL_TOKENIZERS")
    if root is None:
        pytest.skip("OLIVINE_REAL_TOKENIZERS names no folder of tokenizers; `make real-parts` says how to get them")
    folder = Path(root) / f"tokenizer-{name}" / "models"
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"no {folder / 'tokenizer.json'}; `make real-parts` says how to get it")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def written(request):
    """(encoder, tokenizer) with `<image>` and the template's markers in it."""
    name, template = request.param
    tokenizer = real_tokenizer(name)
    token_id = image_token(tokenizer)
    chosen = own_template(tokenizer) if template == OWN else TEMPLATES[template]
    make_markers_special(tokenizer, chosen)
    return TemplateEncoder(chosen, tokenizer, image_token_id=token_id, image_tokens=3), tokenizer


def kept(encoder, conversations):
    """Return the conversations that the template does not change; only a tokenizer's own template changes any."""
    found = []
    for number, conversation in enumerate(conversations):
        try:
            found.append((conversation, encoder.conversation(conversation, bool(number % 2))))
        except DataError:
            assert encoder.template.name == OWN
    assert len(found) > 0.9 * len(conversations)
    return found


def test_supervised_tokens_are_the_replies(written):
    encoder, tokenizer = written
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special][:40]
    conversations = hostile_conversations(COUNT, spelled=["<image>", *special])
    for conversation, tokens in kept(encoder, conversations):
        assert supervised_replies(tokenizer, tokens) == expected_replies(encoder, tokenizer, conversation)


def test_the_saved_template_gives_the_encoders_ids(written):
    """Up to the reply always; including the replies if no token lies across a reply's border."""
    encoder, tokenizer = written
    jinja = saved_chat_template(encoder.template, tokenizer)
    conversations = hostile_conversations(COUNT, seed=1)
    across = 0
    for conversation, _ in kept(encoder, conversations):
        if spells_a_special_token(tokenizer, conversation):
            continue
        question = conversation[:1]
        assert jinja_ids(tokenizer, jinja, question) == encoder.conversation(question, False).ids
        if token_lies_across_a_border(encoder, tokenizer, jinja, conversation):
            across += 1
            continue
        tokens = encoder.conversation(conversation, False)
        assert jinja_ids(tokenizer, jinja, conversation) == tokens.ids
        assert jinja_mask(tokenizer, jinja, conversation) == (tokens.ids, tokens.supervised)
    assert across < 0.1 * len(conversations)


def test_vicuna_is_refused_where_its_beginning_is_an_html_tag():
    tokenizer = real_tokenizer("gemini")
    with pytest.raises(RequestError, match=r"begins with '<s>'.*begins with '<bos>'"):
        TemplateEncoder(TEMPLATES["vicuna"], tokenizer, image_token_id=image_token(tokenizer), image_tokens=3)
