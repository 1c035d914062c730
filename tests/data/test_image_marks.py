"""Several images in a sample: marks keep their positions through parsing, every template, check and show."""

import json

import pytest
from rich.console import Console

from olivine.data.check import check
from olivine.data.check_jobs import LengthLimit
from olivine.data.image_marks import turn_with_marks, user_turn, without_images
from olivine.data.llava_json import ItemError, parse_item
from olivine.data.sample_view import show
from olivine.data.template import TEMPLATES, PieceKind
from olivine.errors import DataError
from olivine.records import Question, Role, Turn
from olivine.testing import write_images


def item(*texts, images=("a.png", "b.png")):
    roles = ("human", "gpt") * len(texts)
    turns = [{"from": role, "value": text} for role, text in zip(roles, texts, strict=False)]
    return {"id": "x", "images": list(images), "conversations": turns}


def spelled(template, sample):
    pieces = TEMPLATES[template].render(sample.conversation, sample.image_first)
    return "".join("[I]" if piece.kind is PieceKind.IMAGE else piece.text for piece in pieces)


def test_marks_of_several_images_keep_their_positions():
    sample = parse_item(item("left <image> or\nright <image>?", "left", "and <image> now?", "no", images="abc"), 0)
    assert (sample.image, sample.images, sample.all_images) == (None, ("a", "b", "c"), ("a", "b", "c"))
    assert [turn.images for turn in sample.conversation] == [(5, 15), (), (4,), ()]
    assert not sample.image_first
    text = spelled("gemma", sample)
    assert "user\nleft [I] or\nright [I]?<end_of_turn>" in text
    assert "user\nand [I] now?<end_of_turn>" in text


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "plain"])
def test_every_template_writes_marks_at_their_positions(template):
    sample = parse_item(item("<image>\n<image>\nsame?", "no <image>", "sure, <image>", "yes", images="abc"), 0)
    text = spelled(template, sample)
    # LLaVA's own ids have a token for a space behind every image.
    assert "[I]\n[I]\nsame?" in text.replace("[I] ", "[I]")
    assert "sure, [I]" in text
    assert "no <image>" in text, "what a reply spells is text"
    assert text.count("[I]") == 3


def test_plain_takes_all_images_in_front_of_the_caption():
    assert spelled("plain", parse_item(item("<image>\n<image>\nSay.", "two dogs"), 0)) == "<bos>[I][I]two dogs\n"


def test_a_single_image_goes_to_the_front_unless_marks_are_in_place():
    one = item("what is <image> here?", "red", images=["a.png"])
    front, placed = parse_item(one, 0), parse_item(one, 0, marks="in-place")
    assert "user\n[I]\nwhat is  here?<" in spelled("gemma", front)
    assert "user\nwhat is [I] here?<" in spelled("gemma", placed)
    assert (front.image, placed.image) == ("a.png", "a.png")


@pytest.mark.parametrize("marks", ["front", "in-place"])
def test_a_mark_at_the_front_is_the_same_under_both_rules(vlm, marks):
    one = item("<image>\nwhat?", "red", images=["a.png"])
    assert (
        vlm.encoder().example(parse_item(one, 0, marks=marks)).parts == vlm.encoder().example(parse_item(one, 0)).parts
    )


def test_the_same_image_twice_is_two_images():
    assert parse_item(item("<image><image>same?", "yes", images=["a", "a"]), 0).images == ("a", "a")


@pytest.mark.parametrize("text", ["<image> one?", "<image><image><image> three?", "none?"])
def test_a_number_of_marks_other_than_of_images_is_refused(text):
    with pytest.raises(ItemError, match=r"marks for 2 images"):
        parse_item(item(text, "no"), 0)


def test_image_tokens_are_put_at_each_mark(vlm):
    encoder = vlm.encoder()
    (part,) = encoder.example(parse_item(item("a <image> b <image> c", "red"), 0)).parts
    each = encoder.image_tokens
    flags = "".join("I" if token == encoder.image_token_id else "." for token in part.ids)
    assert [len(run) for run in flags.replace(".", " ").split()] == [each, each]


def test_independent_questions_share_all_images(vlm):
    encoder = vlm.encoder()
    sample = parse_item(item("one <image> two <image>\nsame?", "no", "which?", "two"), 0)
    shared, first, second = encoder.example(sample, independent=True).parts
    assert shared.ids.count(encoder.image_token_id) == 2 * encoder.image_tokens
    assert encoder.image_token_id not in first.ids + second.ids
    for question, answer, part in (("same?", "no", first), ("which?", "two", second)):
        alone = parse_item(item(f"one <image> two <image>\n{question}", answer), 0)
        assert shared.ids + part.ids == encoder.example(alone).parts[0].ids


def test_independent_questions_with_later_images_are_refused(vlm):
    sample = parse_item(item("one <image>?", "no", "and <image>?", "two"), 0)
    with pytest.raises(ItemError, match="turns: together"):
        vlm.encoder().example(sample, independent=True)


def test_a_question_has_as_many_marks_as_images_or_none():
    assert user_turn("which?", 2) == turn_with_marks(Role.USER, "<image>\n<image>\nwhich?")
    assert user_turn("a <image> b <image>", 2) == Turn(Role.USER, "a  b ", (2, 5))
    with pytest.raises(DataError, match="1 <image> marks for 2 images"):
        user_turn("a <image>", 2)


def test_a_blind_question_has_no_marks():
    blind = without_images(Question("q", "<image>\n<image>\nwhich?", None, "c", images=("a", "b")))
    assert (blind.prompt, blind.all_images) == ("which?", ())
    one = without_images(Question("q", "what is <image>?", "a", "c"))
    assert one.prompt == "what is <image>?", "with one image the word is text"


@pytest.fixture
def pairs(tmp_path):
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    items = [
        {**item("<image> or <image>?", "one", images=["0.png", "1.png"]), "id": "whole"},
        {**item("<image> or <image>?", "one", images=["0.png", "2.png"]), "id": "broken"},
        {**item("<image> or <image>?", "one", images=["0.png", "9.png"]), "id": "missing"},
        {**item("how many?", "one", images=[]), "id": "text"},
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(items))
    return path


def test_check_counts_every_image_and_names_items_with_a_broken_one(pairs, vlm):
    report = check(pairs, pairs.parent / "images", LengthLimit(vlm.encoder(), 2048), jobs=1)
    assert (report.items, report.images, report.text_only) == (4, 3, 1)
    summary = json.dumps(report.summary())
    assert "missing image" in summary
    assert "id 'broken'" in summary
    assert "id 'whole'" not in summary


def test_show_prints_every_image_at_its_position(pairs, vlm):
    console = Console(record=True, width=200)
    show(pairs, "whole", vlm.encoder(), "together", console)
    text = console.export_text()
    assert "images '0.png', '1.png'" in text
    tokens = vlm.image_tokens
    assert f"[image: {tokens} tokens] or [image: {tokens} tokens]?" in text
