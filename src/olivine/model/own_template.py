"""`template: chat`: a tokenizer's own Jinja chat template, cut at the contents of the turns.

It is rendered by transformers' sandbox only. Nothing is guessed: contents are located by rendering placeholders, and
every conversation is compared with the template's own rendering: rendered again, or, where `template_trace` followed
the template on contents that it cannot tell from these, as it was followed. `own_jinja` saves the template with
supervised parts marked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any

from jinja2 import TemplateError

from olivine.data.image_marks import pieces_of
from olivine.data.pieces import BEGINNING, IMAGE, ChatTemplate, Piece, marker
from olivine.data.template import OWN, TEMPLATES
from olivine.errors import DataError, RequestError
from olivine.model.own_jinja import saved_jinja, unwrapped
from olivine.model.template_trace import Trace, Untraceable, trace
from olivine.records import Conversation, Role, Turn

#: Placeholder for the contents of turn N while the template is cut: private-use characters, which no template writes.
_MARK = "\ue000{}\ue001"
_IMAGE_LINE = IMAGE.text + "\n"
#: Placeholder for an image inside a turn's text, which may itself spell `<image>`.
_IMAGE_INSIDE = "\ue002"
#: Switches that published templates have, tried in turn until the prompt equals what precedes a reply: thinking models
#: answer without thinking, and the date is Llama 3's fallback.
_SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"enable_thinking": False},
    {"date_string": "26 Jul 2024"},
    {"enable_thinking": False, "date_string": "26 Jul 2024"},
)
_WITHOUT_DATE = (
    "{% macro strftime_now(format) %}"
    "{{ raise_exception('it writes the date of today, and no two days would train alike') }}{% endmacro %}\n"
)
#: For one sequence of roles; contents that answer a template's questions in yet another way are rendered.
_MOST_TRACES = 8
_U, _A = Role.USER, Role.ASSISTANT


class _Unfit(Exception):  # noqa: N818
    """A template does something to a conversation that cannot be trained on."""


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A template's text around the contents of turns with certain roles: one more part than turns."""

    parts: tuple[str, ...]
    pieces: tuple[tuple[Piece, ...], ...]


