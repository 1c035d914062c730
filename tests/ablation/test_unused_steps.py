"""Steps that a changed study leaves behind are listed by size, and removed only when asked."""

import json

from studies import write_study

from olivine.ablation.run import plan_study
from olivine.ablation.unused_steps import unused_steps


def leftover(plan, name, size):
    folder = plan.study.directory / "steps" / name
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * size)
    return folder


def test_only_folders_that_no_step_owns_are_listed_the_largest_first(tmp_path):
    plan = plan_study(write_study(tmp_path))
    for step in plan.steps.values():
        step.folder.mkdir(parents=True)
    small, large = leftover(plan, "align-0", 10), leftover(plan, "align-1", 1000)
    assert [(step.folder, step.bytes) for step in unused_steps(plan)] == [(large, 1000), (small, 10)]


def test_the_command_only_lists_without_delete(run, tmp_path):
    path = write_study(tmp_path)
    plan = plan_study(path)
    needed = next(iter(plan.steps.values())).folder
    needed.mkdir(parents=True)
    old = leftover(plan, "align-0", 2_000_000)
    code, out, err = run("clean", path)
    assert code == 0
    assert "2.0 MB" in out
    assert "--delete removes them" in err
    assert old.is_dir()
    code, out, _ = run("clean", path, "--delete", "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == 2_000_000
    assert not old.exists()
    assert needed.is_dir()


def test_a_study_that_has_not_run_has_nothing_to_clean(tmp_path):
    assert unused_steps(plan_study(write_study(tmp_path))) == []
