"""Studies: shipped ones are read, configurations are those requested, and errors quote the file's own text."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from studies import write_study

from olivine.ablation.plan import make_plan
from olivine.ablation.study import StudyRecipe, load_study
from olivine.errors import RequestError

SHIPPED = sorted(Path(str(files("olivine") / "recipes" / "studies")).glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_studies_are_valid(path):
    recipe = StudyRecipe.model_validate(yaml.safe_load(path.read_text()))
    if not (path.parent / recipe.base).is_file():
        pytest.skip(f"{recipe.base} is not there")
    study = load_study(path)
    assert study.name == recipe.name
    for axis, levels in study.axes.items():
        assert all(not study.phrase(axis, level).startswith(f"{axis}:") for level in levels[1:]), "say what changes"


def test_the_papers_study_is_its_eight_models():
    study = load_study(next(p for p in SHIPPED if p.stem == "llava-gemma"))
    assert len(study.configurations) == 8
    recipe = study.recipes[("gemma-7b-it", "dinov2", "no"), 0]
    assert recipe.model.language.from_ == "google/gemma-7b-it"
    assert recipe.model.vision.from_ == "facebook/dinov2-giant"
    assert [stage.name for stage in recipe.stages if not stage.skip] == ["instruct"]
    assert recipe.stages[0].batch == 256


def test_prismatic_changes_one_choice_at_a_time():
    study = load_study(next(p for p in SHIPPED if p.stem == "prismatic"))
    assert len(study.configurations) == 6
    first = study.configurations[0]
    assert all(
        sum(a != b for a, b in zip(configuration, first, strict=True)) == 1
        for configuration in study.configurations[1:]
    )


def edited(tmp_path, change):
    path = write_study(tmp_path)
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_bare_yes_and_no_are_names(tmp_path):
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("'yes'", "yes").replace("'no'", "no"))
    assert load_study(path).axes["align"] == ("yes", "no")


def test_exclude_skips_configurations(tmp_path):
    study = load_study(edited(tmp_path, lambda v: v.update(exclude=[{"depth": "one", "align": False}])))
    assert study.configurations == (("two", "yes"), ("two", "no"), ("one", "yes"))


def test_overrides_reach_every_configuration(tmp_path):
    path = edited(tmp_path, lambda v: v.update(overrides={"stages.instruct.lr": 0.5}))
    study = load_study(path, {"stages.instruct.steps": 7})
    assert {recipe.stages[1].lr for recipe in study.recipes.values()} == {0.5}
    assert {recipe.stages[1].steps for recipe in study.recipes.values()} == {7}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.update(benchmark=v.pop("benchmarks")), "Did you mean 'benchmarks'"),
        (lambda v: v.update(benchmarks={"pop": "data"}), "Did you mean 'pope'"),
        (lambda v: v.update(benchmarks={"gqa": {"dat": "x"}}), "Did you mean 'data'"),
        (lambda v: v.update(exclude=[{"depht": "one"}]), "Did you mean 'depth'"),
        (lambda v: v.update(exclude=[{"depth": "on"}]), "Did you mean 'one'"),
        (lambda v: v.update(say={"align": {"on": "x"}}), "Did you mean 'no'"),
        (lambda v: v["axes"]["align"].update(no={"stages.allign.skip": True}), "axes.align.no: unknown name 'allign'"),
        (lambda v: v["axes"]["align"].update(no={"stages.align.skipp": True}), "Did you mean 'skip'"),
        (lambda v: v["axes"]["align"].update(no={"optimizer.lr": 1}), "configuration depth=two, align=no"),
        (lambda v: v["axes"].update(align={"yes": {}}), "axes.align"),
        (lambda v: v.update(grid="half"), "three or more axes"),
        (lambda v: v.update(grid="all"), "'full', 'one-at-a-time' or 'half'"),
        (lambda v: v.update(seeds=[1, 1]), "has a duplicate"),
        (lambda v: v.update(base="elsewhere.yaml"), "elsewhere.yaml"),
        (lambda v: v.pop("base"), "base: missing"),
        (lambda v: v.update(exclude=[{"depth": "one"}]), "effect of depth=one is aliased"),
        (
            lambda v: v["axes"]["align"].update(no={"stages.align.skip": True, "stages.instruct.skip": True}),
            "every stage is skipped",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, change, says):
    with pytest.raises(RequestError) as error:
        load_study(edited(tmp_path, change))
    assert says in str(error.value)


def test_a_benchmarks_own_options_are_checked_and_count_in_the_steps_names(tmp_path):
    asked = {"data": str(tmp_path / "asked")}
    plain = write_study(tmp_path, benchmarks={"refcoco": asked})
    names = set(make_plan(load_study(plain)).steps)
    changed = yaml.safe_load(plain.read_text())
    changed["benchmarks"]["refcoco"] = asked | {"options": {"boxes": "xywh-pixels"}}
    plain.write_text(yaml.safe_dump(changed))
    again = set(make_plan(load_study(plain)).steps)
    assert names ^ again == {name for name in names | again if name.startswith("refcoco")}
    changed["benchmarks"]["refcoco"]["options"] = {"box": "xywh"}
    plain.write_text(yaml.safe_dump(changed))
    with pytest.raises(RequestError, match=r"study\.yaml: benchmarks\.refcoco\.options box: .*Did you mean 'boxes'"):
        load_study(plain)
