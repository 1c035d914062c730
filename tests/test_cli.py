"""The command line as users meet it: output and exit codes; bad input gives one clear message and no partial file."""

import json
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from olivine.data.easy_vqa import convert
from olivine.evaluation import benchmarks
from olivine.testing import llava_item, tiny_model_recipe, write_dataset, write_images


@pytest.fixture
def experiment(tmp_path):
    """A recipe file, its data, and the run directory it will write."""
    dataset = write_dataset(tmp_path / "data", items=20)
    recipe = {
        "name": "tiny",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images")}},
        "stages": [
            {"name": "instruct", "train": ["connector", "language"], "data": "all", "batch": 4, "lr": 1e-3, "steps": 2}
        ],
        "optimizer": {"precision": "fp32"},
        "evaluate": ["exact-match"],
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path, dataset, tmp_path / "run"


def rewrite(dataset, change):
    rows = json.loads(dataset.read_text())
    change(rows)
    dataset.write_text(json.dumps(rows))


def test_train_evaluate_and_score(run, experiment, tmp_path):
    recipe, _, output = experiment
    code, out, err = run("train", recipe)
    assert code == 0, err
    assert out == ""
    assert err.strip().endswith(f"done: {output / 'instruct' / 'checkpoint'}")
    assert "frozen" in err

    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": n, "image": f"{n}.png", "text": "what is it?", "answer": "?"} for n in range(3)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("evaluate", output, "--data", questions, "--images", tmp_path / "data" / "images", "--json")
    code, out, err = run(*command)
    assert code == 0, err
    summary = json.loads(out)
    assert summary.keys() == {"benchmark", "variant", "metrics", "items", "missing", "missing_rule", "unread"}
    answers = output / "instruct" / "evaluation" / "exact-match" / "answers.jsonl"
    code, again, err = run("score", "exact-match", "--annotations", questions, "--answers", answers, "--json")
    assert code == 0, err
    assert json.loads(again) == summary
    code, out, err = run("score", "exact-match", "--annotations", questions, "--answers", answers)
    assert out.startswith("accuracy\t")


def test_help_has_an_example_for_every_command(run):
    for command in (
        ["train"],
        ["evaluate"],
        ["score"],
        ["doctor"],
        ["recipes"],
        ["benchmarks"],
        ["diff"],
        ["clean"],
        *(["data", c] for c in ("check", "show", "easy-vqa")),
    ):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Example: olivine " + " ".join(command) in " ".join(out.split())


def change_image(name):
    return lambda rows: rows[0].update(image=name)


def turns(*values):
    return lambda rows: rows[0].update(conversations=[{"from": role, "value": text} for role, text in values])


BAD_DATA = {
    "missing image": (change_image("none.png"), ["item 0 (id 's0')", "none.png", "not found"]),
    "image leaves the root": (change_image("../../etc/passwd.png"), ["item 0", "leaves the root"]),
    "absolute image path": (change_image("/etc/passwd"), ["item 0", "leaves the root"]),
    "empty conversation": (turns(), ["item 0", "conversations is empty"]),
    "two human turns": (
        turns(("human", "<image> a"), ("human", "b"), ("gpt", "c")),
        ["item 0", "two human turns in a row"],
    ),
    "more marks than images": (
        turns(("human", "<image> <image>"), ("gpt", "c")),
        ["item 0", "2 <image> marks for 1 images"],
    ),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_stops_with_file_and_item(run, experiment, kind):
    recipe, dataset, output = experiment
    change, words = BAD_DATA[kind]
    rewrite(dataset, change)
    code, _, err = run("train", recipe)
    assert code == 2
    for word in [*words, "train.json", "on_error: skip"]:
        assert word in err
    assert not output.exists()
    code, _, err = run("train", recipe, "data.all.on_error=skip")
    assert code == 0, err
    assert "1 skipped" in err


def test_a_truncated_image_is_named_when_its_batch_comes(run, experiment):
    recipe, dataset, output = experiment
    for path in (dataset.parent / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-300])
    code, _, err = run("train", recipe)
    assert code == 2
    for word in ("train.json", "id 's", ".png", "truncated or damaged"):
        assert word in err
    assert not (output / "instruct" / "checkpoint").exists()


def test_json_cut_in_the_middle(run, experiment):
    recipe, dataset, output = experiment
    dataset.write_text(dataset.read_text()[:500])
    code, _, err = run("train", recipe)
    assert code == 2
    assert "train.json: not valid JSON at line 1" in err
    assert not output.exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.instruct.bach=3", ["stages.instruct.bach", "Did you mean 'batch'?"]),
        ("model.language.from=nobody/no-such-model", ["model.language.from", "nobody/no-such-model", "network"]),
        ("model.vision.from=./no/folder", ["model.vision.from", "not found"]),
        ("model.vision.from={model_type: vit}", ["'vit'", "clip_vision_model, dinov2"]),
        ("model.vision.layer=-9", ["model.vision.layer", "-9"]),
        ("model.connector.activation=gellu", ["model.connector.activation", "gellu"]),
        ("model.language.tokenizer=null", ["model.language.tokenizer", "missing"]),
        ("model.language.template=vicuna", ["template 'vicuna'", "begins with '<s>'"]),
        ("data.all.json=none.json", ["none.json", "not found"]),
    ],
)
def test_a_wrong_recipe_names_the_key(run, experiment, override, words):
    recipe, _, output = experiment
    code, _, err = run("train", recipe, override)
    assert code == 2
    for word in words:
        assert word in " ".join(err.split())
    assert not output.exists()


