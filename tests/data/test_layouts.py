"""The layouts that conversations are published in: understood, or refused by a message that names what to do."""

import json
from collections import Counter

import pytest

from olivine.data.llava_json import ItemError, parse_item
from olivine.data.sources import Skipped, read_samples
from olivine.recipe import DataRecipe
from olivine.records import Role
from olivine.testing import llava_item, write_dataset


def said(user="<image>\nwhich colour?", assistant="red.", keys=("from", "value"), roles=("human", "gpt")):
    return [{keys[0]: roles[0], keys[1]: user}, {keys[0]: roles[1], keys[1]: assistant}]


PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "which colour?"}]
NAMED_PART = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "which colour?"}]
OPENAI = {"keys": ("role", "content"), "roles": ("user", "assistant")}
UNDERSTOOD = {
    "openai messages": {"messages": said(**OPENAI), "images": ["a.png"]},
    "role and content": {"conversations": said(**OPENAI), "image": "a.png"},
    "content parts": {"messages": said(PARTS, **OPENAI), "images": ["a.png"]},
    "a part names the image": {"messages": said(NAMED_PART, **OPENAI)},
    "reply as a part": {"messages": said(assistant=[{"type": "text", "text": "red."}], **OPENAI), "image": "a.png"},
    "one image in a list": {"conversations": said(), "images": ["a.png"]},
    "image is a list of one": {"conversations": said(), "image": ["a.png"]},
    "image and images agree": {"conversations": said(), "image": "a.png", "images": ["a.png"]},
    "roles in capitals": {"conversations": said(roles=("Human", "GPT")), "image": "a.png"},
    "role bot": {"conversations": said(roles=("user", "bot")), "image": "a.png"},
    "role model": {"conversations": said(roles=("user", "model")), "image": "a.png"},
}


@pytest.mark.parametrize("layout", UNDERSTOOD)
def test_a_layout_is_understood(layout):
    sample = parse_item({"id": "x", **UNDERSTOOD[layout]}, 0)
    assert [(turn.role, turn.text) for turn in sample.conversation] == [
        (Role.USER, "which colour?"),
        (Role.ASSISTANT, "red."),
    ]
    assert sample.image == "a.png"


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_empty_image_is_text_alone(empty):
    assert parse_item({"id": 5, "image": empty, "conversations": said("how many?")}, 0).image is None


