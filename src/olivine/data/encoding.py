"""Rendered pieces to token ids and label flags, without ever re-tokenising to count.

Special tokens come from markers alone: text that spells one is tokenised as text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tokenizers import Encoding

from olivine.data.llava_json import ItemError
from olivine.data.pieces import BOS, EOS, ChatTemplate, Piece, PieceKind
from olivine.data.template import independent_segments, marker_names
from olivine.data.text_tokenizer import strip_beside, text_tokenizer
from olivine.errors import DataError, RequestError, RunError
from olivine.records import Conversation, Role, Sample, Turn

#: Looked up once: members of an enumeration are found slowly, and this is asked of every piece.
_TEXT, _IMAGE = PieceKind.TEXT, PieceKind.IMAGE


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
        RequestError: the tokenizer lacks one of the template's markers, or does not read it as one special token.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Any, *, image_token_id: int, image_tokens: int) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id
        self._image_ids = [image_token_id] * image_tokens
        self._image_name: str = tokenizer.convert_ids_to_tokens(image_token_id)
        self._parsed = text_tokenizer(tokenizer, image_token_id)
        self._bos: int | None = tokenizer.bos_token_id
        # transformers' processors have the tokenizer add it, where the saved template leaves it out.
        self._adds_bos = self._bos is not None and list(tokenizer("a").input_ids[:1]) == [self._bos]
        self._markers: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._changes_pieces = self._bos is None or not template.begins
        self._swallows: dict[int, tuple[bool, bool]] = {}
        self._resolve_markers()
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

    def prompt(self, text: str | Turn, image: bool, system: str | None = None) -> tuple[list[int], list[int]]:
        """Return a question up to where the reply begins, as (shared prefix ids, continuation ids).

        Without an image the prefix is empty where the template begins with text. A user's turn in place of the text
        may have images where they stand; the prefix ends with the last of them.

        Raises:
            DataError: the template has no place for the system's text, or changes a turn.
        """
        opening = () if system is None else (Turn(Role.SYSTEM, system),)
        conversation = (*opening, Turn(Role.USER, text) if isinstance(text, str) else text)
        prefix, continuation = self.encode_segments(independent_segments(self.template, conversation, image))
        return prefix.ids, continuation.ids

    def example(self, sample: Sample, *, independent: bool = False) -> Example:
        """Tokenise a sample, as one conversation or as independent questions behind a shared prefix.

        Raises:
            ItemError: its conversation does not fit the template.
        """
        image = sample.image_first
        try:
            if independent and sum(turn.role is Role.ASSISTANT for turn in sample.conversation) > 1:
                parts = independent_segments(self.template, sample.conversation, image)
                return Example(sample, self.encode_segments(parts))
            return Example(sample, (self.conversation(sample.conversation, image),))
        except DataError as error:
            raise ItemError("not the template's", f"item with id {sample.id!r}: {error}") from None

    def conversation(self, conversation: Conversation, image: bool) -> Tokens:
        """Tokenise a whole conversation."""
        return self._encode(self.template.render(conversation, image))

    def encode_segments(self, parts: Sequence[Sequence[Piece]]) -> tuple[Tokens, ...]:
        """Tokenise a shared prefix and what continues it; every boundary must be next to a marker or a newline."""
        shared = parts[0]
        return (self._encode(shared), *(self._encode(part, behind=shared) for part in parts[1:]))

    def _encode(self, pieces: Sequence[Piece], *, behind: Sequence[Piece] = ()) -> Tokens:
        """Tokenise pieces that follow others."""
        if self._changes_pieces:
            pieces, behind = self._present(pieces), self._present(behind)
        tokens = self._encode_together(pieces, behind)
        return tokens if tokens is not None else self._encode_apart(pieces, behind)

    def _present(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Pieces without those that this tokenizer has nothing for; text beside text stays apart."""
        present = []
        for piece in pieces:
            if piece.kind is PieceKind.BEGINNING:
                if self._adds_bos:
                    present.append(Piece(BOS, PieceKind.MARKER))
            elif (piece.text or piece.kind is not PieceKind.TEXT) and not (
                self._bos is None and piece.kind is PieceKind.MARKER and piece.text == BOS
            ):
                present.append(piece)
        return present

    def _encode_together(self, pieces: Sequence[Piece], behind: Sequence[Piece]) -> Tokens | None:
        """Tokenise the whole text in one go, as the saved tokenizer does: the quick way, and nearly always right.

        Returns None where it is not: a text spells a special token, or a token straddles the border of a supervised
        piece.
        """
        if behind and behind[-1].kind is PieceKind.TEXT:
            return None
        # One marker before them has every text tokenised as it is behind a marker; its own token goes again.
        lead = [] if self._opens_text(behind) else [behind[-1]]
        # The beginning is added, not read: text behind it opens the text.
        opening = [self._token_of(piece) for piece in pieces[:1] if not behind and self._is_added(piece)]
        names, expected, borders, flags = [], [], [], []
        end = 0
        flag = None
        for piece in chain(lead, pieces[len(opening) :]):
            name = piece.text
            if piece.kind is not _TEXT:
                expected.append(self._token_of(piece))
                name = self._name_of(piece)
            if piece.supervised is not flag and (end or not lead):
                flag = piece.supervised
                borders.append(end)
                flags.append(flag)
            names.append(name)
            end += len(name)
        whole = self._parsed.saved.encode("".join(names), add_special_tokens=False)
        ids = whole.ids
        special = self._parsed.special
        if [token for token in ids if token in special] != expected:
            return None
        starts = self._starts_of(whole, borders, end)
        if starts is None:
            return None
        supervised: list[bool] = []
        for index, flag in enumerate(flags):
            stop = starts[index + 1] if index + 1 < len(starts) else len(ids)
            supervised += [flag] * (stop - starts[index])
        return self._with_images(opening, ids[len(lead) :], supervised)

    def _starts_of(self, whole: Encoding, borders: Sequence[int], end: int) -> list[int] | None:
        """Return the first token behind each character border, or None where a token straddles one."""
        count = len(whole.ids)
        starts = []
        for border in borders:
            index = whole.char_to_token(border) if border < end else count
            if index is None:
                return None
            chars = whole.token_to_chars(index) if index < count else None
            if chars is not None and chars[0] < border:
                before, behind = self._swallows.get(whole.ids[index], (False, False))
                if before is behind:
                    return None
                index += behind  # a marker with the white space behind it, which it took away
            # A space put before the text is a token without characters of its own.
            while index > 0 and (chars := whole.token_to_chars(index - 1)) is not None and chars[0] >= border:
                index -= 1
            starts.append(index)
        return starts

    def _with_images(self, opening: list[int], ids: list[int], supervised: list[bool]) -> Tokens:
        """Put the beginning in front, and every image's tokens in the place of its one placeholder."""
        if self.image_token_id in ids and len(self._image_ids) != 1:
            made, flags = list(opening), [False] * len(opening)
            for token, flag in zip(ids, supervised, strict=True):
                new = self._image_ids if token == self.image_token_id else [token]
                made += new
                flags += [flag] * len(new)
            return Tokens(made, flags)
        return Tokens(opening + ids, [False] * len(opening) + supervised)

    def _encode_apart(self, pieces: Sequence[Piece], behind: Sequence[Piece]) -> Tokens:
        """Tokenise every run of text between markers separately, special tokens in it as text."""
        opens = self._opens_text(behind)
        ids: list[int] = []
        supervised: list[bool] = []
        runs = _runs_of_text(self._without_swallowed(pieces, behind))
        texts = ["".join(piece.text for piece in run) for run in runs if run[0].kind is PieceKind.TEXT]
        encodings = iter(self._parsed.text.encode_batch(texts, add_special_tokens=False))
        for index, run in enumerate(runs):
            if run[0].kind is PieceKind.TEXT:
                first = opens and self._opens_text([earlier[0] for earlier in runs[:index]])
                tokens = self._label(run, next(encodings), first=first)
                ids += tokens.ids
                supervised += tokens.supervised
            else:
                new = self._image_ids if run[0].kind is PieceKind.IMAGE else [self._token_of(run[0])]
                ids += new
                supervised += [run[0].supervised] * len(new)
        return Tokens(ids, supervised)

    def _opens_text(self, behind: Sequence[Piece]) -> bool:
        """Whether text behind these pieces opens the text."""
        return all(self._is_added(piece) for piece in behind)

    def _is_added(self, piece: Piece) -> bool:
        """Whether a piece is the beginning of sequence which the tokenizer adds itself."""
        return self._adds_bos and piece.kind is PieceKind.MARKER and self._token_of(piece) == self._bos

    def _without_swallowed(self, pieces: Sequence[Piece], behind: Sequence[Piece]) -> Sequence[Piece]:
        """Pieces without the white space that a marker beside it takes away, as Phi-3's do."""
        if not any(left or right for left, right in self._swallows.values()):
            return pieces
        kept: list[Piece] = []
        open_right = bool(behind) and behind[-1].kind is not PieceKind.TEXT and self._swallowed_by(behind[-1])[1]
        for piece in pieces:
            if piece.kind is PieceKind.TEXT:
                text = strip_beside(piece.text, behind=open_right, before=False)
                open_right = open_right and not text
                kept.append(Piece(text, supervised=piece.supervised))
                continue
            if self._swallowed_by(piece)[0]:
                for index in range(len(kept) - 1, -1, -1):
                    if kept[index].kind is not PieceKind.TEXT:
                        break
                    text = strip_beside(kept[index].text, behind=False, before=True)
                    kept[index] = Piece(text, supervised=kept[index].supervised)
                    if text:
                        break
            open_right = self._swallowed_by(piece)[1]
            kept.append(piece)
        return kept

    def _swallowed_by(self, piece: Piece) -> tuple[bool, bool]:
        return self._swallows.get(self._token_of(piece), (False, False))

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
        return list(self._parsed.text.encode(text, add_special_tokens=False).ids)

    def _continuation_ids(self, text: str) -> list[int]:
        """Tokenise `text` as inside a longer one: without the prefix space some tokenizers add."""
        if not text:
            return []
        for context in (":", "\n", ".", "a"):
            encoding = self._parsed.text.encode(context + text, add_special_tokens=False)
            starts = [i for i, (start, end) in enumerate(encoding.offsets) if start >= 1 and end > start]
            cut = starts[0] if starts else len(encoding.ids)
            if all(end <= 1 for _, end in encoding.offsets[:cut]):
                return list(encoding.ids[cut:])
        raise RunError(f"the tokenizer joins {text[:20]!r} with the text before it; no label border can be drawn.")

    def _token_of(self, piece: Piece) -> int:
        """Return the id of a marker or of the image's placeholder."""
        if piece.kind is _IMAGE:
            return self.image_token_id
        known = self._markers.get(piece.text)
        return self._resolve(piece.text) if known is None else known

    def _name_of(self, piece: Piece) -> str:
        if piece.kind is _IMAGE:
            return self._image_name
        return self._names[piece.text]

    def _resolve_markers(self) -> None:
        """Look up what a conversation needs.

        Raises:
            RequestError: as the class.
        """
        first = self.template.first
        if first is not None and self.tokenizer.convert_tokens_to_ids(first) != self._bos:
            raise RequestError(
                f"template {self.template.name!r} begins with {first!r}, but this tokenizer "
                f"({type(self.tokenizer).__name__}) begins with {self.tokenizer.bos_token!r}. Set "
                "model.language.template to another one."
            )
        for name in marker_names(self.template):
            if name != BOS or self._bos is not None:
                self._resolve(name)
        if self._adds_bos:
            self._resolve(BOS)

    def _resolve(self, name: str) -> int:
        actual = self._actual(name)
        token_id = self.tokenizer.convert_tokens_to_ids(actual) if actual else None
        unknown = token_id == self.tokenizer.unk_token_id and actual != self.tokenizer.unk_token
        if actual is None or token_id is None or unknown:
            raise RequestError(
                f"template {self.template.name!r} needs the special token {name!r}, which the tokenizer "
                f"({type(self.tokenizer).__name__}) does not have. Set model.language.template to another one."
            )
        try:
            self._parsed.require_marker(actual, int(token_id))
        except RequestError as error:
            raise RequestError(f"template {self.template.name!r}: {error}") from None
        self._swallows[int(token_id)] = self._parsed.swallows(int(token_id))
        self._markers[name], self._names[name] = int(token_id), actual
        return int(token_id)

    def _actual(self, name: str) -> str | None:
        """Return the tokenizer's own name for a marker."""
        named: str | None = {BOS: self.tokenizer.bos_token, EOS: self.tokenizer.eos_token}.get(name, name)
        return named

    def _adds_prefix_space_to_first_text_only(self) -> bool:
        """Whether text behind a special token is tokenised unlike text at the very start (Llama, not legacy)."""
        alone, behind = (
            self._parsed.saved.encode(text, add_special_tokens=False).ids for text in ("a", self._image_name + "a")
        )
        return bool(behind[1:] != alone)


def _runs_of_text(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbouring text pieces together; markers and images alone; without empty text."""
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