def test_wrong_requests(run, experiment, tmp_path):
    assert run("train", tmp_path / "none.yaml")[0] == 2
    assert run("train")[0] == 2
    assert run("trian")[0] == 2
    assert run("evaluate", tmp_path, "--data", tmp_path)[0] == 2
    code, _, err = run("score", "exact-mach", "--annotations", "a", "--answers", "b")
    assert code == 2
    assert "Did you mean 'exact-match'?" in err


def test_data_check_and_show(run, tmp_path):
    dataset = write_dataset(tmp_path, items=6)
    rewrite(dataset, lambda rows: rows.append(llava_item("\x1b[31mred", [("a\x1b[2J", "b")])))
    rewrite(dataset, change_image("none.png"))
    code, out, err = run("data", "check", dataset, "--images", tmp_path / "images", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["items"], report["unsupervised"], report["broken"]) == (7, 1, {"missing image": 1})
    code, out, _ = run("data", "check", dataset, "--images", tmp_path / "images")
    assert "not trainable as they are: 1 (14.29 %)" in out
    code, out, _ = run("data", "show", dataset, "--item", "#6")
    assert code == 0
    assert "\x1b[2J" not in out, "a data set must not steer the terminal"
    code, out, _ = run("data", "show", dataset, "--item", "s2", "--turns", "independent")
    assert "[image: 576 tokens]" in out
    assert "question 1, on its own:" in out
    assert run("data", "show", dataset, "--item", "nobody")[0] == 2


def write_easy_vqa(folder):
    """A folder in easy-VQA's layout: two images a split."""
    for split in ("train", "test"):
        write_images(folder / split / "images", 2, side=64)
        rows = [
            ["what color is the shape?", "red", 0],
            ["is there not a circle?", "no", 0],
            ["is a teal shape present?", "yes", 1],
            ["is there a circle?", "no", 1],
        ]
        (folder / split / "questions.json").write_text(json.dumps(rows))
    return folder


def test_easy_vqa_conversion_by_hand(run, tmp_path):
    target = tmp_path / "easy"
    code, _, err = run("data", "easy-vqa", target, "--source", write_easy_vqa(tmp_path / "source"))
    assert code == 0, err
    captions = json.loads((target / "captions.json").read_text())
    assert [(c["image"], c["conversations"][1]["value"]) for c in captions] == [("train/0.png", "a red circle")]
    instructions = json.loads((target / "instructions.json").read_text())
    assert [len(item["conversations"]) for item in instructions] == [4, 4]
    assert instructions[0]["conversations"][0]["value"] == "<image>\nwhat color is the shape?"
    questions = [json.loads(line) for line in (target / "questions.jsonl").read_text().splitlines()]
    assert [q["category"] for q in questions] == ["colour", "yes/no", "yes/no", "yes/no"]
    assert questions[2] == {
        "question_id": 2,
        "image": "test/1.png",
        "text": "is a teal shape present?",
        "answer": "yes",
        "category": "yes/no",
    }
    with Image.open(target / "images" / "test" / "1.png") as image:
        assert image.format == "PNG"


