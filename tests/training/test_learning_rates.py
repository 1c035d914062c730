"""A learning rate per module: each module moves as under that single rate, by the schedule, and after resuming."""

import io

import pytest
from rich.console import Console
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights

from olivine.cost.estimate import Lengths, estimate
from olivine.cost.table import lines
from olivine.errors import RequestError
from olivine.files import read_json, read_json_lines, write_json
from olivine.recipe import OptimizerRecipe, from_values
from olivine.training.identity import check_same_recipe
from olivine.training.optimizer import learning_rate
from olivine.training.run import train

MODULES = ("vision", "connector", "language")
RATES = {"vision": 2e-3, "connector": 1e-2, "language": 5e-3}


def recipe_of(dataset, output, lr, *, train=MODULES, **more):
    stage = {"name": "a", "train": train, "lr": lr, "steps": 4, "held_out": 0, "save_every": 2, **more}
    return make_recipe(dataset, output, stages=[stage], optimizer={"weight_decay": 0.1, "schedule": "constant"})


def of_module(state, module):
    first = {"vision": "model.vision_tower.", "connector": "model.multi_modal_projector."}
    kept = first.get(module, ("model.language_model.", "lm_head."))
    return {name: weight for name, weight in state.items() if name.startswith(kept)}


def test_after_one_step_each_module_has_moved_as_under_a_single_rate(dataset, tmp_path):
    """The first step's gradients, and their common norm, do not depend on any rate."""
    found = weights(train(recipe_of(dataset, tmp_path / "own", RATES, steps=1), QUIET))
    moved = {}
    for module, rate in RATES.items():
        single = weights(train(recipe_of(dataset, tmp_path / module, rate, steps=1), QUIET))
        moved[module] = of_module(single, module)
        assert moved[module]
        assert same(of_module(found, module), moved[module])
    assert not same(of_module(found, "vision"), of_module(single, "vision")), "rates have an effect"


def test_equal_rates_are_the_single_rate_to_the_bit(dataset, tmp_path):
    single = weights(train(recipe_of(dataset, tmp_path / "single", 3e-3), QUIET))
    assert same(single, weights(train(recipe_of(dataset, tmp_path / "own", dict.fromkeys(MODULES, 3e-3)), QUIET)))


def test_each_rate_follows_the_schedule_and_is_logged(dataset, tmp_path):
    recipe = make_recipe(
        dataset,
        tmp_path / "run",
        stages=[{"name": "a", "train": MODULES, "lr": RATES, "steps": 4, "held_out": 0}],
        optimizer={"warmup": 0.5},
    )
    folder = train(recipe, QUIET)
    rows = read_json_lines(folder.parent / "metrics.jsonl")
    for module, peak in RATES.items():
        expected = [learning_rate(OptimizerRecipe(warmup=0.5), peak, step, 4) for step in range(4)]
        assert [row[f"lr.{module}"] for row in rows] == expected
    assert all("lr" not in row for row in rows)


def test_a_killed_run_resumes_to_the_same_bits_and_refuses_another_rate(dataset, tmp_path, monkeypatch):
    whole = weights(train(recipe_of(dataset, tmp_path / "whole", RATES), QUIET))

    class KilledError(Exception):
        pass

    def die():
        raise KilledError

    interrupt_at(monkeypatch, 3, die)
    with pytest.raises(KilledError):
        train(recipe_of(dataset, tmp_path / "cut", RATES), QUIET)
    with pytest.raises(RequestError, match=r"stages\.a\.lr\.vision \(0\.002 -> 0\.004\), which decides the size"):
        check_same_recipe(tmp_path / "cut", recipe_of(dataset, tmp_path / "cut", {**RATES, "vision": 4e-3}))
    assert same(whole, weights(train(recipe_of(dataset, tmp_path / "cut", RATES), QUIET)))


@pytest.mark.parametrize(
    ("trains", "lr", "said"),
    [
        (["connector"], {"connector": 1e-3, "vision": 1e-5}, r"lr\.vision: the stage does not train it; .* connector"),
        (["connector", "language"], {"connector": 1e-3}, "lr: language trains and has no rate"),
        (["connector"], {"conector": 1e-3}, "unknown name 'conector'.*Did you mean 'connector'"),
        (["connector"], {"connector": True}, "expected a number"),
        (["connector"], True, "expected a number"),
        (["connector"], {"connector": 0}, "greater than 0"),
        (["connector"], {}, "connector trains and has no rate"),
    ],
)
def test_rates_that_do_not_fit_what_trains_are_refused(dataset, tmp_path, trains, lr, said):
    values = recipe_of(dataset, tmp_path, 1e-3, train=trains).model_dump(mode="json", by_alias=True)
    values["stages"][0]["lr"] = lr
    with pytest.raises(RequestError, match=rf"stages\.a.*{said}"):
        from_values(values)


def test_the_order_of_rates_does_not_matter_and_null_removes_one(dataset, tmp_path):
    one = recipe_of(dataset, tmp_path, {"connector": 1e-3, "language": 1e-4}, train=["connector", "language"])
    other = recipe_of(
        dataset, tmp_path, {"language": 1e-4, "vision": None, "connector": 1e-3}, train=["connector", "language"]
    )
    assert one == other
    assert one.to_yaml() == other.to_yaml()


def test_the_summary_and_the_plan_say_each_rate(dataset, tmp_path):
    said = io.StringIO()
    recipe = recipe_of(dataset, tmp_path / "run", RATES, steps=1)
    train(recipe, Console(file=said, width=120))
    planned = "\n".join(lines(estimate(recipe, "h100", lengths={"all": Lengths(100, 80.0, 10.0, 90, 1.0, "given")})))
    for module, rate in RATES.items():
        for text in (said.getvalue(), planned):
            (line,) = [line for line in text.splitlines() if module in line and f"at {rate:g}" in line]
            assert "train" in line


def test_a_contrastive_stage_uses_the_towers_rate(dataset, tmp_path):
    """The caption encoder, which is dropped at the end of the stage, has no name in the recipe."""
    items = [item for item in read_json(dataset) if "image" in item]
    write_json(dataset.with_name("with-images.json"), items)
    dataset = dataset.with_name("with-images.json")
    common = {"train": ["vision"], "objective": "contrastive", "steps": 2}
    single = weights(train(recipe_of(dataset, tmp_path / "single", 1e-3, **common), QUIET))
    assert same(single, weights(train(recipe_of(dataset, tmp_path / "own", {"vision": 1e-3}, **common), QUIET)))


def test_true_is_no_number_where_other_types_are_taken_too(dataset, tmp_path):
    values = recipe_of(dataset, tmp_path, 1e-3).model_dump(mode="json", by_alias=True)
    values["model"]["vision"]["layer"] = True
    with pytest.raises(RequestError, match=r"model\.vision\.layer: expected a number"):
        from_values(values)
