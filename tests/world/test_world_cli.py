"""The demo and the commands of the embedded world, from the command line."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import yaml

from olivine.testing import tiny_model_recipe


@pytest.mark.parametrize("command", [["demo"], ["world", "write"], ["world", "page"]])
def test_help_has_an_example(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Example: olivine " + " ".join(command) in " ".join(out.split())


@pytest.fixture
def small_demo(monkeypatch, tmp_path):
    """The demo on a few images, with modules of random weights: tests the flow, not the scores."""
    from olivine import demo

    recipes = tmp_path / "recipes"
    shutil.copytree(demo._RECIPES, recipes)
    base = yaml.safe_load((recipes / "world" / "base.yaml").read_text())
    base["model"] = json.loads(tiny_model_recipe().model_dump_json(by_alias=True))
    for stage in base["stages"]:
        stage |= {"steps": 1, "batch": 2, "validate_every": 0}
    (recipes / "world" / "base.yaml").write_text(yaml.safe_dump(base))
    (recipes / "world" / "clip-s-aligned.yaml").write_text("base: base.yaml\nname: one\n")
    study = yaml.safe_load((recipes / "studies" / "world.yaml").read_text())
    study["axes"] = {"align": study["axes"]["align"]}
    study["say"] = {"align": study["say"]["align"]}
    study["benchmarks"] = {name: study["benchmarks"][name] for name in ("gqa", "mmvet")}
    (recipes / "studies" / "world.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.setattr(demo, "_RECIPES", recipes)
    monkeypatch.setattr(demo, "_IMAGES", 20)
    monkeypatch.setattr(demo, "write_all", functools.partial(demo.write_all, share=0.02))


@pytest.mark.parametrize("options", [["--quick"], []])
def test_the_demo_says_where_its_results_are_and_does_not_run_twice(run, tmp_path, monkeypatch, small_demo, options):
    code, _, err = run("demo", *options, "--output", tmp_path / "demo")
    assert code == 0, err
    *_, before_last, done, last = err.strip().splitlines()
    command, model = last.removeprefix("try it: ").rsplit(" ", 1)
    assert command == "olivine serve"
    assert (Path(model) / "config.json").is_file()
    if options:
        assert done == f"done: {tmp_path / 'demo' / 'quick'}"
        assert before_last.startswith("ScienceQA accuracy")
        assert "(blind: " in before_last
    else:
        page = tmp_path / "demo" / "study" / "report.html"
        assert done == f"done: {page}"
        assert "Skipping the connector" in page.read_text()
    monkeypatch.setattr("olivine.training.stage.Stage.run", lambda self: pytest.fail("trained again"))
    monkeypatch.setattr(
        "olivine.evaluation.engine.AnsweringEngine._answer_chunk", lambda *a: pytest.fail("asked again")
    )
    code, _, err = run("demo", *options, "--output", tmp_path / "demo")
    assert code == 0, err
    assert err.strip().splitlines()[-1] == last


def test_the_world_is_written_scored_and_shown(run, tmp_path):
    world = tmp_path / "world"
    command = ("world", "write", world, "--images", 0, "--share", "0.02", "--json")
    code, out, err = run(*command)
    assert code == 0, err
    assert err.strip().splitlines()[-1] == f"done: {world}"
    assert "pope: 36 questions on 2 images; majority-class baseline: mean/f1 66.67 %, mean/accuracy 50.00 %" in err
    record = json.loads(out)
    assert json.loads((world / "world.json").read_text()) == record
    assert run(*command)[1] == out

    questions = json.loads((world / "mmvet" / "mm-vet.json").read_text())
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({key: row["answer"] for key, row in questions.items()}))
    score = ("score", "mmvet", "--annotations", world / "mmvet", "--answers", answers, "--json")
    code, out, err = run(*score, "--judge-model", "rule")
    assert code == 0, err
    assert json.loads(out)["judge"] == "rule: elements found"
    assert json.loads(out)["variant"] == "rule"
    # A rule always gives the same grade: requesting three runs changes nothing, and is no error.
    assert run(*score, "--judge-model", "rule", "--judge-runs", "3")[:2] == (0, out)
    assert run(*score)[0] == 2

    code, _, err = run("world", "page", tmp_path / "docs" / "page.md")
    assert code == 0, err
    text = (tmp_path / "docs" / "page.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in record["benchmarks"]
    ]
    assert sum(file.stat().st_size for file in (tmp_path / "docs").rglob("*.*")) < 400_000
