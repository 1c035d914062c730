"""Two runs are compared by their own records."""

import json

import pytest
from rich.console import Console
from tiny_runs import make_recipe

from olivine.errors import RequestError
from olivine.testing import write_dataset
from olivine.training.run import train
from olivine.training.run_difference import ABSENT, compare_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    dataset = write_dataset(folder / "data")
    recipe = make_recipe(dataset, folder / "first")
    stages = tuple(stage.model_copy(update={"steps": 2, "held_out": 0, "validate_every": 0}) for stage in recipe.stages)
    recipe = recipe.model_copy(update={"stages": stages})
    train(recipe, Console(quiet=True))
    changed = stages[-1].model_copy(update={"lr": 0.5})
    second = recipe.model_copy(update={"stages": (*stages[:-1], changed), "output": folder / "second"})
    train(second, Console(quiet=True))
    return folder / "first", folder / "second", stages[-1].name


def test_a_run_does_not_differ_from_itself(runs):
    assert compare_runs(runs[0], runs[0]) == []


def test_changed_fields_and_their_results_are_named(runs):
    first, second, stage = runs
    found = {(d.section, d.key): (d.first, d.second) for d in compare_runs(first, second)}
    assert found["recipe", f"stages.{stage}.lr"][1] == 0.5
    assert ("results", f"{stage}.loss") in found
    assert {section for section, _ in found} == {"recipe", "results"}


def test_data_and_versions_are_compared(runs, tmp_path):
    first, _, _ = runs
    other = tmp_path / "other"
    other.mkdir()
    (other / "recipe.yaml").write_text((first / "recipe.yaml").read_text())
    provenance = json.loads((first / "provenance.json").read_text())
    provenance["packages"]["torch"] = "1.0"
    (name,) = provenance["data"]
    provenance["data"][name]["sha256"] = "another"
    (other / "provenance.json").write_text(json.dumps(provenance))
    found = {(d.section, d.key): d.second for d in compare_runs(first, other)}
    assert found["environment", "packages.torch"] == "1.0"
    assert found["data", f"{name}.sha256"] == "another"
    assert ABSENT in [value for (section, _), value in found.items() if section == "results"]


def test_a_folder_that_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(RequestError, match="not a run directory"):
        compare_runs(runs[0], tmp_path)


def test_the_command_prints_both(run, runs):
    first, second, stage = runs
    code, out, _ = run("diff", first, second)
    assert code == 0
    assert f"stages.{stage}.lr" in out
    code, out, _ = run("diff", first, second, "--json")
    assert {sequence["section"] for sequence in json.loads(out)} == {"recipe", "results"}
    code, _, err = run("diff", first, first)
    assert "no difference" in err
