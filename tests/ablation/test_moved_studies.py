"""Studies that are moved, copied, stopped or started twice: the given directory wins, and no step is repeated."""

import os
import shutil
import signal

import pytest
import yaml
from studies import write_study

from olivine.ablation import launch_processes
from olivine.locks import exclusive_lock
from olivine.training import stage as stage_module

AXES = {"align": {"yes": {}, "no": {"stages.align.skip": True}}}
REPORTS = ("report.html", "report.md", "results.csv", "effects.csv")


@pytest.fixture(scope="module")
def study_once(tmp_path_factory):
    """A finished study; tests work on copies."""
    import sys

    from olivine import cli

    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder, axes=AXES)
    before, sys.argv = sys.argv, ["olivine", "ablate", str(path)]
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        sys.argv = before
    assert end.value.code == 0
    return folder


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr("olivine.ablation.steps.Worker._carry_out", lambda *_: pytest.fail("a step was run again"))


def copy_without_reports(study, target):
    shutil.copytree(study / "run", target)
    for name in REPORTS:
        (target / name).unlink()
    return target


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("given", ["", "study.yaml"])
def test_a_copied_study_is_reported_in_its_own_directory(run, study_once, tmp_path, given):
    copy = copy_without_reports(study_once, tmp_path / "copy")
    before = {name: (study_once / "run" / name).stat().st_mtime_ns for name in REPORTS}
    code, _, err = run("report", copy / given)
    assert code == 0, err
    assert err.strip() == f"done: {copy / 'report.html'}"
    assert all((copy / name).is_file() for name in REPORTS)
    assert before == {name: (study_once / "run" / name).stat().st_mtime_ns for name in REPORTS}


@pytest.mark.usefixtures("no_work")
def test_a_moved_study_repeats_no_step_and_writes_nothing_to_its_old_directory(run, study_once, tmp_path):
    copy_without_reports(study_once, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "moved")
    code, _, err = run("ablate", tmp_path / "moved")
    assert code == 0, err
    assert "7 of 7 steps were already done" in err
    assert (tmp_path / "moved" / "results.csv").is_file()
    assert not (tmp_path / "old").exists()


@pytest.mark.usefixtures("no_work")
def test_the_old_path_in_an_earlier_versions_study_is_ignored(run, study_once, tmp_path):
    moved = copy_without_reports(study_once, tmp_path / "moved")
    kept = yaml.safe_load((moved / "study.yaml").read_text())
    (moved / "study.yaml").write_text(yaml.safe_dump(kept | {"output": str(tmp_path / "old")}))
    code, _, err = run("ablate", moved)
    assert code == 0, err
    assert not (tmp_path / "old").exists()
    assert (moved / "report.html").is_file()


def test_only_missing_steps_of_a_moved_study_are_run(run, study_once, tmp_path):
    moved = copy_without_reports(study_once, tmp_path / "moved")
    gone = next((moved / "steps").glob("exact-match-blind-*"))
    shutil.rmtree(gone)
    code, _, err = run("ablate", moved)
    assert code == 0, err
    assert "6 of 7 steps were already done" in err
    assert (gone / "scores.json").is_file()


def test_a_study_file_elsewhere_writes_to_its_own_output(run, study_once, tmp_path):
    """A file outside any study's directory: its `output` counts."""
    values = yaml.safe_load((study_once / "study.yaml").read_text())
    values |= {"base": str(study_once / "base.yaml"), "output": str(study_once / "run")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    code, _, err = run("report", tmp_path / "study.yaml")
    assert code == 0, err
    assert err.strip() == f"done: {study_once / 'run' / 'report.html'}"


def test_a_second_command_on_one_study_is_refused_at_its_start(run, tmp_path):
    path = write_study(tmp_path, axes=AXES)
    with exclusive_lock(tmp_path / "run"):
        code, _, err = run("ablate", path)
    assert code == 2
    assert f"{tmp_path / 'run'}: another process is using it" in err
    assert not (tmp_path / "run" / "steps").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_stopped_study_has_saved_its_step_and_ends_with_75(run, tmp_path, monkeypatch, number):
    path = write_study(tmp_path, axes=AXES, steps=3)
    original, sent = stage_module.Stage._step, []

    def taken(self, step, batch, waited, log):
        if step == 1 and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)
        return original(self, step, batch, waited, log)

    monkeypatch.setattr(stage_module.Stage, "_step", taken)
    code, _, err = run("ablate", path)
    assert code == 75
    assert "is saved at step 2. Run the same command to resume." in err.strip().splitlines()[-1]
    assert len(list((tmp_path / "run" / "steps").glob("*/resume/step-00000002"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_study_in_processes_ends_with_75(run, tmp_path, monkeypatch, number):
    path = write_study(tmp_path, axes=AXES)
    original = launch_processes._ProcessPool.outcome

    def outcome(self):
        os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(launch_processes._ProcessPool, "outcome", outcome)
    code, _, err = run("ablate", path, "--jobs", "2")
    assert code == 75
    assert "Run the same command to resume." in err
    monkeypatch.setattr(launch_processes._ProcessPool, "outcome", original)
    with exclusive_lock(tmp_path / "run"):
        pass  # no process is left in there


def test_a_read_only_study_is_one_line(run, tmp_path, monkeypatch):
    path = write_study(tmp_path, axes=AXES)

    def refused(*_, **__):
        raise OSError(30, "Read-only file system", str(tmp_path / "run" / "study.yaml"))

    monkeypatch.setattr("olivine.ablation.run.write_text", refused)
    code, _, err = run("ablate", path)
    assert code == 1
    assert "study.yaml: cannot be written (Read-only file system)" in err
