"""Hugging Face's parquet copies: the same questions as from the official files, images without extracting them."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from olivine.data import parquet_size
from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks import get
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.parquet import ParquetImages
from olivine.evaluation.engine import AnsweringEngine
from olivine.model.vlm import VisionLanguageModel
from olivine.records import AnswerState, Question
from olivine.testing import write_images

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")


def image(colour: int, path: str | None = None) -> dict[str, Any]:
    """Return a one-colour PNG as the copies store it."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": path}


def write(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def colours(benchmark: Benchmark, path: Path, questions: list[Question]) -> list[int | None]:
    """Return the colour of each question's image."""
    image_folder = benchmark.images(path)
    assert isinstance(image_folder, ParquetImages)
    return [q.image and image_folder.open(q.image).getpixel((0, 0))[0] for q in questions]


HUMANS = [{"answer": "red", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]


def test_vqav2_over_two_shards(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": 420 + n,
            "image_id": 42 + n // 2,
            "question": f"What colour is bus {n}?",
            "question_type": "what color",
            "answer_type": "other",
            "multiple_choice_answer": "red",
            "answers": HUMANS,
            "image": image(10 * (n // 2)),
        }
        for n in range(7)
    ]
    write(tmp_path / "data" / "validation-00000-of-00002.parquet", rows[:5])
    write(tmp_path / "data" / "validation-00001-of-00002.parquet", rows[5:])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    benchmark = get("vqav2")
    questions = benchmark.read(tmp_path)
    assert [q.id for q in questions] == [str(420 + n) for n in range(7)]
    assert questions[0].image == "COCO_val2014_000000000042.jpg"
    assert questions[0].prompt.startswith("What colour is bus 0?\nAnswer")
    assert questions[0].references == ("red",) * 10
    assert colours(benchmark, tmp_path, questions) == [0, 0, 10, 10, 20, 20, 30]
    (tmp_path / "data" / "validation-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="1 of the 2 shards of validation"):
        benchmark.read(tmp_path)


def test_gqa_joins_images_from_the_other_configuration(tmp_path: Path) -> None:
    row = {
        "id": "201",
        "imageId": "n16",
        "question": "Is it red?",
        "answer": "yes",
        "isBalanced": True,
        "groups": {"global": None, "local": "x"},
        "entailed": "['202', '201']",
        "types": {"structural": "verify", "semantic": "attr", "detailed": "d"},
        "semantic": [{"operation": "select", "argument": "bus", "dependencies": []}],
    }
    rows = [row, row | {"id": "202", "imageId": "n17", "answer": "no", "entailed": None}]
    write(tmp_path / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", rows)
    image_folder = [{"id": "n17", "image": image(17)}, {"id": "n16", "image": image(16)}]
    write(tmp_path / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", image_folder)
    benchmark = get("gqa")
    for path in (tmp_path, tmp_path / "testdev_balanced_instructions"):
        questions = benchmark.read(path)
        assert [(q.id, q.image, q.references) for q in questions] == [
            ("201", "n16.jpg", ("yes",)),
            ("202", "n17.jpg", ("no",)),
        ]
        assert colours(benchmark, path, questions) == [16, 17]
    official = tmp_path / "testdev_balanced_questions.json"
    official.write_text(json.dumps({"201": row | {"entailed": ["202", "201"]}}))
    assert get("gqa").read(official) == questions[:1]


def test_mme_pairs_by_image(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"code_reasoning/{n // 2:04d}.png",
            "question": f"Is it {n}? Please answer yes or no.",
            "answer": ("Yes", "No")[n % 2],
            "category": "code_reasoning",
            "image": image(n // 2),
        }
        for n in range(4)
    ]
    write(tmp_path / "data" / "test-00000-of-00001-b1b2c3.parquet", rows)
    benchmark = get("mme")
    questions = benchmark.read(tmp_path)
    assert [q.id for q in questions] == [f"code_reasoning/{n // 2:04d}.png/{n % 2 + 1}" for n in range(4)]
    assert [q.references for q in questions] == [("yes",), ("no",)] * 2
    assert colours(benchmark, tmp_path, questions) == [0, 0, 1, 1]
    write(tmp_path / "data" / "test-00000-of-00001-b1b2c3.parquet", rows[:3])
    with pytest.raises(DataError, match=r"1 rows about code_reasoning/0001\.png; expected two"):
        benchmark.read(tmp_path)


def test_mmvet_shares_images_by_their_name(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"v1_{n}",
            "question": "x?",
            "answer": "-1<AND>-5",
            "image_source": "web",
            "capability": "ocr,math",
            "image": image(n // 2, f"v1_{n // 2}.png"),
        }
        for n in range(3)
    ]
    write(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    benchmark = get("mmvet")
    questions = benchmark.read(tmp_path)
    assert [(q.id, q.cluster) for q in questions] == [("v1_0", "v1_0.png"), ("v1_1", "v1_0.png"), ("v1_2", "v1_1.png")]
    assert questions[0].details == {"capabilities": frozenset({"ocr", "math"})}
    assert colours(benchmark, tmp_path, questions) == [0, 0, 1]


@pytest.mark.parametrize("config", ["data", "Full"])
def test_pope_in_either_configuration(tmp_path: Path, config: str) -> None:
    rows = [
        {
            "id": str(10 * position + n),
            "question_id": str(n + 1),
            "question": "Is there a car in the image?",
            "answer": "yes" if n else "no",
            "image_source": f"COCO_val2014_{n:012d}",
            "category": setting,
            "image": image(n),
        }
        for position, setting in enumerate(("adversarial", "popular", "random"))
        for n in range(2)
    ]
    if config == "data":
        write(tmp_path / config / "test-00000-of-00001.parquet", rows)
    else:
        for setting in ("adversarial", "popular", "random"):
            of_setting = [row for row in rows if row["category"] == setting]
            write(tmp_path / config / f"{setting}-00000-of-00001.parquet", of_setting)
    labels = tmp_path / "labels"
    labels.mkdir()
    for setting in ("adversarial", "popular", "random"):
        lines = [
            {"question_id": int(row["question_id"]), "image": row["image_source"] + ".jpg", "label": row["answer"]}
            | {"text": row["question"]}
            for row in rows
            if row["category"] == setting
        ]
        (labels / f"coco_pope_{setting}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = get("pope")
    questions = benchmark.read(tmp_path)
    assert questions == benchmark.read(labels)
    assert colours(benchmark, tmp_path, questions) == [0, 1] * 3


def test_scienceqa_with_and_without_an_image(tmp_path: Path) -> None:
    rows = [
        {
            "image": image(n) if n != 1 else None,
            "question": f"Which {n}?",
            "choices": ["one", "two"],
            "answer": n % 2,
            "hint": "Look." if n == 0 else "",
            "task": "closed choice",
            "grade": "grade8",
            "subject": "natural science",
            "topic": "physics",
        }
        for n in range(3)
    ]
    write(tmp_path / "ScienceQA-FULL" / "test-00000-of-00002.parquet", rows[:2])
    write(tmp_path / "ScienceQA-FULL" / "test-00001-of-00002.parquet", rows[2:])
    write(tmp_path / "ScienceQA-IMG" / "test-00000-of-00001.parquet", rows[2:])
    benchmark = get("scienceqa")
    questions = benchmark.read(tmp_path)
    assert [q.id for q in questions] == ["0", "1", "2"]
    assert questions[0].prompt.startswith("Context: Look.\nWhich 0?\nA. one\nB. two\n")
    assert ("grade", "7-12") in questions[0].details["groups"]
    assert colours(benchmark, tmp_path, questions) == [0, None, 2]
    assert len(benchmark.read(tmp_path / "ScienceQA-IMG")) == 1


def test_textvqa_brings_its_hints(tmp_path: Path) -> None:
    row = {"question_id": 7, "image_id": "ab", "question": "what brand?", "answers": ["nokia"] * 10}
    row |= {"ocr_tokens": ["NOKIA", "3310"], "image": image(5)}
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", [row])
    benchmark = get("textvqa")
    (question,) = benchmark.read(tmp_path)
    assert question.prompt.startswith("what brand?\nReference OCR token: NOKIA, 3310\nAnswer")
    assert "OCR" not in benchmark.read(tmp_path, "no-ocr")[0].prompt
    assert colours(benchmark, tmp_path, [question]) == [5]


def test_vizwiz(tmp_path: Path) -> None:
    row = {"question_id": "VizWiz_val_00000000.jpg", "question": "what is it?", "answers": ["a can"] * 10}
    row |= {"category": "other", "image": image(6)}
    write(tmp_path / "data" / "val-00000-of-00001.parquet", [row])
    benchmark = get("vizwiz")
    (question,) = benchmark.read(tmp_path)
    assert question.id == question.image == "VizWiz_val_00000000.jpg"
    assert question.references == ("a can",) * 10
    assert question.details == {"answer_type": "other", "answerable": None}
    assert colours(benchmark, tmp_path, [question]) == [6]


def test_mmstar_and_mmbench(tmp_path: Path) -> None:
    row = {"index": 3, "question": "Q? A: x B: y", "answer": "B", "category": "c", "l2_category": "l"}
    write(tmp_path / "star" / "val-00000-of-00001.parquet", [row | {"image": image(3)}])
    (question,) = get("mmstar").read(tmp_path / "star")
    assert (question.id, question.image, question.references) == ("3", "3.jpg", ("B",))
    assert colours(get("mmstar"), tmp_path / "star", [question]) == [3]

    row = {"question": "Q?", "hint": None, "A": "x", "B": "y", "C": None, "D": "nan", "answer": "B", "category": "c"}
    rows = [row | {"index": index, "L2-category": "l", "split": "dev", "image": image(4)} for index in (4, 1_000_004)]
    write(tmp_path / "bench" / "en" / "dev-00000-of-00001.parquet", rows)
    write(tmp_path / "bench" / "cn" / "dev-00000-of-00001.parquet", rows)
    questions = get("mmbench").read(tmp_path / "bench")
    assert [(q.id, q.cluster, q.image) for q in questions] == [("4", "4", "4.jpg"), ("1000004", "4", "4.jpg")]
    assert questions[0].details["options"] == {"A": "x", "B": "y"}
    assert colours(get("mmbench"), tmp_path / "bench", questions) == [4, 4]


def test_mmmu_reads_every_subject(tmp_path: Path) -> None:
    for number, subject in enumerate(("Accounting", "Art")):
        row = {"id": f"validation_{subject}_1", "question": "See <image 1>. Q?", "options": "['x', 'y']", "answer": "B"}
        row |= {"question_type": "multiple-choice", "image_1": image(number), "image_2": None}
        write(tmp_path / subject / "validation-00000-of-00001.parquet", [row])
        write(tmp_path / subject / "dev-00000-of-00001.parquet", [row])
    questions = get("mmmu").read(tmp_path)
    assert [q.id for q in questions] == ["validation_Accounting_1", "validation_Art_1"]
    assert colours(get("mmmu"), tmp_path, questions) == [0, 1]


def test_ai2d_and_seed(tmp_path: Path) -> None:
    row = {"question": "Which?", "options": ["p", "q"], "answer": "1"}
    write(tmp_path / "ai2d" / "test-00000-of-00001.parquet", [row | {"image": image(n)} for n in range(3)])
    questions = get("ai2d").read(tmp_path / "ai2d")
    assert [(q.id, q.references) for q in questions] == [("0", ("B",)), ("1", ("B",)), ("2", ("B",))]
    assert colours(get("ai2d"), tmp_path / "ai2d", questions) == [0, 1, 2]

    row = {f"choice_{letter}": letter for letter in "abcd"} | {"question": "Q?", "answer": "A", "question_type_id": 10}
    rows = [
        row | {"question_id": "1", "data_id": "5_6", "data_type": "image", "image": [image(1)]},
        row | {"question_id": "v2", "data_id": "7", "data_type": "video", "image": [image(n) for n in (2, 3, 4)]},
    ]
    write(tmp_path / "seed" / "test-00000-of-00001.parquet", rows)
    questions = get("seed").read(tmp_path / "seed")
    assert [q.details["type"] for q in questions] == ["10", "10"]
    assert colours(get("seed"), tmp_path / "seed", questions) == [1, 3]  # the middle frame of a video


def star(folder: Path, rows: int = 5, **more: Any) -> Path:
    row = {"question": "Q?", "answer": "B", "category": "c", "l2_category": "l"} | more
    values = [row | {"index": n, "image": more.get("image", image(n))} for n in range(rows)]
    return write(folder / "data" / "val-00000-of-00001.parquet", values)


def test_images_are_read_in_any_order_from_many_row_groups(tmp_path: Path) -> None:
    file = star(tmp_path, rows=9)
    image_folder = get("mmstar").images(file)
    for n in (8, 0, 4, 4, 1, 7, 3, 0):
        assert image_folder.open(f"{n}.jpg").getpixel((0, 0)) == (n, 0, 0)
    with pytest.raises(DataError, match=r"'9\.jpg': not in the parquet"):
        image_folder.open("9.jpg")


def test_the_engine_answers_about_them_as_about_files(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    names = write_images(tmp_path / "files", 4)
    contents = [{"bytes": (tmp_path / "files" / name).read_bytes(), "path": None} for name in names]
    row = {"question": "Q?", "answer": "B", "category": "c", "l2_category": "l"}
    rows = [
        row | {"index": n, "image": content} for n, content in enumerate([*contents, contents[0] | {"bytes": b"x"}])
    ]
    write(tmp_path / "data" / "val-00000-of-00001.parquet", rows)
    benchmark = get("mmstar")
    questions = benchmark.read(tmp_path)
    engine = AnsweringEngine(vlm, max_new_tokens=4)
    answers = {a.question_id: a for a in engine.answer(questions, benchmark.images(tmp_path))}
    assert answers["4"].state is AnswerState.FAILED
    assert "row 5): not an image" in str(answers["4"].error)
    files = {a.question_id: a for a in engine.answer(questions[:4], tmp_path / "files")}  # .png is found for .jpg
    assert {key: answer for key, answer in answers.items() if key != "4"} == files


def test_a_converted_copy_names_its_splits_by_folders(tmp_path: Path) -> None:
    row = {"index": 3, "question": "Q?", "answer": "B", "category": "c", "l2_category": "l", "image": image(3)}
    write(tmp_path / "default" / "val" / "0000.parquet", [row])
    write(tmp_path / "default" / "test" / "0000.parquet", [row])
    assert [q.id for q in get("mmstar").read(tmp_path)] == ["3"]


def test_a_folder_above_copies_is_no_copy(tmp_path: Path) -> None:
    star(tmp_path / "mmstar")
    star(tmp_path / "other")
    with pytest.raises(DataError, match="no MMStar questions in this folder"):
        get("mmstar").read(tmp_path)


def test_defects_of_a_copy_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = star(tmp_path, image={"bytes": None, "path": "elsewhere.png"})
    with pytest.raises(DataError, match=r"row 1: the image '0\.jpg' is not in column 'image'"):
        get("mmstar").images(tmp_path).open("0.jpg")
    file = star(tmp_path, image={"bytes": b"broken", "path": None})
    with pytest.raises(DataError, match=r"0\.jpg \(.*row 1\): not an image"):
        get("mmstar").images(tmp_path).open("0.jpg")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"val-00000-of-00001\.parquet: not a whole Parquet file"):
        get("mmstar").read(tmp_path)
    file.rename(file.with_name("train-00000-of-00001.parquet"))
    with pytest.raises(DataError, match="of the splits train; expected val"):
        get("mmstar").read(tmp_path)
    for config in ("en_gb", "en_us"):
        write(tmp_path / "two" / config / "dev-00000-of-00001.parquet", [{"index": 1}])
    with pytest.raises(DataError, match=r"several configurations \(en_gb, en_us\)"):
        get("mmbench").read(tmp_path / "two")
    with pytest.raises(DataError, match="row 1 lacks question, answer"):
        get("mmstar").read(write(tmp_path / "other" / "val-00000-of-00001.parquet", [{"index": 1}]))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RequestError, match=r"pip install 'olivine\[parquet\]'"):
        get("mmstar").read(star(tmp_path / "third"))


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_size, "_FREE", 2**20)


def columns_of(count: int, **more: Any) -> dict[str, Any]:
    """Return MMStar's columns for `count` rows, with no value repeated."""
    given = {"index": list(range(count)), "question": ["?"] * count, "answer": ["A"] * count}
    cell = {"bytes": b"x", "path": "x.png"}
    return {**given, "image": [cell] * count, "category": ["c"] * count, "l2_category": ["l"] * count, **more}


def hostile(kind: str) -> pa.Table:
    if kind == "zeros":
        return pa.table(columns_of(2, question=["\0" * (3 << 20), "?"]))
    if kind == "one value, named often":
        once = pa.DictionaryArray.from_arrays(pa.array([0] * 4000), pa.array(["x" * 90_000]))
        return pa.table(columns_of(4000, question=once))
    if kind == "zeros in an image":
        return pa.table(columns_of(2, image=[{"bytes": b"\0" * (3 << 20), "path": "x.png"}] * 2))
    return pa.table({"index": pa.nulls(300_000, pa.int64()), "question": pa.nulls(300_000, pa.string())})


KINDS = ["zeros", "one value, named often", "zeros in an image", "millions of empty rows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_bounds")
def test_a_small_file_that_would_expand_is_refused_before_it_does(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "val-00000-of-00001.parquet"
    often = kind == "one value, named often"
    pq.write_table(hostile(kind), file, compression="zstd", use_dictionary=often, store_schema=False)
    assert file.stat().st_size < 100_000 + 90_000 * often
    for use in (get("mmstar").read, get("mmstar").images):
        with pytest.raises(DataError, match=r"val-00000-of-00001\.parquet: [\d,]+ bytes that become"):
            use(tmp_path)


def test_damage_inside_a_file_is_named_by_column_and_rows(tmp_path: Path) -> None:
    file = tmp_path / "val-00000-of-00001.parquet"
    rows = pa.table(columns_of(6))
    pq.write_table(rows, file, row_group_size=2, compression="none", use_dictionary=False)
    content = bytearray(file.read_bytes())
    found = pq.read_metadata(file).row_group(1).column(rows.column_names.index("answer"))
    content[found.data_page_offset : found.data_page_offset + 12] = b"\xff" * 12
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"parquet: column 'answer' in rows 3 to 4 cannot be read"):
        get("mmstar").read(tmp_path)


def test_text_that_is_not_utf_8_is_named_by_row_and_column(tmp_path: Path) -> None:
    file = tmp_path / "val-00000-of-00001.parquet"
    broken = pa.array([b"?", b"\xff\xfe", b"?"]).view(pa.string())
    pq.write_table(pa.table(columns_of(3, question=broken)), file)
    with pytest.raises(DataError, match=r"parquet: row 2, column 'question': not readable"):
        get("mmstar").read(tmp_path)
    path = pa.array([b"x.png", b"\xff\xfe"]).view(pa.string())
    image_column = pa.StructArray.from_arrays([pa.array([b"x", b"x"]), path], ["bytes", "path"])
    pq.write_table(pa.table(columns_of(2, image=image_column)), file)
    with pytest.raises(DataError, match=r"parquet: row 2, column '.*': not readable"):
        get("mmstar").read(tmp_path)
