"""`olivine explain`: files and JSON of one answer, the table over a benchmark, two models, and what is refused."""

import json

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from typer.testing import CliRunner

from olivine.cli import app
from olivine.errors import OlivineError
from olivine.explanation import over_benchmark
from olivine.model import checkpoint
from olivine.printable import printable
from olivine.testing import tiny_vlm, write_images

IMAGES = 60


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models whose first token is never the end, with the names of their folders."""
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path_factory.mktemp(f"model{seed}") / "checkpoint")
        checkpoint.save(tiny_vlm(tower="clip", seed=seed), folders[-1])
    return folders


@pytest.fixture(scope="module")
def gqa(tmp_path_factory):
    """GQA's files: six questions on three images, a scene graph with boxes for two of these; and more images."""
    folder = tmp_path_factory.mktemp("gqa")
    write_images(folder / "images", IMAGES, side=16)
    for number in range(IMAGES):
        with Image.open(folder / "images" / f"{number}.png") as image:
            image.convert("RGB").save(folder / "images" / f"{number}.jpg")
        (folder / "images" / f"{number}.png").unlink()
    types = {"structural": "query", "semantic": "attr", "detailed": "directOf"}
    questions = {
        f"{image}{turn}": {
            "question": f"what color is it? {turn}", "imageId": str(image), "answer": "red", "types": types,
            "annotations": {"question": {"3": "7"}, "answer": {}},
        }
        for image in range(3) for turn in range(2)
    }  # fmt: skip
    graphs = {str(image): {"objects": {"7": {"x": 1, "y": 1, "w": 6, "h": 6}}} for image in range(2)}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(questions))
    (folder / "val_sceneGraphs.json").write_text(json.dumps(graphs))
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, ["explain", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_answer_has_an_overlay_a_page_and_json(models, gqa, tmp_path):
    image = gqa / "images" / "0.jpg"
    printed = run(
        models[0], "--image", image, "--question", "what color is it?", "--methods", "integrated-gradients",
        "--output", tmp_path, "--json",
    )  # fmt: skip
    found = json.loads(printed)
    assert json.loads((tmp_path / "explanation.json").read_text()) == found
    (one,) = found["explained"]
    map_ = np.array(one["maps"]["integrated-gradients"]["map"])
    assert map_.shape == (2, 2) == (found["grid"]["side"],) * 2
    assert one["tokens"] == [0]
    assert set(one["log_probability"]) == {"with_image", "blind", "other_image"}
    assert len(set(one["log_probability"].values())) == 3
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert min(drawn.size) >= 448
    page = (tmp_path / "explanation.html").read_text()
    assert str(escape(printable(found["answer"]))) in page
    assert "http" not in page, "it opens offline"


def test_every_word_and_method_has_its_overlay(models, gqa, tmp_path):
    image = gqa / "images" / "1.jpg"
    run(
        models[0], "--image", image, "--question", "<b>what</b> color?", "--words", "--methods", "relevancy,random",
        "--output", tmp_path, "--baseline", "blank", "--other-image", gqa / "images" / "2.jpg",
    )  # fmt: skip
    found = json.loads((tmp_path / "explanation.json").read_text())
    words = found["explained"]
    assert [token for one in words for token in one["tokens"]] == list(range(1 + words[-1]["tokens"][-1]))
    names = {path.name for path in tmp_path.glob("overlay*.png")}
    assert names == {f"overlay-{n}-{method}.png" for n in range(len(words)) for method in ("relevancy", "random")}
    assert "<b>" not in (tmp_path / "explanation.html").read_text(), "a question is shown as text"


def measured(model, gqa, output, *more):
    return json.loads(
        run(model, "--benchmark", "gqa", "--data", gqa, "--limit", 6, "--methods", "occlusion,relevancy,random",
            "--randomised", 2, "--output", output, "--json", *more)
    )  # fmt: skip


def test_a_benchmark_gives_a_table_that_a_killed_run_resumes(models, gqa, tmp_path, monkeypatch):
    table = measured(models[0], gqa, tmp_path / "whole")
    everything = table["groups"]["all"]
    assert (everything["questions"], everything["images"]) == (6, 3)
    figures = everything["methods"]["relevancy"]
    assert set(figures) == {"deletion", "insertion", "pointing", "mass", "worse", "randomised", "seconds"}
    assert set(figures["deletion"]["difference"]) == {"value", "low", "high", "p_holm"}
    assert table["groups"]["one object"]["questions"] == 4, "two of three images have boxes"
    assert everything["methods"]["random"]["randomised"]["value"] == pytest.approx(1.0)

    calls = []
    real = over_benchmark.measure

    def stopping(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(over_benchmark, "measure", stopping)
    CliRunner().invoke(
        app,
        ["explain", str(models[0]), "--benchmark", "gqa", "--data", str(gqa), "--limit", "6", "--methods",
         "occlusion,relevancy,random", "--randomised", "2", "--output", str(tmp_path / "killed")],
    )  # fmt: skip
    log = tmp_path / "killed" / "gqa" / "questions.jsonl"
    assert len(log.read_text().splitlines()) == 4
    log.write_text(log.read_text()[:-20])  # killed while it wrote
    monkeypatch.setattr(over_benchmark, "measure", lambda *a: (calls.append(1), real(*a))[1])
    calls.clear()
    again = measured(models[0], gqa, tmp_path / "killed")
    assert len(calls) == 3, "three of six were kept"
    assert without_seconds(again) == without_seconds(table)


def without_seconds(table):
    text = json.dumps(table, sort_keys=True)
    value = json.loads(text)
    for group in value["groups"].values():
        for figures in group["methods"].values():
            figures.pop("seconds")
    return value


def test_figures_of_another_model_are_not_mixed(models, gqa, tmp_path):
    measured(models[0], gqa, tmp_path)
    with pytest.raises(OlivineError, match="another request"):
        measured(models[1], gqa, tmp_path)


def test_two_models_are_split_in_both_orders(models, gqa, tmp_path):
    found = json.loads(
        run(models[0], models[1], "--benchmark", "gqa", "--data", gqa, "--limit", 6, "--fit-images", gqa / "images",
            "--output", tmp_path, "--json")
    )  # fmt: skip
    split = found["split"]
    for order in ("first as host", "second as host"):
        parts = sum(part[order]["value"] for part in split["parts"].values())
        assert parts == pytest.approx(split["difference"]["value"])
    assert (tmp_path / "gqa-two-models" / "comparison.html").is_file()
    with pytest.raises(OlivineError, match="--fit-images: missing"):
        run(models[0], models[1], "--benchmark", "gqa", "--data", gqa)
    with pytest.raises(OlivineError, match="at least 50"):
        run(models[0], models[1], "--benchmark", "gqa", "--data", gqa, "--fit-images", models[0])


def test_a_plan_runs_nothing(models):
    plan = json.loads(run(models[0], "--plan", "--image-tokens", 576, "--json"))
    rows = {row["name"]: row for row in plan["methods"]}
    assert plan["image_tokens"] == 576
    assert rows["occlusion"]["forwards"] == 577
    assert rows["random"] == {"name": "random", "forwards": 0, "backwards": 0, "seconds": 0.0, "bytes": 0}
    assert rows["relevancy"]["bytes"] > rows["gradient-input"]["bytes"], "attention weights take memory"
    lines = run(models[0], "--plan").splitlines()
    assert len(lines) == 1 + len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --image with --question, or --benchmark"),
        (("--image", "x.png"), "belong together"),
        (("--benchmark", "gqa"), "needs --data"),
        (("--image", "x.png", "--question", "?", "--benchmark", "gqa"), "either"),
        (("--benchmark", "gqa", "--data", ".", "--words"), "for one image only"),
        (("--image", "x.png", "--question", "?", "--words", "--token", "1"), "give one of them"),
        (("--image", "x.png", "--question", "?", "--methods", "lime"), "unknown name 'lime'"),
    ],
)
def test_wrong_requests_are_refused(models, arguments, message):
    with pytest.raises(OlivineError, match=message):
        run(models[0], *arguments)


def test_a_token_that_is_not_there_is_refused(models, gqa):
    with pytest.raises(OlivineError, match="there is no token 500"):
        run(models[0], "--image", gqa / "images" / "0.jpg", "--question", "what?", "--token", 500)
