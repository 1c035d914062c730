"""One sample as the model sees it: every token, coloured by whether it is supervised.

For viewing only; checking a whole data set is in `check`.
"""

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from olivine.data.encoding import Example, TemplateEncoder
from olivine.data.item_error import ItemError
from olivine.data.json_items import Located, scan
from olivine.data.llava_json import parse_item
from olivine.errors import RequestError
from olivine.records import MarkRule

_SUPERVISED, _SEEN, _IMAGE = "bold green", "dim", "cyan"


def show(
    path: Path, requested: str, encoder: TemplateEncoder, turns: str, console: Console, *, marks: MarkRule = "front"
) -> None:
    """Print one item: supervised tokens green, all others dim, image tokens as one mark with their number.

    Raises:
        RequestError: no item has that id (or index, as `#N`), or `turns` is neither together nor independent.
        DataError: the file or the item is broken.
    """
    if turns not in ("together", "independent"):
        raise RequestError(f"--turns {turns!r}: expected together or independent.")
    found = _find(path, requested)
    if isinstance(found.value, ItemError):
        raise found.value
    sample = parse_item(found.value, found.index, marks=marks)
    example = encoder.example(sample, independent=turns == "independent")
    images = f"images {', '.join(map(repr, sample.images))}" if sample.images else f"image {sample.image!r}"
    console.print(f"item {found.index} (id {sample.id!r}), {images}", markup=False)
    for number, part in enumerate(render(example, encoder)):
        if len(example.parts) > 1:
            console.print(Text("shared by all:" if number == 0 else f"question {number}, on its own:", style="bold"))
        console.print(part)
    console.print(
        Text(f"{example.length} tokens, {example.labels} of them supervised ", style="bold")
        + Text("like this", style=_SUPERVISED)
    )


def render(example: Example, encoder: TemplateEncoder) -> list[Text]:
    """Return each part of an example as coloured text; control characters as escapes, newlines also break the line."""
    return [_render_part(part.ids, part.supervised, encoder) for part in example.parts]


def _render_part(ids: list[int], supervised: list[bool], encoder: TemplateEncoder) -> Text:
    text = Text()
    for (is_image, is_supervised), run in groupby(
        zip(ids, supervised, strict=True), key=lambda pair: (pair[0] == encoder.image_token_id, pair[1])
    ):
        tokens = [token for token, _ in run]
        if is_image:
            each = encoder.image_tokens
            text.append(f"[image: {each} tokens]" * (len(tokens) // each), style=_IMAGE)
            continue
        words = encoder.tokenizer.decode(tokens, skip_special_tokens=False)
        text.append(_visible(words), style=_SUPERVISED if is_supervised else _SEEN)
    return text


def _visible(text: str) -> str:
    """Return text that is safe for a terminal: a data set must not be able to move the cursor or change colours."""
    return "".join("⏎\n" if c == "\n" else c if c.isprintable() else repr(c)[1:-1] for c in text)


def _find(path: Path, requested: str) -> Located:
    position = int(requested[1:]) if requested.startswith("#") and requested[1:].isdecimal() else None
    count = 0
    for found in scan(path):
        count = found.index + 1
        if found.index == position or (
            position is None and isinstance(found.value, dict) and str(found.value.get("id")) == requested
        ):
            return found
    if position is not None:
        raise RequestError(f"{path}: no item {requested}; it has {count:,}.")
    raise RequestError(f"{path}: no item with id {requested!r}. Give an id, or its index as #N.")