class OwnTemplate:
    """Renders conversations as a tokenizer's own chat template does.

    Raises:
        RequestError: it has none, or one whose supervised part cannot be determined.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.source = _source_of(tokenizer)
        self._skeletons: dict[tuple[Role, ...], _Skeleton] = {}
        self._traces: dict[tuple[Role, ...], list[Trace | None]] = {}
        self.settings: dict[str, Any] = {}
        self.end = ""
        reasons = []
        for settings in _SETTINGS:
            self.settings, self._skeletons = settings, {}
            try:
                self.end = self._find_end()
            except _Unfit as error:
                reasons.append(str(error))
                continue
            return
        raise RequestError(
            f"template {OWN!r}: the tokenizer's own chat template {reasons[0]}. Set model.language.template to another "
            "one."
        )

    def __call__(self, conversation: Conversation, image: bool) -> list[Piece]:
        """Return the pieces of a conversation.

        White space that the template trims from a turn's ends is also missing from the pieces.

        Raises:
            DataError: the template changes a turn, or has no place for one.
        """
        contents = _contents(conversation, image)
        try:
            roles = tuple([turn.role for turn in conversation])
            skeleton = self._skeleton(roles)
            kept = self._as_written(roles, contents, skeleton)
        except _Unfit as error:
            raise DataError(f"the tokenizer's own chat template {error}.") from None
        pieces = list(skeleton.pieces[0])
        for turn, text, after in zip(conversation, kept, skeleton.pieces[1:], strict=True):
            if turn.role is _A:
                pieces.append(Piece(text, supervised=True))
            elif turn.images:
                pieces += pieces_of(_with_images(text))
            elif image and text.startswith(IMAGE.text) and IMAGE not in pieces:
                pieces += [IMAGE, Piece(text.removeprefix(IMAGE.text))]
            else:
                pieces.append(Piece(text))
            pieces += after
        return pieces

    def require_alike(self, jinja: str) -> None:
        """Check that another template writes the same as this one, except for the beginning of sequence.

        Raises:
            RequestError: it does not.
        """
        bos = self._tokenizer.bos_token or ""
        for roles in ((_U,), (_U, _A), (_U, _A, _U)):
            prompt = roles[-1] is _U
            texts = [f"{role} {number}\n\nand more" for number, role in enumerate(roles)]
            ours, theirs = (self._render(roles, texts, prompt=prompt, source=source) for source in (self.source, jinja))
            if ours.removeprefix(bos) != theirs.removeprefix(bos):
                raise RequestError(
                    f"template {OWN!r}: the tokenizer's own chat template cannot be saved: with what is supervised "
                    f"marked it writes {theirs[:80]!r} for {ours[:80]!r}. Set model.language.template to another one."
                )

    @property
    def stop(self) -> str:
        """The special token that ends a reply, or text if there is none."""
        found = self._special.findall(self.end)
        return found[0] if found else self.end

    def _find_end(self) -> str:
        """Return what ends a reply, by comparing a reply at the end with one that is followed by a user's turn."""
        last = self._cut((_U, _A), prompt=False)
        followed = self._cut((_U, _A, _U), prompt=True)
        asked = self._cut((_U,), prompt=True)
        if asked != last[:2]:
            raise _Unfit(
                f"prompts with {asked[1]!r}, but writes {last[1]!r} between a question and its reply: a model trained "
                "on the one would be asked with the other"
            )
        same = (
            one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(last[2], followed[2], strict=False))
        )
        common = "".join(same)
        if not common:
            raise _Unfit(f"writes nothing to end a reply (but {last[2]!r} or {followed[2]!r})")
        special = self._special.search(common)
        return common[: special.end()] if special else common

    def _skeleton(self, roles: tuple[Role, ...]) -> _Skeleton:
        """Return the template's text for turns with these roles, checked once."""
        known = self._skeletons.get(roles)
        if known is None:
            parts = self._cut(roles, prompt=roles[-1] is not _A)
            if roles[-1] is _A and parts[:-1] != self._cut(roles[:-1], prompt=True):
                raise _Unfit("prompts with another text than it writes before the last reply")
            bos = self._tokenizer.bos_token
            opening = () if bos is not None and parts[0].startswith(bos) else (BEGINNING,)
            pieces = [(*opening, *self._split(parts[0]))]
            for number, (role, part) in enumerate(zip(roles, parts[1:], strict=True), start=1):
                ended = role is _A
                if ended and not part.startswith(self.end):
                    raise _Unfit(f"does not end turn {number} with {self.end!r}, but with {part!r}")
                end = self._split(self.end, supervised=True) if ended else []
                pieces.append((*end, *self._split(part[len(self.end) :] if ended else part)))
            known = self._skeletons[roles] = _Skeleton(parts, tuple(pieces))
        return known

    def _cut(self, roles: Sequence[Role], *, prompt: bool) -> tuple[str, ...]:
        """Return what the template writes around the contents of turns."""
        marks = [_MARK.format(number) for number in range(len(roles))]
        rest = self._render(roles, marks, prompt=prompt)
        parts = []
        for number, mark in enumerate(marks):
            before, found, after = rest.partition(mark)
            if not found or mark in after:
                times = "not, or out of order" if not found else "twice"
                raise _Unfit(f"writes turn {number + 1} ({roles[number].value}) {times}")
            parts.append(before)
            rest = after
        return (*parts, rest)

    def _render(
        self, roles: Sequence[Role], contents: Sequence[str], *, prompt: bool, source: str | None = None
    ) -> str:
        messages = [{"role": role.value, "content": text} for role, text in zip(roles, contents, strict=True)]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=_WITHOUT_DATE + (source or self.source),
                tokenize=False,
                add_generation_prompt=prompt,
                **self.settings,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise _Unfit(f"refuses a conversation of {', '.join(roles)}: {error}") from None
        return text

    def _as_written(self, roles: tuple[Role, ...], contents: Sequence[str], skeleton: _Skeleton) -> Sequence[str]:
        """Return the contents as the template writes them, by what it did to such contents before where that tells."""
        traces = self._traces.setdefault(roles, [])
        for known in traces:
            kept = None if known is None else known.contents(contents)
            if kept is not None:
                return kept
        rendered = self._as_rendered(roles, contents, skeleton)
        if len(traces) < _MOST_TRACES:
            traces.append(self._trace(roles, contents, skeleton, rendered))
        return rendered

    def _trace(
        self, roles: Sequence[Role], contents: Sequence[str], skeleton: _Skeleton, rendered: Sequence[str]
    ) -> Trace | None:
        """Return what the template does to such contents, None where it cannot be followed or wrote otherwise."""
        variables = {**self._tokenizer.special_tokens_map, **self.settings}
        try:
            found = trace(
                self.source,
                [role.value for role in roles],
                contents,
                tools=None,
                documents=None,
                add_generation_prompt=roles[-1] is not _A,
                **variables,
            )
        except Untraceable:
            return None
        return found if found.parts == skeleton.parts and found.contents(contents) == list(rendered) else None

    def _as_rendered(self, roles: Sequence[Role], contents: Sequence[str], skeleton: _Skeleton) -> Sequence[str]:
        """Return the contents as the template renders them: unchanged, or stripped of surrounding whitespace."""
        rendered = self._render(roles, contents, prompt=roles[-1] is not _A)
        parts = skeleton.parts
        joined = parts[0] + "".join(text + part for text, part in zip(contents, parts[1:], strict=True))
        if rendered == joined:
            return contents
        at = len(parts[0])
        if not rendered.startswith(parts[0]):
            raise _Unfit("changes what stands before turn 1")
        kept = []
        for number, (text, part) in enumerate(zip(contents, parts[1:], strict=True), start=1):
            last = number == len(contents)
            found = next((c for c in trimmed(text) if _stands(rendered, c + part, at, last=last)), None)
            if found is None:
                raise _Unfit(f"changes turn {number} ({roles[number - 1].value}): it writes {rendered[at : at + 60]!r}")
            kept.append(found)
            at += len(found) + len(part)
        return kept

    def _split(self, text: str, *, supervised: bool = False) -> list[Piece]:
        """Return template text as markers and the text between them."""
        pieces = []
        at = 0
        for match in self._special.finditer(text):
            pieces += [Piece(text[at : match.start()], supervised=supervised), marker(match[0], supervised=supervised)]
            at = match.end()
        return [piece for piece in (*pieces, Piece(text[at:], supervised=supervised)) if piece.text]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Finds the tokenizer's special tokens, the longest first, as tokenizers do."""
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        names = sorted((t.content for t in added if t.special and t.content != IMAGE.text), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")


def own_template(tokenizer: Any) -> ChatTemplate:
    """Return a tokenizer's own chat template, or the named one that Olivine saved there.

    Raises:
        RequestError: it has none, or one whose supervised part cannot be determined.
    """
    source = _source_of(tokenizer)
    named = [template for template in TEMPLATES.values() if source.removeprefix("{{ bos_token }}") == template.jinja]
    if named:
        return named[0]
    own = OwnTemplate(tokenizer)
    adds_bos = tokenizer.bos_token_id is not None and list(tokenizer("a").input_ids[:1]) == [tokenizer.bos_token_id]
    jinja = saved_jinja(own.source, own.settings, own.end, drop_bos=adds_bos)
    own.require_alike(jinja)
    return ChatTemplate(OWN, own, own.stop, jinja, begins=False)


def trimmed(text: str) -> tuple[str, ...]:
    """Return a turn's text and its variants with trimmed ends, as templates write them."""
    return text, text.strip(), text.lstrip(), text.rstrip(), text.lstrip("\n"), text.strip("\n")


def _stands(rendered: str, text: str, at: int, *, last: bool) -> bool:
    return rendered[at:] == text if last else rendered.startswith(text, at)


def _contents(conversation: Conversation, image: bool) -> list[str]:
    """Return every turn's text, with the image's mark first in the first user turn, or marks at their positions."""
    contents = [_with_image_marks(turn) if turn.images else turn.text for turn in conversation]
    if image:
        first = next(index for index, turn in enumerate(conversation) if turn.role is _U)
        contents[first] = _IMAGE_LINE + contents[first]
    return contents


def _with_image_marks(turn: Turn) -> str:
    if _IMAGE_INSIDE in turn.text:
        raise DataError("a text beside images has U+E002, which stands for an image while a chat template is read.")
    parts = (piece.text if piece is not IMAGE else _IMAGE_INSIDE for piece in pieces_of(turn))
    return "".join(parts)


def _with_images(rendered: str) -> Turn:
    """Return a user's turn from its text as the template writes it."""
    parts = rendered.split(_IMAGE_INSIDE)
    return Turn(_U, "".join(parts), tuple(accumulate(len(part) for part in parts[:-1])))


def _source_of(tokenizer: Any) -> str:
    try:
        source = tokenizer.get_chat_template()
    except ValueError:
        raise RequestError(
            f"template {OWN!r}: the tokenizer ({type(tokenizer).__name__}) has no chat template of its own. Set "
            "model.language.template to one of " + ", ".join(TEMPLATES) + "."
        ) from None
    return unwrapped(source)
