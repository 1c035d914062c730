"""Features that trainings share: cached if that saves time, computed once, and the study's steps named accordingly."""

import shutil

import pytest
import yaml
from rich.console import Console
from studies import write_study

from olivine.ablation import feature_cache
from olivine.ablation.feature_cache import cacheable
from olivine.ablation.fingerprint import Fingerprints
from olivine.ablation.launch_local import launch_here
from olivine.ablation.plan import FeatureStep, StageStep, make_plan
from olivine.ablation.run import carry_out
from olivine.ablation.step_costs import plan_costs
from olivine.ablation.study import load_study
from olivine.ablation.terminal_lines import plan_lines
from olivine.cost.estimate import named_device
from olivine.testing import save_tower


def tower(folder):
    saved = folder / "tower"
    return {
        "model.vision.from": str(saved if saved.is_dir() else save_tower(saved)),
        "model.vision.image_size": None,
    }


class Silent:
    def begin(self, step): ...
    def within(self, done, total): ...
    def end(self, step, failure):
        assert failure is None, failure


def study(tmp_path, **more):
    more.setdefault("overrides", tower(tmp_path))
    return write_study(tmp_path, **more)


def planned(path):
    return make_plan(load_study(path), Fingerprints())


def steps_of(plan, kind):
    return [step for step in plan.steps.values() if isinstance(step, kind)]


def test_one_table_serves_all_configurations_seeds_and_stages_with_the_same_images(tmp_path):
    plan = planned(study(tmp_path, features="always", seeds=(0, 1)))
    (features,) = steps_of(plan, FeatureStep)
    stages = steps_of(plan, StageStep)
    assert len(stages) == 12
    assert {stage.features for stage in stages} == {features.key}
    assert len(plan.used_by(features.key)) == 8
    order = list(plan.steps)
    assert all(order.index(need) < order.index(key) for key, step in plan.steps.items() for need in step.needs)
    costs = plan_costs(plan, named_device("cpu"))
    without = plan_costs(planned(study(tmp_path / "without", features="never", seeds=(0, 1))), named_device("cpu"))
    assert costs[features.key].operations > 0
    align = next(cost for key, cost in costs.items() if key.startswith("align"))
    align_without = next(cost for key, cost in without.items() if key.startswith("align"))
    assert 0 < align.operations < align_without.operations


@pytest.mark.parametrize(
    "changes",
    [
        {"stages.instruct.train": ["vision", "connector", "language"]},
        {"data.all.augment": {"shift": 1}},
        {"model.vision.from": {"model_type": "clip_vision_model", "hidden_size": 32, "patch_size": 8}},
    ],
)
def test_only_features_of_a_frozen_pretrained_tower_on_unaugmented_images_are_cached(tmp_path, changes):
    recipe = next(iter(load_study(study(tmp_path, overrides=tower(tmp_path) | changes)).recipes.values()))
    align, instruct = recipe.stages
    assert not cacheable(recipe, instruct)
    # A tower that trains later still has its pretrained weights while the connector is aligned.
    assert cacheable(recipe, align) == ("stages.instruct.train" in changes)
    before = recipe.model_copy(update={"stages": (align.model_copy(update={"train": ("vision",)}), instruct)})
    assert not cacheable(before, instruct)


def test_features_are_cached_where_that_saves_time(tmp_path, monkeypatch):
    path = study(tmp_path, axes={"rate": {str(n): {"stages.instruct.lr": n / 1000} for n in range(1, 6)}})
    plan = planned(path)
    (benefit,) = plan.features
    # One align and five instruct stages of eight samples each; the tower is large for such a small language model.
    assert benefit.trainings == 6
    assert benefit.bytes == pytest.approx(20 * 0.8 * 36 * 128 * 4, rel=0.5)
    assert benefit.saved > 0.1
    assert benefit.kept
    monkeypatch.setattr(feature_cache, "BENEFIT_FACTOR", benefit.saved + 0.01)
    assert not planned(path).features[0].kept
    assert all(step.features is None for step in steps_of(planned(path), StageStep))
    monkeypatch.undo()
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "features_limit_gb": benefit.bytes / 2e9}))
    assert not planned(path).features[0].kept
    line = next(line for line in plan_lines(planned(path), "cpu") if line.startswith(f"features of {benefit.what}"))
    assert "not cached" in line
    assert "6 trainings" in line


def test_the_decision_to_cache_is_kept_when_a_study_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "BENEFIT_FACTOR", 2.0)  # caching never saves time
    path = study(tmp_path)
    plan = planned(path)
    carry_out(plan, path, Console(quiet=True), Silent(), "local")
    monkeypatch.undo()
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "seeds": [0, 1, 2, 3, 4]}))
    grown = planned(path)
    assert not grown.features[0].kept
    assert set(plan.steps) < set(grown.steps)
    assert all(grown.steps[key].done for key in plan.steps)


def test_a_study_uses_cached_features_and_resumes_without_leftovers(tmp_path):
    path = study(tmp_path, features="always", axes={"align": {"yes": {}, "no": {"stages.align.skip": True}}})
    plan = planned(path)
    assert launch_here(plan, Console(quiet=True), Silent()) == []
    (features,) = steps_of(plan, FeatureStep)
    assert (features.folder / "timing.json").is_file()
    assert planned(path).left() == []
    # The table may be deleted to free disk space: no unfinished step reads it.
    shutil.rmtree(features.folder)
    assert planned(path).left() == []


def test_a_change_of_the_fit_or_the_precision_is_another_table(tmp_path):
    def key(name, changes):
        (step,) = steps_of(
            planned(study(tmp_path / name, features="always", overrides=tower(tmp_path) | changes)), FeatureStep
        )
        return step.key

    plain = key("plain", {})
    assert key("rate", {"stages.instruct.lr": 0.5, "optimizer.clip": 2.0}) == plain
    fitted = {"stages.align.image_fit": "squash", "stages.instruct.image_fit": "squash"}
    others = [fitted, {"optimizer.precision": "bf16"}, {"model.vision.layer": -1}, {"data.all.on_error": "skip"}]
    keys = [key(f"other-{n}", changes) for n, changes in enumerate(others)]
    assert len({plain, *keys}) == 5


def test_fused_towers_are_identified_by_their_contents(tmp_path):
    """One table for both seeds, wherever the towers lie; another one if either tower differs."""

    def keys(folder, seed):
        towers = [save_tower(folder / name, seed=number) for name, number in (("a", 0), ("b", seed))]
        vision = {"fused": [str(tower) for tower in towers]}
        plan = planned(write_study(folder, features="always", overrides={"model.vision": vision}))
        return {step.key for step in plan.steps.values() if isinstance(step, FeatureStep)}

    for name in ("here", "there", "other"):
        (tmp_path / name).mkdir()
    first = keys(tmp_path / "here", 1)
    assert len(first) == 1
    assert keys(tmp_path / "there", 1) == first
    assert not keys(tmp_path / "other", 2) & first
