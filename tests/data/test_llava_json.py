"""LLaVA's JSON: what is accepted as published, and how each kind of broken item is reported."""

import json

import pytest

from olivine.data.check import FullCheck, check
from olivine.data.check_jobs import LengthLimit
from olivine.data.encoding import TemplateEncoder
from olivine.data.images import ImageTransform
from olivine.data.json_items import scan
from olivine.data.llava_json import ItemError, parse_item
from olivine.data.sources import Skipped, read_samples
from olivine.data.template import TEMPLATES
from olivine.errors import DataError
from olivine.model.build import image_token
from olivine.recipe import DataRecipe
from olivine.records import Role
from olivine.testing import gemma_tokenizer, llava_item, write_dataset, write_images


def turn(role, text):
    return {"from": role, "value": text}


def item(*turns, **more):
    return {"id": "x", "conversations": list(turns), **more}


def test_stage_one_as_published_mark_behind_the_text():
    sample = parse_item(
        {
            "id": "004539375",
            "image": "00453/004539375.jpg",
            "conversations": [
                turn("human", "Render a clear and concise summary of the photo.\n<image>"),
                turn("gpt", "select luxury furniture"),
            ],
        },
        0,
    )
    assert sample.image == "00453/004539375.jpg"
    assert sample.conversation[0].text == "Render a clear and concise summary of the photo."


def test_text_only_items_have_no_image_key():
    sample = parse_item(item(turn("human", "hi"), turn("gpt", "hello")), 0)
    assert sample.image is None
    assert [t.role for t in sample.conversation] == [Role.USER, Role.ASSISTANT]


def test_turns_without_the_mark_keep_their_spaces():
    sample = parse_item(
        item(turn("human", " <image> a "), turn("gpt", " b "), turn("human", " c "), turn("gpt", "d"), image="x.png"), 0
    )
    assert [t.text for t in sample.conversation] == ["a", " b ", " c ", "d"]


def test_replies_before_the_first_question_are_skipped_as_in_llava():
    assert len(parse_item(item(turn("gpt", "hello"), turn("human", "a"), turn("gpt", "b")), 0).conversation) == 2


def test_a_system_turn_may_come_first():
    sample = parse_item(item(turn("system", "a"), turn("human", "b"), turn("gpt", "c")), 0)
    assert [(said.role.value, said.text) for said in sample.conversation] == [
        ("system", "a"),
        ("user", "b"),
        ("assistant", "c"),
    ]


BROKEN = {
    "empty conversation": item(),
    "not an object": ["a"],
    "two turns in a row": item(turn("human", "a"), turn("human", "b"), turn("gpt", "c")),
    "unknown role": item(turn("tool", "a"), turn("gpt", "c")),
    "system turn": item(turn("human", "b"), turn("gpt", "c"), turn("system", "a")),
    "turn is no text": item({"from": "human", "value": 3}, turn("gpt", "c")),
    "empty answer": item(turn("human", "a"), turn("gpt", "  ")),
    "no reply": item(turn("human", "a"), turn("gpt", "b"), turn("human", "c")),
    "<image> count": item(turn("human", "<image> and <image>"), turn("gpt", "c"), image="0.png"),
    "image is no path": item(turn("human", "<image>"), turn("gpt", "c"), image=[3]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_item_is_named(kind):
    with pytest.raises(ItemError, match="item 7") as error:
        parse_item(BROKEN[kind], 7)
    assert error.value.kind == kind


@pytest.mark.parametrize("image", [None, "0.png"])
def test_marks_and_images_must_agree(image):
    text = "a" if image else "<image> a"
    with pytest.raises(ItemError, match="marks for"):
        parse_item(item(turn("human", text), turn("gpt", "c"), **({"image": image} if image else {})), 0)


def test_json_cut_in_the_middle_names_the_line(tmp_path):
    path = write_dataset(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1)[:900])
    with pytest.raises(DataError, match=r"train\.json: not valid JSON at line \d+"):
        list(scan(path))


def test_a_list_is_expected(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="list of items"):
        list(scan(path))


def test_policy_stop_names_file_and_item_and_skip_counts(tmp_path):
    path = write_dataset(tmp_path)
    rows = json.loads(path.read_text())
    rows[3] = BROKEN["empty answer"]
    rows[5]["image"] = "../../secret.png"
    rows[6]["image"] = "gone.png"
    path.write_text(json.dumps(rows))
    source = {"json": path, "images": tmp_path / "images"}
    with pytest.raises(DataError, match=r"train\.json: item 3 .*on_error: skip"):
        read_samples(DataRecipe.model_validate(source), Skipped())
    skipped = Skipped()
    samples = read_samples(DataRecipe.model_validate({**source, "on_error": "skip"}), skipped)
    assert len(samples) == len(rows) - 3
    assert skipped.kinds == {"empty answer": 1, "missing image": 2}
    assert "3 skipped" in skipped.describe()


def test_nothing_usable_is_an_error_under_either_policy(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([BROKEN["no reply"]]))
    with pytest.raises(DataError, match="no usable sample"):
        read_samples(DataRecipe.model_validate({"json": path, "on_error": "skip"}), Skipped())


def test_check_counts_everything_and_changes_nothing(tmp_path):
    path = write_dataset(tmp_path, items=12)
    rows = json.loads(path.read_text()) + list(BROKEN.values())
    names = write_images(tmp_path / "images" / "more", 3)
    rows.append(llava_item("cut", [("a", "b")], f"more/{names[0]}"))
    cut = tmp_path / "images" / "more" / names[0]
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "images" / "more" / "1.png").rename(tmp_path / "images" / "more" / "wrong.jpg")
    rows.append(llava_item("wrong", [("a", "b")], "more/wrong.jpg"))
    rows.append(llava_item("other", [("a", "b")], "more/2.jpg"))
    rows.append(llava_item("long", [("a", "b" * 3000)]))
    path.write_text(json.dumps(rows))
    before = path.read_bytes()
    tokenizer = gemma_tokenizer()
    encoder = TemplateEncoder(TEMPLATES["gemma"], tokenizer, image_token_id=image_token(tokenizer), image_tokens=4)
    seen = []
    transform = ImageTransform(16, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    report = check(
        path,
        tmp_path / "images",
        LengthLimit(encoder, 2048),
        lambda name, done, total: seen.append((name, done, total)),
        full=FullCheck(transform),
    )
    summary = report.summary()
    assert summary["broken"] == dict.fromkeys([*BROKEN, "unreadable image", "too long"], 1)
    assert summary["notes"] == {"wrong extension": 1, "other suffix on disk": 1}
    assert summary["unsupervised"] == len(BROKEN) + 2
    assert summary["items"] == len(rows)
    assert {name for name, done, total in seen if done == total} == {"items", "images", "lengths"}
    assert report.longest > 2048
    assert any("id 'cut'" in line for line in report.lines())
    assert path.read_bytes() == before


def test_samples_are_read_where_a_system_cannot_read_at_a_position(tmp_path, monkeypatch):
    source = DataRecipe.model_validate({"json": write_dataset(tmp_path), "images": tmp_path / "images"})
    before = list(read_samples(source, Skipped()))
    monkeypatch.delattr("os.pread")
    assert list(read_samples(source, Skipped())) == before
