"""RefCOCO and OCID-Ref: boxes in every format, the three overlaps, and pickles that cannot run code."""

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, scored

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.ocid_ref import OCIDRef
from olivine.evaluation.benchmarks.refcoco import Box, RefCOCO, box_in, in_pixels, iou, iou_of_pixels, literal_box
from olivine.files import write_json, write_json_lines
from olivine.records import Answer, Question

PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: "


def ref(number: int, *phrases: str, split: str = "val", image: int = 7) -> dict[str, Any]:
    sentences = [
        {"sent": phrase, "raw": phrase, "sent_id": 10 * number + n, "tokens": phrase.split()}
        for n, phrase in enumerate(phrases)
    ]
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": image,
        "split": split,
        "sentences": sentences,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "category_id": 1,
        "file_name": "COCO_train2014_000000000007_1.jpg",
    }


def dataset(folder: Path, refs: Sequence[Mapping[str, Any]], *, partition: str = "unc", plain: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    annotations = [{"id": r["ann_id"], "image_id": r["image_id"], "bbox": [10.0, 20.0, 40.0, 60.0]} for r in refs]
    write_json(
        folder / "instances.json",
        {"images": [{"id": 7, "width": 200, "height": 100}], "annotations": annotations},
    )
    if plain:
        write_json(folder / f"refs({partition}).json", list(refs))
    else:
        (folder / f"refs({partition}).p").write_bytes(pickle.dumps(list(refs), protocol=0))
    return folder


def line(**more: Any) -> dict[str, Any]:
    return {
        "question_id": 1,
        "image": "a.jpg",
        "text": "the cat",
        "bbox": [10, 20, 40, 60],
        "bbox_format": "xywh-pixels",
        "width": 200,
        "height": 100,
    } | more


def read_line(folder: Path, **more: Any) -> list[Question]:
    write_json_lines(folder / "refs.jsonl", [line(**more)])
    return RefCOCO().read(folder / "refs.jsonl")


# Boxes


def test_continuous_overlap() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 1, 3, 3)) == 1 / 7
    assert iou(Box(0, 0, 1, 1), Box(2, 2, 3, 3)) == 0.0
    assert iou(Box(0, 0, 0, 0), Box(0, 0, 0, 0)) == 0.0


def test_overlap_of_pixels() -> None:
    assert iou_of_pixels(Box(0, 0, 4, 4), Box(0, 0, 4, 4)) == 1.0
    # Pixels 0-3 and 2-5: two columns of four.
    assert iou_of_pixels(Box(0, 0, 4, 4), Box(2, 0, 6, 4)) == 8 / 24
    # One shared column: the last pixel of the one is the first of the other, which the tool takes for apart.
    assert iou_of_pixels(Box(0, 0, 4, 4), Box(3, 0, 7, 4)) == 0.0
    assert iou(Box(0, 0, 4, 4), Box(3, 0, 7, 4)) == 4 / 28
    assert iou_of_pixels(Box(4, 4, 0, 0), Box(0, 0, 4, 4)) == 0.0


def test_the_four_box_formats_name_the_same_pixels() -> None:
    # An image of 200 x 100 stands in a square of 200, 50 from its top.
    given = {
        "xyxy": Box(0.05, 0.2, 0.25, 0.8),
        "xyxy-padded": Box(0.05, 0.35, 0.25, 0.65),
        "xyxy-pixels": Box(10, 20, 50, 80),
        "xywh-pixels": Box(10, 20, 40, 60),
    }
    for name, box in given.items():
        assert in_pixels(box, name, 200, 100) == pytest.approx((10, 20, 50, 80)), name
    assert in_pixels(Box(0.35, 0.05, 0.65, 0.25), "xyxy-padded", 100, 200) == pytest.approx((20, 10, 80, 50))


