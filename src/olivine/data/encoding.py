"""Rendered pieces to token ids and label flags, without ever re-tokenising to count.

Special tokens come from markers alone: text that spells one is tokenised as text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding, Tokenizer

from olivine.data.llava_json import ItemError
from olivine.data.template import ChatTemplate, Piece, PieceKind, independent_segments
from olivine.errors import DataError, RequestError, RunError
from olivine.records import Conversation, Role, Sample, Turn


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and, for each, whether it is supervised."""

    ids: list[int]
    supervised: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised sample: `parts[0]` is seen by all, each further part sees `parts[0]` and itself.

    A conversation taken as one has a single part.
    """

    sample: Sample
    parts: tuple[Tokens, ...]

    @property
    def length(self) -> int:
        """Tokens of all parts, image tokens included."""
        return sum(len(part) for part in self.parts)

    @property
    def labels(self) -> int:
        """Supervised tokens of all parts."""
        return sum(sum(part.supervised) for part in self.parts)


class TemplateEncoder:
    """Tokenises conversations in one template with one tokenizer.

    Args:
        template: how conversations are written.
        tokenizer: a `transformers` tokenizer (the fast kind, which all are from version 5 on).
        image_token_id: the placeholder that stands for one patch of the image.
        image_tokens: how many of them an image takes.

    Raises:
        RequestError: the tokenizer lacks one of the template's markers.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Any, *, image_token_id: int, image_tokens: int) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self._image_ids = [image_token_id] * image_tokens
        # A copy, so that reading special tokens as text does not change the user's tokenizer.
        self._text = Tokenizer.from_str(_with_special(tokenizer.backend_tokenizer.to_str(), image_token_id))
        self._text.encode_special_tokens = True
        self._text.no_truncation()
        self._text.no_padding()
        self._markers = self._resolve_markers()
        self._prefix_space_first_only = self._adds_prefix_space_to_first_text_only()

    @property
    def image_tokens(self) -> int:
        """How many tokens an image takes."""
        return len(self._image_ids)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token that ends a reply: the template's own, and the tokenizer's end of sequence."""
        stop = self._markers.get(self.template.stop)
        ids = {stop if stop is not None else self._continuation_ids(self.template.stop)[-1]}
        if self.tokenizer.eos_token_id is not None:
            ids.add(int(self.tokenizer.eos_token_id))
        return tuple(sorted(ids))

    def prompt(self, text: str, image: bool) -> tuple[list[int], list[int]]:
        """A question up to where the reply begins, as (shared prefix ids, continuation ids)."""
        conversation = (Turn(Role.USER, text),)
        prefix, continuation = self.encode_segments(independent_segments(self.template, conversation, image))
        return prefix.ids, continuation.ids

    def example(self, sample: Sample, *, independent: bool = False) -> Example:
        """Tokenise a sample, as one conversation or as independent questions behind a shared prefix.

        Raises:
            ItemError: its conversation does not fit the template.
        """
        image = sample.image is not None
        try:
            if independent and len(sample.conversation) > 2:
                parts = independent_segments(self.template, sample.conversation, image)
                return Example(sample, self.encode_segments(parts))
            return Example(sample, (self.conversation(sample.conversation, image),))
        except DataError as error:
            raise ItemError("not the template's", f"item with id {sample.id!r}: {error}") from None

    def conversation(self, conversation: Conversation, image: bool) -> Tokens:
        """Tokenise a whole conversation."""
        return self._encode(self.template.render(conversation, image))

    def encode_segments(self, parts: Sequence[Sequence[Piece]]) -> tuple[Tokens, ...]:
        """Tokenise a shared prefix and what continues it; every boundary must lie beside a marker or a newline."""
        shared = parts[0]
        return (self._encode(shared), *(self._encode(part, behind=shared) for part in parts[1:]))

    def _encode(self, pieces: Sequence[Piece], *, behind: Sequence[Piece] = ()) -> Tokens:
        """Tokenise pieces that stand behind others."""
        # The tokenizer adds the beginning of sequence itself: text right behind it opens the text for it.
        opens = all(self._is_beginning(piece) for piece in behind)
        ids: list[int] = []
        supervised: list[bool] = []
        runs = _runs_of_text(pieces)
        texts = ["".join(piece.text for piece in run) for run in runs if run[0].kind is PieceKind.TEXT]
        encodings = iter(self._text.encode_batch(texts, add_special_tokens=False))
        for index, run in enumerate(runs):
            if run[0].kind is PieceKind.TEXT:
                first = opens and all(self._is_beginning(earlier[0]) for earlier in runs[:index])
                tokens = self._label(run, next(encodings), first=first)
                ids += tokens.ids
                supervised += tokens.supervised
            else:
                new = self._image_ids if run[0].kind is PieceKind.IMAGE else [self._markers[run[0].text]]
                ids += new
                supervised += [run[0].supervised] * len(new)
        return Tokens(ids, supervised)

    def _is_beginning(self, piece: Piece) -> bool:
        return piece.kind is PieceKind.MARKER and self._markers[piece.text] == self.tokenizer.bos_token_id

    def _label(self, run: Sequence[Piece], whole: Encoding, *, first: bool) -> Tokens:
        """Label a run of text by the pieces it was joined from; `whole` is the run tokenised in one go.

        Where a token straddles the border of a supervised piece, the text is tokenised apart at that border: the
        prompt ends there at inference too.
        """
        merged = _merge_equal(run)
        if len(merged) == 1 and (first or not self._prefix_space_first_only):
            return Tokens(list(whole.ids), [merged[0].supervised] * len(whole.ids))
        if first or not self._prefix_space_first_only:
            labelled = _label_by_offsets(merged, whole)
            if labelled is not None:
                return labelled
        ids: list[int] = []
        supervised: list[bool] = []
        for index, piece in enumerate(merged):
            begins = index == 0 and (first or not self._prefix_space_first_only)
            new = self._plain_ids(piece.text) if begins else self._continuation_ids(piece.text)
            ids += new
            supervised += [piece.supervised] * len(new)
        return Tokens(ids, supervised)

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def _continuation_ids(self, text: str) -> list[int]:
        """Tokenise `text` as it stands inside a longer one: without the prefix space some tokenizers add."""
        if not text:
            return []
        for context in (":", "\n", ".", "a"):
            encoding = self._text.encode(context + text, add_special_tokens=False)
            starts = [i for i, (start, end) in enumerate(encoding.offsets) if start >= 1 and end > start]
            cut = starts[0] if starts else len(encoding.ids)
            if all(end <= 1 for _, end in encoding.offsets[:cut]):
                return list(encoding.ids[cut:])
        raise RunError(
            f"the tokenizer joins {text[:20]!r} with whatever stands before it; no label border can be drawn."
        )

    def _resolve_markers(self) -> dict[str, int]:
        user, reply = Turn(Role.USER, ""), Turn(Role.ASSISTANT, "")
        rendered = self.template.render((user, reply), True)
        ids = {}
        for name in sorted({piece.text for piece in rendered if piece.kind is PieceKind.MARKER}):
            # The template's own name for the beginning of a sequence stands for whatever the tokenizer calls it.
            actual = self.tokenizer.bos_token if name == "<bos>" else name
            token_id = self.tokenizer.convert_tokens_to_ids(actual) if actual else None
            if token_id is None or (token_id == self.tokenizer.unk_token_id and actual != self.tokenizer.unk_token):
                raise RequestError(
                    f"template {self.template.name!r} needs the special token {name!r}, which the tokenizer "
                    f"({type(self.tokenizer).__name__}) does not have. Set model.language.template to another one."
                )
            ids[name] = int(token_id)
        return ids

    def _adds_prefix_space_to_first_text_only(self) -> bool:
        """Whether text behind a special token is tokenised unlike text at the very start (Llama, not legacy)."""
        marker = next(iter(self._markers))
        name = self.tokenizer.convert_ids_to_tokens(self._markers[marker])
        after = self.tokenizer.backend_tokenizer.encode(name + "a", add_special_tokens=False).ids[1:]
        return list(after) != self._plain_ids("a")


def _with_special(tokenizer_json: str, token_id: int) -> str:
    """Mark an added token as special, which text that spells it is then not taken for; some tokenizers forget to."""
    values = json.loads(tokenizer_json)
    forgotten = [token for token in values["added_tokens"] if token["id"] == token_id and not token["special"]]
    for token in forgotten:
        token["special"] = True
    return json.dumps(values) if forgotten else tokenizer_json


def _runs_of_text(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbouring text pieces together; markers and images alone; empty text left out."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if piece.kind is PieceKind.TEXT and not piece.text:
            continue
        if piece.kind is PieceKind.TEXT and runs and runs[-1][0].kind is PieceKind.TEXT:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


def _merge_equal(run: Sequence[Piece]) -> list[Piece]:
    """Join neighbours that are labelled alike."""
    merged: list[Piece] = []
    for piece in run:
        if merged and merged[-1].supervised == piece.supervised:
            merged[-1] = Piece(merged[-1].text + piece.text, supervised=piece.supervised)
        else:
            merged.append(piece)
    return merged


def _label_by_offsets(run: Sequence[Piece], whole: Encoding) -> Tokens | None:
    """Labels from character offsets, or None where a token straddles a border."""
    borders = []
    end = 0
    for piece in run:
        end += len(piece.text)
        borders.append(end)
    supervised = []
    index = 0
    for start, stop in whole.offsets:
        while index < len(run) - 1 and start >= borders[index]:
            index += 1
        if stop > borders[index]:
            return None
        supervised.append(run[index].supervised)
    return Tokens(list(whole.ids), supervised)
