"""Special tokens added to a tokenizer: a chat template's markers.

`<image>` is added in `tokenizers`.
"""

from typing import Any

from olivine.data.pieces import BOS, EOS, ChatTemplate
from olivine.data.template import marker_names


def make_markers_special(tokenizer: Any, template: ChatTemplate) -> None:
    """Make a template's markers special tokens if the tokenizer has them as ordinary ones.

    Otherwise text could be taken for a marker, or the saved tokenizer would split it. Their ids do not change.
    """
    if template.first is not None and tokenizer.convert_tokens_to_ids(template.first) != tokenizer.bos_token_id:
        return  # the encoder refuses it
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    own = {BOS: tokenizer.bos_token, EOS: tokenizer.eos_token}
    for name in marker_names(template):
        actual = own.get(name, name)
        token_id = tokenizer.convert_tokens_to_ids(actual) if actual else None
        if token_id is None or token_id == tokenizer.unk_token_id or (token_id in added and added[token_id].special):
            continue
        tokenizer.add_special_tokens({"extra_special_tokens": [*extra_tokens(tokenizer), actual]})


def extra_tokens(tokenizer: Any) -> list[str]:
    """Return a tokenizer's special tokens without those that have a role."""
    known = getattr(tokenizer, "extra_special_tokens", None)
    return list(known.values() if isinstance(known, dict) else known or [])