@pytest.mark.parametrize(
    ("text", "lenient", "literal"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", True, True),
        ("[0,0,1,1]", True, True),
        ("It is at [0.1, 0.2, 0.3, 0.4].", True, False),
        ("[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]", True, False),  # a tuple of lists
        ("(0.1, 0.2, 0.3, 0.4)", False, False),
        ("[0.1, 0.2, 0.3]", False, False),
        ("[1, 2, 3, 4]", True, False),  # beyond 1
        ("[-0.1, 0.2, 0.3, 0.4]", True, False),
        ("[0.3, 0.2, 0.1, 0.4]", True, False),  # right of left
        ("['a', 0, 1, 1]", False, False),
        ("[0.1, 0.2, 0.3, __import__('os')]", False, False),
        ("", False, False),
        ("[" * 300, False, False),
    ],
)
def test_how_a_box_is_read(text: str, lenient: bool, literal: bool) -> None:
    assert (box_in(text) is not None) == lenient
    assert (literal_box(text) is not None) == literal


# RefCOCO


@pytest.mark.parametrize("plain", [True, False])
def test_reads_a_data_sets_folder(tmp_path: Path, plain: bool) -> None:
    refs = [ref(1, "left cat", "cat ü"), ref(2, "dog", split="train"), ref(3, "cup", split="testA")]
    questions = RefCOCO().read(dataset(tmp_path / "refcoco+", refs, plain=plain))
    assert [question.id for question in questions] == ["refcoco+-10", "refcoco+-11", "refcoco+-30"]
    assert questions[1].prompt == PROMPT + "cat ü"
    assert questions[0].image == questions[0].cluster == "COCO_train2014_000000000007.jpg"
    assert questions[0].details == {
        "box": Box(10, 20, 50, 80),
        "size": (200, 100),
        "dataset": "refcoco+",
        "split": "val",
    }


def test_reads_a_pickle_of_python_2(tmp_path: Path) -> None:
    dataset(tmp_path, [ref(1, "cat")])
    (tmp_path / "refs(unc).json").unlink()
    # [{'ann_id': 101, 'image_id': 7, 'split': 'val', 'sentences': [{'sent': <bytes of Latin 1>, 'sent_id': 5L}]}]
    (tmp_path / "refs(unc).p").write_bytes(
        b"(lp0\n(dp1\nS'ann_id'\nI101\nsS'image_id'\nI7\nsS'split'\nS'val'\nsS'sentences'\n"
        b"(lp2\n(dp3\nS'sent'\nS'caf\\xe9'\nsS'sent_id'\nL5L\nsasa."
    )
    (question,) = RefCOCO().read(tmp_path)
    assert question.prompt == PROMPT + "café"
    assert question.id == f"{tmp_path.name}-5"


def test_reads_the_folder_of_all_three_by_the_usual_partitions(tmp_path: Path) -> None:
    dataset(tmp_path / "refcoco", [ref(1, "google cat")], partition="google")
    dataset(tmp_path / "refcoco", [ref(1, "unc cat")], partition="unc")
    dataset(tmp_path / "refcocog", [ref(1, "umd cat")], partition="umd")
    dataset(tmp_path / "refcocog", [ref(1, "google cat")], partition="google")
    questions = RefCOCO().read(tmp_path, "lmms-eval")
    assert [question.prompt.rsplit(": ")[1] for question in questions] == ["unc cat", "umd cat"]
    assert questions[0].prompt.startswith("Bounding box coordinates are specified in the format (top-left x,")


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_a_pickle_that_names_code_is_refused_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset(tmp_path, [ref(1, "cat")])
    (tmp_path / "refs(unc).json").unlink()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()], protocol))
        with pytest.raises(DataError, match=r"refs\(unc\)\.p: not a pickle of plain data.*convert it to JSON"):
            RefCOCO().read(tmp_path)
    assert not (tmp_path / "evil").exists()
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref(1, "cat")])[:50])
    with pytest.raises(DataError, match="not a pickle of plain data"):
        RefCOCO().read(tmp_path)