PLAIN = said("how many days?")
REFUSED = {
    "no mark": ({"image": "a.png", "conversations": PLAIN}, "<image> count", "Put <image>"),
    "images without mark": ({"images": ["a.png"], "conversations": PLAIN}, "<image> count", "Put <image>"),
    "commas": (
        {"image": "a.png,b.png", "conversations": said("<image><image>same?")},
        "<image> count",
        "joined by commas",
    ),
    "two images": ({"image": ["a.png", "b.png"], "conversations": said()}, "<image> count", "for 2 images"),
    "image differs from images": (
        {"image": "a.png", "images": ["b.png"], "conversations": said()},
        "images named twice",
        "not the same in 'image'",
    ),
    "images of dicts": ({"images": [{"bytes": "x"}], "conversations": said()}, "image is no path", "is a dict"),
    "mark of an empty image": ({"image": "", "conversations": said()}, "<image> count", "empty name"),
    "video": ({"video": "a.mp4", "conversations": PLAIN}, "unread input", "'video' is not read"),
    "audios": ({"audios": ["a.wav"], "conversations": PLAIN}, "unread input", "'audios' is not read"),
    "another image key": ({"image_path": "a.png", "conversations": PLAIN}, "unread input", "blind to it"),
    "system key": ({"system": "One word.", "conversations": PLAIN}, "system turn", "in front of the first question"),
    "tools": ({"tools": "[...]", "conversations": PLAIN}, "system turn", "'tools' is not read"),
    "late system turn": ({"conversations": [*PLAIN, {"from": "system", "value": "x"}]}, "system turn", "turn 3"),
    "tool turn": ({"conversations": [*PLAIN, {"from": "tool", "value": "x"}]}, "unknown role", "turn 3"),
    "a turn not to learn": (
        {"conversations": [PLAIN[0], {**PLAIN[1], "weight": 0}]},
        "turn weight",
        "turn 2: weight 0 is not read",
    ),
    "both lists": ({"conversations": PLAIN, "messages": PLAIN}, "two conversations", "expected one of them"),
    "alpaca": ({"instruction": "a", "input": "", "output": "b"}, "other layout", "Alpaca"),
    "query": ({"query": "a", "response": "b"}, "other layout", "query and response"),
    "vqa": ({"question": "a", "answer": "b"}, "other layout", "question and answer"),
    "captions": ({"image": "a.png", "caption": "b"}, "other layout", "image and caption"),
    "plain text": ({"text": "b"}, "other layout", "plain text"),
    "image_url part": (
        {"messages": said([{"type": "image_url", "image_url": {"url": "http://x"}}], **OPENAI)},
        "unread part",
        "turn 1, part 1: content of type 'image_url'",
    ),
    "video part": ({"messages": said([{"type": "video", "video": "x"}], **OPENAI)}, "unread part", "'video'"),
    "part of text alone": ({"messages": said(["x"], **OPENAI)}, "turn is no text", "part 1: a str"),
    "number for text": ({"conversations": said(7)}, "turn is no text", "turn 1: its text is a int"),
    "nothing for text": ({"conversations": said(None)}, "turn is no text", "turn 1: its text is nothing"),
    "role is a list": ({"conversations": said(roles=(["human"], "gpt"))}, "unknown role", "turn 1"),
    "turn is a text": ({"conversations": ["how?", "so."]}, "turn is no text", "turn 1"),
    "conversations is infinite": ({"conversations": float("inf")}, "empty conversation", "is a float"),
    "id is a list": ({"id": [1], "conversations": PLAIN}, "id is no text", "its id is a list"),
    "id is not a number": ({"id": float("nan"), "conversations": PLAIN}, "id is no text", "its id is a float"),
    "half a character in a reply": ({"conversations": said("how?", "so \ud83d")}, "half a character", "turn 2"),
    "half a character in an id": ({"id": "\ud800", "conversations": PLAIN}, "half a character", "its id"),
    "half a character in a path": ({"image": "\udfff.png", "conversations": said()}, "half a character", "image path"),
    "empty reply behind a greeting": (
        {"conversations": [{"from": "gpt", "value": "hello"}, *said("how?", " ")]},
        "empty answer",
        "turn 3",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_a_layout_is_refused_by_name(layout):
    item, kind, message = REFUSED[layout]
    with pytest.raises(ItemError) as error:
        parse_item(item, 7)
    assert error.value.kind == kind
    assert str(error.value).startswith("item 7")
    assert message in str(error.value)


def test_long_names_are_cut_in_messages():
    with pytest.raises(ItemError) as error:
        parse_item({"id": "9" * 4000, "conversations": []}, 0)
    assert len(str(error.value)) < 300


def test_unread_keys_are_counted_by_name_once_per_item():
    item = llava_item("a", [("how?", "so."), ("and?", "so.")])
    item |= {"model": "gpt-4", "score": 1}
    for turn in item["conversations"]:
        turn["markdown"] = None
    unread: Counter[str] = Counter()
    for number in range(3):
        parse_item(item, number, unread)
    assert unread == {"model": 3, "score": 3, "turn: markdown": 3}


def test_training_reports_keys_that_it_does_not_read(tmp_path):
    path = write_dataset(tmp_path, items=12)
    rows = json.loads(path.read_text())
    rows[2]["model"] = "gpt-4"
    path.write_text(json.dumps(rows))
    skipped = Skipped()
    read_samples(DataRecipe.model_validate({"json": path, "images": tmp_path / "images"}), skipped)
    assert skipped.describe_unread() == "not read: 'model' (1 items)"


def test_a_duplicate_id_is_made_unique_by_its_item_number(tmp_path):
    path = write_dataset(tmp_path, items=12)
    rows = json.loads(path.read_text())
    rows[3]["id"] = rows[8]["id"]
    path.write_text(json.dumps(rows))
    samples = read_samples(DataRecipe.model_validate({"json": path, "images": tmp_path / "images"}), Skipped())
    assert [samples[index].id for index in (2, 3, 8)] == ["s2", "s8#3", "s8#8"]