def test_a_conversion_that_breaks_leaves_nothing(run, tmp_path):
    source = write_easy_vqa(tmp_path / "source")
    (source / "test" / "images" / "1.png").unlink()
    code, _, err = run("data", "easy-vqa", tmp_path / "easy", "--source", source)
    assert code == 2
    assert "1.png" in err
    assert not (tmp_path / "easy").exists()
    assert not [p for p in tmp_path.iterdir() if "easy" in p.name]


def test_real_easy_vqa_converts_whole(shared_data, tmp_path):
    convert(shared_data / "easy-vqa", tmp_path / "easy")
    captions = json.loads((tmp_path / "easy" / "captions.json").read_text())
    assert len(captions) == 3542
    assert {item["conversations"][1]["value"].split()[0] for item in captions} == {"a"}
    assert len((tmp_path / "easy" / "questions.jsonl").read_text().splitlines()) == 9673
    instructions = json.loads((tmp_path / "easy" / "instructions.json").read_text())
    assert sum(len(item["conversations"]) // 2 for item in instructions) == 38575


OFFICIAL = {
    "gqa": (
        "gqa/testdev_balanced_questions.json",
        {"accuracy": 63.31, "binary": 80.60, "open": 48.64, "distribution": 1.80},
    ),
    "mme": ("mme/lavin", {"perception": 963.6114, "cognition": 249.6429}),
    "pope": ("pope/llava-pin", {"adversarial/f1": 0.8446, "random/f1": 0.8714, "popular/f1": 0.8625}),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_answers_get_the_official_figures(run, shared_data, name):
    annotations, figures = OFFICIAL[name]
    folder = shared_data / annotations
    answers = {
        "gqa": shared_data / "gqa" / "answers-llava-v1.5-13b.jsonl",
        "mme": folder,
        "pope": shared_data / "pope" / "answers-llava-v1.5-13b.jsonl",
    }[name]
    code, out, err = run("score", name, "--annotations", folder, "--answers", answers, "--json")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    for metric, figure in figures.items():
        digits = len(str(figure).split(".")[1])
        assert round(metrics[metric], max(digits, 2)) == figure, metric


def test_options_of_other_benchmarks_and_an_incomplete_judge_are_refused(run, tmp_path):
    code, _, err = run("score", "gqa", "--annotations", "a", "--answers", "b", "--grades", "c")
    assert code == 2
    assert "--grades: not an option of gqa" in err
    code, _, err = run("score", "mmvet", "--annotations", "a", "--answers", "b", "--judge-url", "http://127.0.0.1:1")
    assert code == 2
    assert "belong together" in err


def test_doctor_and_version_in_a_process_of_their_own():
    done = subprocess.run(
        [sys.executable, "-m", "olivine", "doctor"], capture_output=True, text=True, check=True, timeout=120
    )
    assert "torch\t2." in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "olivine", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("olivine ")
    assert done.stderr == ""


def test_help_of_a_benchmark_lists_its_options_and_variants(run):
    code, out, err = run("score", "refcoco", "--help")
    assert code == 0
    assert "boxes (text, default xyxy)" in out + err
    assert "variants (the first is the default)" in out + err


def test_benchmarks_are_listed(run):
    code, out, _ = run("benchmarks")
    assert code == 0
    assert "pope: POPE; yes-no; accuracy (%), F1 (%); cluster: image; variants: official, lmms-eval" in out
    assert len(out.splitlines()) == len(benchmarks.names())
    code, out, _ = run("benchmarks", "--json")
    assert {row["name"] for row in json.loads(out)} >= {"gqa", "pope", "mme"}


def test_options_of_a_benchmark_reach_it(run, tmp_path):
    paths = ("--annotations", tmp_path / "none.json", "--answers", tmp_path / "none.jsonl")
    code, _, err = run("score", "refcoco", *paths, "--set", "boxes=triangles")
    assert code == 2
    assert "xywh-pixels" in err
    code, _, err = run("score", "refcoco", *paths, "--set", "box=xyxy")
    assert code == 2
    assert "Did you mean 'boxes'" in err
