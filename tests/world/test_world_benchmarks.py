"""World benchmarks: the official readers accept the files, gold answers get full marks, constant answers do not."""

import json
from collections import Counter
from hashlib import sha256

import pytest
from PIL import Image
from scene_checker import KINDS, NUMBERS, answer, scene_in

from olivine.errors import DataError, RequestError
from olivine.evaluation import benchmarks
from olivine.evaluation.majority_baseline import majority, majority_baseline_answers
from olivine.evaluation.rule_judge import RuleJudge
from olivine.files import read_json, read_json_lines
from olivine.records import Answer
from olivine.world import benchmarks as world_benchmarks
from olivine.world import training_data
from olivine.world.benchmarks import WRITERS, pope, write_all
from olivine.world.image_files import save_all
from olivine.world.sampling import HELD_OUT, VERSION, sample_scenes

SEED = 11


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_all(folder, SEED, share=0.15, measure=majority_baseline_answers)
    return folder


def benchmark(name):
    return benchmarks.get(name, judge=RuleJudge() if name == "mmvet" else None)


def truths(folder):
    return {row["image"]: row["scene"] for row in read_json_lines(folder / "scenes.jsonl")}


def most_common(references):
    return Counter(references).most_common(1)[0][0]


FULL = {
    "gqa": {"accuracy": 100, "binary": 100, "open": 100, "validity": 100, "plausibility": 100},
    "vqav2": {"accuracy": 100},
    "pope": {f"{setting}/f1": 1 for setting in ("mean", *pope.SETTINGS)},
    "mme": {"perception-6-of-10": 1200, "cognition-2-of-4": 400, "total": 1600},
    "mmvp": {"pair": 1, "single": 1},
    "mmvet": {"total": 100},
    "scienceqa": {"accuracy": 100, "img": 100},
    "textvqa": {"accuracy": 100, "accuracy/without-ocr": 100},
}


@pytest.mark.parametrize("name", WRITERS)
def test_official_readers_accept_them_and_gold_answers_get_full_marks(world, name):
    reader = benchmark(name)
    questions = reader.read(world / name)
    root = reader.images(world / name)
    for question in questions:
        if question.image is not None:
            with Image.open(root / question.image) as image:
                assert image.size == (96, 96)
    gold = [Answer(question.id, most_common(question.references)) for question in questions]
    metrics = reader.score(questions, gold).metrics
    assert {key: metrics[key] for key in FULL[name]} == pytest.approx(FULL[name], abs=1.0 if name == "vqav2" else 1e-9)
    record = read_json(world / "world.json")["benchmarks"][name]
    assert record["questions"] == len(questions)
    assert record["images"] == len(truths(world / name))


