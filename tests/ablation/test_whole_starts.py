"""A whole model as a factor of a study: steps are named by its content, and its tower's features are cached."""

import shutil

import torch
import yaml
from studies import write_study

from olivine.ablation.fingerprint import Fingerprints
from olivine.ablation.plan import make_plan
from olivine.ablation.study import load_study
from olivine.data.sources import Skipped, open_sample_image, read_samples
from olivine.model import checkpoint
from olivine.recipe import load
from olivine.testing import tiny_vlm

AXES = ("parts", "first", "second")


def study(folder, **more):
    for seed, name in enumerate(AXES[1:]):
        checkpoint.save(tiny_vlm(seed=seed), folder / "models" / name)
    starts = {"parts": {}, **{name: {"model": {"from": str(folder / "models" / name)}} for name in AXES[1:]}}
    return write_study(folder, axes={"start": starts}, **more)


def first_steps(path):
    plan = make_plan(load_study(path), Fingerprints())
    return {start: chain[0] for ((start,), _), chain in plan.stages.items()}


def test_steps_are_named_by_the_folders_content(tmp_path):
    path = study(tmp_path)
    before = first_steps(path)
    assert len(set(before.values())) == 3
    (tmp_path / "models" / "first").rename(tmp_path / "models" / "moved")
    text = path.read_text()
    path.write_text(text.replace("models/first", "models/moved"))
    assert first_steps(path) == before
    shutil.rmtree(tmp_path / "models" / "moved")
    checkpoint.save(tiny_vlm(seed=5), tmp_path / "models" / "moved")
    after = first_steps(path)
    assert after["first"] != before["first"]
    assert (after["parts"], after["second"]) == (before["parts"], before["second"])


def test_an_axis_may_change_the_folder_alone(tmp_path):
    path = study(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["axes"]["start"] = {
        "first": {},
        "second": {"model.from": str(tmp_path / "models" / "second")},
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    base = yaml.safe_load((tmp_path / "base.yaml").read_text())
    base["model"] = {"from": str(tmp_path / "models" / "first")}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    assert len(set(first_steps(path).values())) == 2


def test_a_study_runs_from_whole_models_with_cached_features(run, tmp_path):
    path = study(tmp_path, features="always")
    code, out, err = run("ablate", path, "--plan", "--device", "cpu")
    assert code == 0, err
    assert f"tower of {tmp_path / 'models' / 'first'} over all, its own fit" in " ".join((out + err).split())
    code, _, err = run("ablate", path)
    assert code == 0, err
    plan = make_plan(load_study(path))
    assert not plan.left()
    tables = [step for step in plan.steps.values() if step.kind == "features"]
    assert len(tables) == 2  # the towers of the two models; random modules are not cached
    records = [yaml.safe_load((step.folder / "provenance.json").read_text()) for step in plan.steps.values()
               if step.kind == "align"]  # fmt: skip
    assert sum("start" in record for record in records) == 2


def test_cached_features_are_the_whole_models_own(tmp_path):
    from olivine.data.features import FeatureTable
    from olivine.training.features import compute_features

    path = study(tmp_path)
    recipe = load(tmp_path / "base.yaml", [f"model={{from: {tmp_path / 'models' / 'second'}}}"])
    assert path.is_file()
    compute_features(recipe, recipe.stages[0], tmp_path / "features", lambda _done, _total: None)
    table, vlm = FeatureTable(tmp_path / "features"), checkpoint.load(tmp_path / "models" / "second")
    sample = next(s for s in read_samples(recipe.data["all"], Skipped()) if s.image is not None)
    pixels = torch.from_numpy(vlm.transform(open_sample_image(sample, recipe.data["all"])))[None]
    with torch.no_grad():
        expected = vlm.patch_features(pixels)[0]
    (kept,) = table.rows([table.position(sample.image)])
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)
