"""From a chat template's name and a tokenizer to what writes and tokenises conversations.

What the templates write is in `data.template` and `own_template`, tokenising in `data.encoding`.
"""

from typing import Any

from olivine.data.encoding import TemplateEncoder
from olivine.data.pieces import ChatTemplate
from olivine.data.template import OWN, TEMPLATES
from olivine.model.extra_tokens import make_markers_special
from olivine.model.own_template import own_template


def chat_template(tokenizer: Any, name: str) -> ChatTemplate:
    """Return a named chat template, or the tokenizer's own for "chat".

    Raises:
        RequestError: it is to be the tokenizer's own, which has none that can be trained on.
    """
    return own_template(tokenizer) if name == OWN else TEMPLATES[name]


def template_encoder(
    template: ChatTemplate, tokenizer: Any, *, image_token_id: int, image_tokens: int
) -> TemplateEncoder:
    """Return what tokenises conversations in a template, whose markers are special tokens from then on.

    Raises:
        RequestError: the tokenizer cannot write the template.
    """
    make_markers_special(tokenizer, template)
    return TemplateEncoder(template, tokenizer, image_token_id=image_token_id, image_tokens=image_tokens)