#: The highest majority-class baseline allowed, by figure. It is computed on these few files, which flatters it.
GUESSED = {
    "gqa": ("accuracy", 36),
    "vqav2": ("accuracy", 36),
    "pope": ("mean/accuracy", 0.5),
    "mme": ("total", 400),
    "mmvp": ("pair", 0.0),
    "mmvet": ("total", 65),
    "scienceqa": ("accuracy", 45),
    "textvqa": ("accuracy", 20),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_majority_class_baseline_stays_low(world, name):
    metric, most = GUESSED[name]
    record = read_json(world / "world.json")["benchmarks"][name]
    assert record["majority"][metric] <= most
    reader = benchmark(name)
    assert record["majority"] == dict(majority(reader, reader.read(world / name)).metrics)


# The independent solver's answer to every written question


def test_gqa_answers_and_what_they_entail(world):
    shown = truths(world / "gqa")
    rows = read_json(world / "gqa" / "testdev_all_questions.json")
    balanced = read_json(world / "gqa" / "testdev_balanced_questions.json")
    choices = read_json(world / "gqa" / "testdev_choices.json")
    for row in rows.values():
        scene = shown[f"images/{row['imageId']}.jpg"]
        assert answer(row["question"], scene) == row["answer"], row
        assert all(rows[other]["imageId"] == row["imageId"] for other in row["entailed"])
    assert balanced == {key: row for key, row in rows.items() if row["isBalanced"]}
    assert len(rows) > 1.5 * len(balanced)
    assert {row["types"]["structural"] for row in balanced.values()} == {
        "query",
        "verify",
        "choose",
        "logical",
        "compare",
    }
    assert {row["types"]["semantic"] for row in balanced.values()} == {"attr", "obj", "cat", "rel", "global"}
    for key, row in rows.items():
        assert row["answer"] in choices[key]["plausible"]
        assert set(choices[key]["plausible"]) <= set(choices[key]["valid"])
        operations = row["semantic"]
        assert all(step < place for place, o in enumerate(operations) for step in o["dependencies"]), operations
    reader = benchmarks.get("gqa")
    questions = reader.read(world / "gqa" / "testdev_all_questions.json")
    score = reader.score(questions, [Answer(q.id, q.references[0]) for q in questions])
    assert score.metrics["consistency"] == 100
    wrong = [Answer(q.id, q.references[0] if q.details["balanced"] else "?") for q in questions]
    assert reader.score(questions, wrong).metrics["consistency"] < 70


def test_vqav2_annotators_agree_on_facts(world):
    folder = world / "vqav2"
    questions = read_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
    annotations = read_json(folder / "v2_mscoco_val2014_annotations.json")["annotations"]
    shown = truths(folder)
    disputed = 0
    for question, row in zip(questions, annotations, strict=True):
        scene = shown[f"images/COCO_val2014_{question['image_id']:012d}.jpg"]
        assert row["multiple_choice_answer"] == answer(question["question"], scene).lower()
        given = [human["answer"] for human in row["answers"]]
        assert len(given) == 10
        disputed += len(set(given)) > 1
        assert {human["answer_confidence"] for human in row["answers"]} <= {"yes", "maybe", "no"}
    assert 0.1 < disputed / len(annotations) < 0.7
    assert {row["answer_type"] for row in annotations} == {"yes/no", "number", "other"}


def test_pope_negatives_follow_its_rule(world):
    shown = truths(world / "pope")
    frequency = Counter(kind for scene in shown.values() for kind in {t["kind"] for t in scene["things"]})
    for setting in pope.SETTINGS:
        rows = read_json_lines(world / "pope" / f"coco_pope_{setting}.json")
        by_image = {}
        for row in rows:
            scene = shown[f"images/{row['image']}"]
            assert answer(row["text"], scene) == row["label"]
            kind = row["text"].split()[3]
            by_image.setdefault(row["image"], {"yes": [], "no": []})[row["label"]].append(kind)
        for image, asked in by_image.items():
            assert len(set(asked["yes"])) == len(set(asked["no"])) == 3
            there = {t["kind"] for t in shown[f"images/{image}"]["things"]}
            left = [frequency[kind] for kind in KINDS - there - set(asked["no"])]
            if setting == "popular":
                assert min(frequency[kind] for kind in asked["no"]) >= max(left)
            if setting == "adversarial":
                assert seen_together(shown, asked, there)


def seen_together(shown, asked, there):
    """Return whether the first absent class is the one that occurs most often with the first present one."""
    first = asked["yes"][0]
    company = Counter(
        kind
        for scene in shown.values()
        for kind in {t["kind"] for t in scene["things"]}
        if first in {t["kind"] for t in scene["things"]}
    )
    return company[asked["no"][0]] == max(company[kind] for kind in KINDS - there)


def test_mme_asks_two_questions_per_image(world):
    shown = truths(world / "mme")
    for image, scene in shown.items():
        lines = [line.split("\t") for line in (world / "mme" / image).with_suffix(".txt").read_text().splitlines()]
        assert sorted(gold for _, gold in lines) == ["No", "Yes"]
        for text, gold in lines:
            assert text.endswith(" Please answer yes or no.")
            assert answer(text.removesuffix(" Please answer yes or no."), scene) == gold.lower()


def test_mmvp_twins_differ_in_one_thing(world):
    shown = truths(world / "mmvp")
    reader = benchmarks.get("mmvp")
    questions = reader.read(world / "mmvp")
    for first, second in zip(questions[::2], questions[1::2], strict=True):
        assert first.prompt == second.prompt
        assert first.references != second.references
        scenes_of = [shown[question.image] for question in (first, second)]
        for question, scene in zip((first, second), scenes_of, strict=True):
            right = question.details["options"][question.references[0]]
            assert answer(question.details["question"].split(" (a)")[0], scene) == (
                right if " " in right else fold(right)
            )
        one, other = (sorted(json.dumps(thing, sort_keys=True) for thing in scene["things"]) for scene in scenes_of)
        changed = (Counter(one) - Counter(other)).total(), (Counter(other) - Counter(one)).total()
        assert changed in ((1, 1), (1, 0), (0, 1))
        assert all((t["kind"], t["colour"]) not in HELD_OUT for scene in scenes_of for t in scene["things"])


def fold(option):
    return option.lower() if option in ("Yes", "No") else option


def test_mmvet_elements(world):
    shown = truths(world / "mmvet")
    rows = read_json(world / "mmvet" / "mm-vet.json")
    assert {name for row in rows.values() for name in row["capability"]} == {
        "rec",
        "ocr",
        "spat",
        "math",
        "know",
        "gen",
    }
    for row in rows.values():
        scene = shown[f"images/{row['imagename']}"]
        elements = [element.split("<OR>") for element in row["answer"].split("<AND>")]
        if len(elements) == 1:
            right = answer(row["question"], scene) if "colours" not in row["question"] else elements[0][0]
            assert elements[0][0] == right
            assert elements[0][1:] in ([], [NUMBERS[int(right)]] if right.isdecimal() and int(right) < 10 else [])
        else:
            facts = {scene["setting"]} | {t[name] for t in scene["things"] for name in ("kind", "colour", "writing")}
            assert {element[0] for element in elements} <= facts
            if row["question"] in ("What do you see?", "What is in the picture?"):
                assert {element[0] for element in elements} == {t["kind"] for t in scene["things"]}


def test_scienceqa_with_and_without_images(world):
    shown = truths(world / "scienceqa")
    problems = read_json(world / "scienceqa" / "problems.json")
    seen = read = 0
    for key, row in problems.items():
        right = row["choices"][row["answer"]]
        assert len(set(row["choices"])) == len(row["choices"]) >= 2
        if row["image"]:
            seen += 1
            assert answer(row["question"], shown[f"test/{key}/image.png"]) == right
        elif row["hint"]:
            read += 1
            assert answer(row["question"], scene_in(row["hint"])) == right
    assert 0.6 < seen / len(problems) < 0.7
    assert read > (len(problems) - seen) / 2


def test_textvqa_asks_for_the_text_of_the_sign(world):
    shown = truths(world / "textvqa")
    for row in read_json(world / "textvqa" / "TextVQA_0.5.1_val.json")["data"]:
        right = answer(row["question"], shown[f"train_images/{row['image_id']}.jpg"])
        assert most_common(row["answers"]) == right.lower()
        assert row["ocr_tokens"] == [right]
    assert not list((world / "textvqa").glob("*OCR*")), "hints would answer without the image"


# Reproducibility


def digests(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_seed_gives_the_same_bytes_and_existing_folders_stay(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    write_all(first, 3, share=0.02)
    told = []
    write_all(second, 3, share=0.02, on_benchmark=lambda done, total: told.append((done, total)))
    assert digests(first) == digests(second)
    assert told[-1] == (len(WRITERS), len(WRITERS))
    (first / "pope" / "mark").touch()
    write_all(first, 3, share=0.02)
    assert (first / "pope" / "mark").exists()
    (first / "mmvp" / "Questions.csv").unlink()
    (first / "mmvp").rename(first / "elsewhere")
    write_all(first, 3, share=0.02)
    assert (first / "mmvp" / "Questions.csv").exists()
    write_all(first, 4, share=0.02)
    assert not (first / "pope" / "mark").exists()
    assert digests(first / "gqa") != digests(second / "gqa")


def test_a_failing_writer_leaves_no_folder_and_keeps_the_others(tmp_path, monkeypatch):
    def broken(folder, seed, images):
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setitem(WRITERS, "mme", type(WRITERS["mme"])(broken, 2))
    with pytest.raises(OSError, match="disk full"):
        write_all(tmp_path, 1, share=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gqa", "pope", "vqav2", "world.json"]


def test_wrong_requests(tmp_path):
    with pytest.raises(RequestError, match="share"):
        write_all(tmp_path, 1, share=0)
    (tmp_path / "world.json").write_text("[]")
    with pytest.raises(DataError, match=r"world\.json"):
        write_all(tmp_path, 1, share=0.02)


def test_many_processes_draw_the_same_as_one(tmp_path):
    one, two = ({tmp_path / name / f"{s.id}.jpg": s for s in sample_scenes(1, "many", 130)} for name in ("one", "two"))
    told = []
    save_all(one, processes=1)
    save_all(two, processes=2, on_image=lambda done, total: told.append((done, total)))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert sorted(told)[-1] == (130, 130)


def test_images_are_jpeg_without_chroma_subsampling(world):
    with Image.open(next((world / "gqa" / "images").iterdir())) as image:
        assert image.format == "JPEG"
        assert {component[1:3] for component in image.layer} == {(1, 1)}


def test_benchmarks_of_an_earlier_version_of_the_world_are_rewritten(tmp_path, monkeypatch):
    for module in (world_benchmarks, training_data):
        monkeypatch.setattr(module, "VERSION", VERSION - 1)
    write_all(tmp_path, 3, share=0.02)
    training_data.write(tmp_path / "training", 3, 4)
    monkeypatch.undo()
    for folder in ("pope", "training"):
        (tmp_path / folder / "mark").touch()
    write_all(tmp_path, 3, share=0.02)
    training_data.write(tmp_path / "training", 3, 4)
    assert not (tmp_path / "pope" / "mark").exists()
    assert not (tmp_path / "training" / "mark").exists()