@pytest.mark.parametrize(
    ("box", "official", "prismatic", "lmms"),
    [
        ("[0.25, 0.0, 0.75, 1.0]", 1, 1, 1),
        ("[0.25, 0.0, 0.5, 1.0]", 0, 1, 1),  # exactly half of it: above .5 and at least .5 differ
        ("The box is [0.25, 0.0, 0.75, 1.0]", 1, 0, 1),
        ("[0.75, 1.0, 0.25, 0.0]", 0, 0, 0),
        ("nothing", 0, 0, 0),
    ],
)
def test_the_variants(tmp_path: Path, box: str, official: int, prismatic: int, lmms: int) -> None:
    questions = read_line(tmp_path, bbox=[50, 0, 100, 100])
    found = [corrects(scored(RefCOCO(), questions, [box], variant)) for variant in RefCOCO.variants]
    assert found == [[official], [prismatic], [lmms]]


def test_prismatic_rounds_the_gold_box(tmp_path: Path) -> None:
    # 0.0249 of the width becomes 0.02 to 0.27: the answer covers exactly half of that, but less of the real box.
    questions = read_line(tmp_path, bbox=[4.9, 0, 49.4, 100])
    said = ["[0.02, 0.0, 0.27, 0.5]"]
    assert corrects(scored(RefCOCO(), questions, said, "prismatic")) == [1]
    assert corrects(scored(RefCOCO(), questions, said, "lmms-eval")) == [0]


def test_the_user_states_the_format_of_answers(tmp_path: Path) -> None:
    questions = read_line(tmp_path)
    for name, text in {
        "xyxy-padded": "[0.05, 0.35, 0.25, 0.65]",
        "xyxy-pixels": "[10, 20, 50, 80]",
        "xywh-pixels": "[10, 20, 40, 60]",
    }.items():
        assert corrects(scored(RefCOCO(boxes=name), questions, [text])) == [1]
        assert corrects(scored(RefCOCO(boxes=name), questions, [text], "lmms-eval")) == [1]
        assert corrects(scored(RefCOCO(), questions, [text])) == [0]
        with pytest.raises(RequestError, match="xyxy only"):
            scored(RefCOCO(boxes=name), questions, [text], "prismatic")
    with pytest.raises(RequestError, match="Valid: xyxy, xyxy-padded"):
        RefCOCO(boxes="cxcywh")


def test_figures_per_data_set_and_split(tmp_path: Path) -> None:
    dataset(tmp_path / "refcoco", [ref(1, "a", "b"), ref(2, "c", split="testA")])
    dataset(tmp_path / "refcocog", [ref(1, "d")], partition="umd")
    questions = RefCOCO().read(tmp_path)
    right = "[0.05, 0.2, 0.25, 0.8]"
    score = RefCOCO().score(questions, [Answer(questions[0].id, right), Answer(questions[2].id, right)])
    assert score.metrics == {
        "accuracy": 0.5,
        "accuracy/refcoco": pytest.approx(2 / 3),
        "accuracy/refcocog": 0.0,
        "accuracy/refcoco/val": 0.5,
        "accuracy/refcoco/testA": 1.0,
        "accuracy/refcocog/val": 0.0,
        "unreadable": 0.5,
    }
    assert score.missing == ("refcoco-11", "refcocog-10")


def test_lmms_evals_further_figures(tmp_path: Path) -> None:
    half = {"bbox": [50, 0, 100, 100]}
    rows = [line(**half), line(**half, question_id=2), line(question_id=3, bbox=[0, 0, 20, 10])]
    write_json_lines(tmp_path / "refs.jsonl", rows)
    questions = RefCOCO().read(tmp_path / "refs.jsonl")
    metrics = scored(RefCOCO(), questions, ["[0.25, 0, 0.75, 1]", "[0.25, 0, 0.5, 1]", "?"], "lmms-eval").metrics
    assert metrics["iou"] == pytest.approx(0.5)
    assert [metrics[f"accuracy@{t}"] for t in (0.1, 0.3, 0.5, 0.7, 0.9)] == pytest.approx([2 / 3] * 3 + [1 / 3] * 2)
    assert metrics["center"] == 1.0  # an unreadable answer is an empty box at the corner, which lies in the third


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"bbox_format": "xywh"}, "expected xyxy-pixels or xywh-pixels"),
        ({"bbox": [1, 2, 3]}, "expected a list of four numbers"),
        ({"bbox": [10, 20, 0, 60]}, "expected a box with an area"),
        ({"width": 0}, "expected a box with an area"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"line 1.*{message}"):
        read_line(tmp_path, **more)


