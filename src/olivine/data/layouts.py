"""The layouts that conversations are published in, converted to one: turns of role and text, and images.

Supported are LLaVA's and ShareGPT's `conversations` (`from`, `value`), OpenAI's and TRL's `messages` (`role`,
`content`, as text or as parts), and images by path in `image`, in `images` or in parts. Others are refused by name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from olivine.data.image_marks import IMAGE_MARK
from olivine.data.item_error import ItemError, shortened

#: The keys of an item that are read; others are counted by name, or refused if ignoring them would change training.
KNOWN_KEYS = frozenset({"id", "image", "images", "conversations", "messages"})
_KNOWN_TURN_KEYS = frozenset({"from", "value", "role", "content"})
#: Inputs that are not read: training would be blind to them.
_UNREAD_INPUTS = (
    *("video", "videos", "audio", "audios", "speech", "point_cloud"),
    *("image_path", "image_paths", "image_file", "image_url", "image_urls", "img", "imgs", "picture", "pictures"),
)
#: What precedes the conversation and would change its meaning.
_INSTRUCTIONS = ("system", "system_prompt", "tools")
#: Weights of single turns: ignoring one would train on a turn that is not meant to be trained on.
_TURN_WEIGHTS = ("weight", "loss", "loss_weight", "train")
#: Layouts without turns, recognised by their keys.
_OTHER_LAYOUTS = (
    ({"instruction", "output"}, "Alpaca's (instruction, output)"),
    ({"query", "response"}, "query and response"),
    ({"prompt", "chosen"}, "preference pairs (prompt, chosen, rejected)"),
    ({"question", "answer"}, "question and answer"),
    ({"question", "answers"}, "VQA's (question, answers)"),
    ({"caption"}, "image and caption"),
    ({"captions"}, "image and captions"),
    ({"text"}, "plain text"),
)
_EXPECTED = "expected conversations: [{from: human, value: ...}, {from: gpt, value: ...}]"


def raw_turns(item: Mapping[str, Any], name: str) -> list[Any]:
    """Return an item's list of turns, unchanged.

    Raises:
        ItemError: there is none, or two; the message names the layout if it is known.
    """
    turns, messages = item.get("conversations"), item.get("messages")
    if turns and messages:
        raise ItemError("two conversations", f"{name}: holds both conversations and messages; expected one of them.")
    turns = turns or messages
    if not turns and not {"conversations", "messages"} & item.keys():
        for keys, layout in _OTHER_LAYOUTS:
            if keys <= item.keys():
                raise ItemError("other layout", f"{name}: its layout is {layout}; {_EXPECTED}. Convert it first.")
    if not isinstance(turns, list) or not turns:
        what = f"a {type(turns).__name__}" if turns else "empty"
        raise ItemError(
            "empty conversation",
            f"{name}: conversations is {what}; expected a list of at least one question and reply.",
        )
    return turns


def text_of_turn(turn: Mapping[str, Any], name: str, images: list[Any]) -> str:
    """Return a turn's text, with a mark where a part is an image; an image that a part names is added to `images`.

    Raises:
        ItemError: it is not text, or a part is of an unsupported type.
    """
    value = turn.get("value") if turn.get("value") is not None else turn.get("content")
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise ItemError("turn is no text", f"{name}: its text is {kind}; expected a text in 'value' (or 'content').")
    return "\n".join(_text_of_part(part, f"{name}, part {number}", images) for number, part in enumerate(value, 1))


def _text_of_part(part: Any, name: str, images: list[Any]) -> str:
    if not isinstance(part, dict):
        raise ItemError("turn is no text", f"{name}: a {type(part).__name__}; expected an object with 'type'.")
    filled = {key: value for key, value in part.items() if value is not None}  # Arrow fills in missing keys with nulls
    kind = filled.pop("type", None)
    if kind == "text" and isinstance(filled.get("text"), str):
        return str(filled["text"])
    if kind == "image" and not filled:
        return IMAGE_MARK
    if kind == "image" and isinstance(filled.get("image"), str) and len(filled) == 1:
        images.append(filled["image"])
        return IMAGE_MARK
    raise ItemError(
        "unread part",
        f"{name}: content of type {shortened(repr(kind), 40)} ({shortened(', '.join(map(str, filled)), 60)}) is not "
        "read; expected type text or image, the image by a path relative to the image root.",
    )


def images_of(item: Mapping[str, Any], name: str, named_in_parts: list[Any]) -> tuple[str, ...]:
    """Return the images that an item names, in order; none for text alone (also where the name is empty).

    Raises:
        ItemError: one that is not a path, or different ones in different places.
    """
    places = [_listed(item.get("image")), _listed(item.get("images")), named_in_parts]
    for image in (image for named in places for image in named):
        if not isinstance(image, str):
            raise ItemError(
                "image is no path", f"{name}: image is a {type(image).__name__}; expected one relative path."
            )
    lists = {images for named in places if (images := tuple(image for image in named if image))}
    different = {image for images in lists for image in images}
    if len(lists) > 1 and len(different) > 1:
        raise ItemError(
            "images named twice",
            f"{name}: names {len(different)} images, but not the same in 'image', in 'images' and in the parts of its "
            "turns; expected all of them in one of these.",
        )
    return max(lists, key=len, default=())


def refuse_unread(item: Mapping[str, Any], name: str) -> None:
    """Raise for keys that would change training if they were ignored.

    Raises:
        ItemError: images, video or audio under other keys; a system prompt or tools.
    """
    for key in _UNREAD_INPUTS:
        if item.get(key):
            raise ItemError(
                "unread input", f"{name}: {key!r} is not read, so training would be blind to it; expected images "
                "under 'image'. Rename the key, or remove such items."
            )  # fmt: skip
    for key in _INSTRUCTIONS:
        if item.get(key):
            raise ItemError(
                "system turn",
                f"{name}: {key!r} is not read; put its text in front of the first question, or remove it.",
            )


def refuse_turn_weight(turn: Mapping[str, Any], name: str) -> None:
    """Raise if a turn is marked as not to be trained on, or has a weight other than 1.

    Raises:
        ItemError: it is.
    """
    for key in _TURN_WEIGHTS:
        if turn.get(key) not in (None, 1, True):
            raise ItemError(
                "turn weight",
                f"{name}: {key} {shortened(repr(turn[key]), 30)} is not read: all replies are trained on with equal "
                "weight. Remove the key, or such items.",
            )


def unread_keys(item: Mapping[str, Any]) -> Counter[str]:
    """Return the keys of an item, and of its turns, that nothing reads."""
    found = Counter(shortened(str(key), 60) for key in item.keys() - KNOWN_KEYS)
    for turn in item.get("conversations") or item.get("messages") or ():
        if isinstance(turn, dict) and not turn.keys() <= _KNOWN_TURN_KEYS:
            found.update({shortened(f"turn: {key}", 60): 1 for key in turn.keys() - _KNOWN_TURN_KEYS})
    return Counter(dict.fromkeys(found, 1))


def mark_problem(item: Mapping[str, Any], images: Sequence[str], marks: int, name: str) -> ItemError:
    """Return the error for marks and images that do not match."""
    if images and not marks:
        advice = f"Put {IMAGE_MARK} and a newline in front of its first question, once per image."
    elif any("," in image for image in images):
        advice = "Several paths joined by commas are not supported; expected a list of paths."
    elif not images and item.get("image") == "":
        advice = "Its image is an empty name. Remove the mark, or name the image."
    else:
        advice = "Expected one mark per image, in the images' order."
    return ItemError("<image> count", f"{name}: {marks} {IMAGE_MARK} marks for {len(images)} images. {advice}")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
