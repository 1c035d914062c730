"""A tokenizer in two modes: as the saved one reads a rendered text, and with every special token read as text.

Both are copies, so that nothing done here changes the user's tokenizer; they are parsed once and shared by all
encoders. What is tokenised with them is in `encoding`.
"""

import json
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer

from olivine.errors import RequestError

#: Unicode's White_Space, which a special token with `lstrip` or `rstrip` strips next to it.
_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000"
)


class TextTokenizer:
    """A `transformers` tokenizer, parsed for reading text.

    Args:
        tokenizer: a fast tokenizer, as all are from version 5 on.
        image_token_id: treated as special even if the tokenizer does not mark it so.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        self._json = tokenizer.backend_tokenizer.to_str()
        if not tokenizer.backend_tokenizer.get_added_tokens_decoder()[image_token_id].special:
            self._json = _with_special(self._json, image_token_id)
        self._added: dict[int, AddedToken] = self.saved.get_added_tokens_decoder()
        #: Ids of the special tokens.
        self.special = frozenset(id_ for id_, token in self._added.items() if token.special)

    @cached_property
    def saved(self) -> Tokenizer:
        """The tokenizer that recognises special tokens in text, as the saved one does."""
        return self._parsed()

    @property
    def text(self) -> Tokenizer:
        """The tokenizer that reads special tokens as text; parsed when first needed."""
        with _PARSING_TEXT:
            return self._text

    @cached_property
    def _text(self) -> Tokenizer:
        parsed = self._parsed()
        parsed.encode_special_tokens = True
        return parsed

    def _parsed(self) -> Tokenizer:
        parsed = Tokenizer.from_str(self._json)
        parsed.no_truncation()
        parsed.no_padding()
        return parsed

    def require_marker(self, name: str, token_id: int) -> None:
        """Check that the text of a marker is read as exactly its id, and that ordinary text cannot be taken for it.

        Raises:
            RequestError: it is not, or can.
        """
        read = [list(self.saved.encode(text, add_special_tokens=False).ids) for text in (name, f"x{name}x")]
        if read[0] != [token_id] or read[1].count(token_id) != 1:
            raise RequestError(
                f"the tokenizer reads {name!r} as the ids {read[0][:8]}, not as its id {token_id}: what would be "
                "trained on is not what the saved tokenizer writes. Add it to the tokenizer's special tokens."
            )
        if token_id not in self.special:
            raise RequestError(
                f"{name!r} is no special token of the tokenizer: text that spells it would be taken for it. Add it to "
                "the tokenizer's special tokens."
            )

    def swallows(self, token_id: int) -> tuple[bool, bool]:
        """Return whether a special token strips the white space before and after it."""
        token = self._added[token_id]
        return bool(token.lstrip), bool(token.rstrip)


_PARSED: "WeakKeyDictionary[Any, tuple[Any, TextTokenizer]]" = WeakKeyDictionary()
_PARSING, _PARSING_TEXT = Lock(), Lock()


def text_tokenizer(tokenizer: Any, image_token_id: int) -> TextTokenizer:
    """Return the parsed tokenizer, parsed again only if the tokenizer's tokens or rules have changed since."""
    key = (image_token_id, _state(tokenizer.backend_tokenizer))
    with _PARSING:
        known = _PARSED.get(tokenizer)
        if known is None or known[0] != key:
            known = (key, TextTokenizer(tokenizer, image_token_id))
            _PARSED[tokenizer] = known
    return known[1]


def strip_beside(text: str, *, behind: bool, before: bool) -> str:
    """Return text without the white space that a marker before it (`behind`) or after it (`before`) strips."""
    text = text.lstrip(_SPACE) if behind else text
    return text.rstrip(_SPACE) if before else text


def _state(backend: Any) -> tuple[Any, ...]:
    """Return all in-place changeable state that decides how a tokenizer reads; its vocabulary can only grow."""
    added = backend.get_added_tokens_decoder()
    tokens = frozenset((id_, t.content, t.special, t.lstrip, t.rstrip, t.normalized) for id_, t in added.items())
    rules = tuple(_as_text(part) for part in (backend.normalizer, backend.pre_tokenizer))
    return id(backend), backend.get_vocab_size(), tokens, rules


def _as_text(part: Any) -> str:
    return "" if part is None else part.__getstate__().decode()


def _with_special(tokenizer_json: str, token_id: int) -> str:
    """Mark an added token as special, so that text is not taken for it; some tokenizers do not mark it."""
    values = json.loads(tokenizer_json)
    for token in values["added_tokens"]:
        token["special"] = token["special"] or token["id"] == token_id
    return json.dumps(values)
