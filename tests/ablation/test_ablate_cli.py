"""`olivine ablate` and `olivine report` as typed: plan, run, resume, report, failures and their exit codes."""

import json

import pytest
import yaml
from fabricated import write_finished
from studies import write_study

from olivine.ablation import steps as steps_module

AXES = {"align": {"yes": {}, "no": {"stages.align.skip": True}}}


def test_plan_run_and_report(run, tmp_path):
    study = write_study(tmp_path, axes=AXES)
    code, out, err = run("ablate", study, "--plan", "--device", "cpu")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("small: 2 configurations, 2 trainings, 7 steps")
    assert sum("to do" in line for line in lines) == 7
    assert not (tmp_path / "run").exists(), "a plan leaves nothing behind"

    code, out, err = run("ablate", study)
    assert code == 0, err
    assert out == ""
    assert "[1/7] align for align=yes" in err
    assert err.strip().endswith(f"done: {tmp_path / 'run' / 'report.html'}")
    for name in ("report.html", "report.md", "results.csv", "effects.csv", "study.yaml", "base.yaml"):
        assert (tmp_path / "run" / name).is_file()
    before = (tmp_path / "run" / "results.csv").read_bytes()

    code, out, err = run("ablate", study)
    assert code == 0, err
    assert "7 of 7 steps were already done" in err
    assert "[1/7]" not in err
    assert (tmp_path / "run" / "results.csv").read_bytes() == before

    # The directory alone is enough, without the files that the study was read from.
    study.unlink()
    (tmp_path / "base.yaml").unlink()
    code, out, err = run("report", tmp_path / "run", "--against", "paper")
    assert code == 0, err
    code, out, err = run("ablate", tmp_path / "run", "--plan")
    assert code == 0, err
    assert sum("done" in line for line in out.splitlines()) >= 7


def test_a_failure_is_reported_and_the_exit_code_says_so(run, tmp_path, monkeypatch):
    _, plan = write_finished(tmp_path, images=8)
    key = plan.evaluations[("large", "clip", "no"), 0, "pope", None]
    (plan.steps[key].folder / "scores.json").unlink()

    def broken(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(steps_module, "load", broken)
    code, _, err = run("ablate", tmp_path / "study.yaml")
    assert code == 1
    assert "the disk is full" in err
    assert key in err
    assert "report on the others" in err
    assert (tmp_path / "run" / "report.html").is_file()


def test_missing_data_are_listed_before_anything_runs(run, tmp_path):
    study = write_study(tmp_path, axes=AXES)
    (tmp_path / "data" / "train.json").unlink()
    code, out, err = run("ablate", study, "--plan")
    assert code == 0, err
    assert "missing: " in out
    assert "could not be estimated" in out
    code, _, err = run("ablate", study)
    assert code == 2
    assert "train.json" in err


def test_the_papers_effects_alone(run):
    code, out, err = run("ablate", "--against", "paper")
    assert code == 0, err
    assert "align=no\tGQA\t-4.90" in out.splitlines()
    assert "arXiv:2404.01331" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ablate",), "STUDY: missing"),
        (("ablate", "nowhere.yaml"), "nowhere.yaml"),
        (("ablate", "--against", "papr"), "Did you mean 'paper'"),
        (("report", "."), "not a study's directory"),
    ],
)
def test_wrong_requests(run, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert says in err


def test_a_wrong_device_or_launcher(run, tmp_path):
    study = write_study(tmp_path, axes=AXES)
    code, _, err = run("ablate", study, "--plan", "--device", "h10")
    assert code == 2
    assert "Did you mean 'h100'" in err
    code, _, err = run("ablate", study, "--launcher", "slurm")
    assert code == 2
    assert "Valid: local, ray" in err


def test_the_kept_study_is_the_one_that_ran(run, tmp_path):
    path, _ = write_finished(tmp_path, images=8)
    code, _, err = run("ablate", path)
    assert code == 0, err
    kept = yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())
    assert kept["axes"]["align"]["no"] == {"stages.align.skip": True}
    assert json.loads((tmp_path / "run" / "fingerprints.json").read_text())