def test_folders_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no instances\.json"):
        RefCOCO().read(tmp_path)
    dataset(tmp_path, [ref(1, "cat", image=8)])
    with pytest.raises(DataError, match=r"not in .*instances\.json"):
        RefCOCO().read(tmp_path)
    (tmp_path / "refs(unc).json").unlink()
    with pytest.raises(DataError, match=r"no refs\(unc\)\.p"):
        RefCOCO().read(tmp_path)


# OCID-Ref


def sentence(box: Sequence[int], take: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "scene_path": f"ARID20/table/top/seq04/rgb/{take}.png",
        "take_id": take,
        "sentence": "the red box",
        "bbox": json.dumps(list(box)),
        "class": "cereal_box",
    } | more


def ocid(folder: Path, *rows: Mapping[str, Any], gold: str | None = None) -> list[Question]:
    write_json(folder / "val_expressions.json", {str(n): row for n, row in enumerate(rows)})
    return OCIDRef(gold).read(folder)


def test_the_gold_format_is_recognised_from_the_boxes(tmp_path: Path) -> None:
    corners = ocid(tmp_path, sentence([320, 240, 640, 480]))  # 320 + 640 would leave the image
    assert corners[0].details["box"] == Box(320, 240, 640, 480)
    sized = ocid(tmp_path, sentence([320, 240, 100, 100]))  # 320 to 100 would be no box
    assert sized[0].details["box"] == Box(320, 240, 420, 340)
    with pytest.raises(DataError, match="fit xyxy-pixels and xywh-pixels"):
        ocid(tmp_path, sentence([10, 10, 20, 20]))
    with pytest.raises(DataError, match="fit neither"):
        ocid(tmp_path, sentence([320, 240, 640, 480]), sentence([320, 240, 100, 100]))
    assert ocid(tmp_path, sentence([10, 10, 20, 20]), gold="xywh-pixels")[0].details["box"] == Box(10, 10, 30, 30)
    with pytest.raises(DataError, match="not inside 640x480"):
        ocid(tmp_path, sentence([320, 240, 640, 480]), gold="xywh-pixels")
    with pytest.raises(RequestError, match="no box format"):
        OCIDRef("xyxy")


def test_figures_by_clutter_and_threshold(tmp_path: Path) -> None:
    takes = (0, 9, 10, 16, 17, 20)
    questions = ocid(tmp_path, *(sentence([320, 240, 640, 480], take) for take in takes))
    assert [q.details["clutter"] for q in questions] == [n for n in ("minimum", "medium", "maximum") for _ in range(2)]
    whole, third, sixth = "[0.5, 0.5, 1.0, 1.0]", "[0.5, 0.5, 1.0, 0.66]", "[0.5, 0.5, 1.0, 0.58]"
    score = scored(OCIDRef(), questions, [whole, whole, whole, third, sixth, "no box"])
    assert score.metrics == {
        "accuracy": pytest.approx(4 / 6),
        "accuracy/minimum": 1.0,
        "accuracy/medium": 1.0,
        "accuracy/maximum": 0.0,
        "accuracy@0.5": 0.5,
        "accuracy@0.5/minimum": 1.0,
        "accuracy@0.5/medium": 0.5,
        "accuracy@0.5/maximum": 0.0,
        "unreadable": pytest.approx(1 / 6),
    }
    assert corrects(score) == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sentence([0, 0, 9, 9], take=21), "take_id 21; expected 0 to 20"),
        (sentence([0, 0, 9]), "expected four numbers"),
        (sentence([0, 0, 9, 9], bbox="x"), "expected four numbers"),
        ({"take_id": 1}, "lacks scene_path"),
    ],
)
def test_broken_sentences_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"sentence '0'.*{message}"):
        ocid(tmp_path, row)
