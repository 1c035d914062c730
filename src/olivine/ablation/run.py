"""A whole study: planned, carried out, measured, reported; what `olivine ablate` and `olivine report` call.

Nothing is decided here that the packages called do not decide.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from olivine.ablation.feature_cache import remember
from olivine.ablation.launch import Failure, Progress, launcher
from olivine.ablation.plan import Plan, make_plan
from olivine.ablation.published import PublishedTable
from olivine.ablation.report import write_report
from olivine.ablation.results import collect
from olivine.ablation.study import BASE, STEPS, STUDY, Study, is_kept, load_study
from olivine.errors import RequestError
from olivine.files import full_disk_reported, write_text
from olivine.locks import exclusive_lock
from olivine.recipe import read_values


def plan_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read a study (its file, or the directory of one that was run) and lay out its steps.

    Raises:
        RequestError: neither of the two, or not a valid study.
    """
    return make_plan(load_study(_study_file(path), overrides))


def carry_out(
    plan: Plan, path: Path, console: Console, progress: Progress, launcher_name: str = "local", jobs: int = 1
) -> list[Failure]:
    """Do what is left of a plan, `jobs` steps at a time; returns what could not be done.

    Raises:
        RequestError: data are missing, the launcher is not to be had, or another process is at work on the study.
        RunError: the study's directory cannot be written.
        Stopped: a signal came; the steps under way have saved what they had.
    """
    launch = launcher(launcher_name, jobs)
    if plan.missing:
        listed = "".join(f"\n  {file}" for file in plan.missing)
        raise RequestError(f"{path}: these files or folders are not there:{listed}\nFetch them, or correct the paths.")
    directory = plan.study.directory
    with full_disk_reported(directory), exclusive_lock(directory):
        _keep(plan.study, path)
        remember(directory, plan.features)
        return launch(plan, console, progress)


def report(plan: Plan, against: PublishedTable | None = None) -> Path:
    """Measure what is finished and write the report; returns the page's path.

    Raises:
        RunError: nothing is finished yet.
    """
    with full_disk_reported(plan.study.directory):
        return write_report(collect(plan), plan.study.directory, against)


def _study_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / STUDY).is_file():
        return path / STUDY
    raise RequestError(f"{path}: no directory of a study ({STUDY} is missing). Give a study's file or its directory.")


def _keep(study: Study, path: Path) -> None:
    """Write study and base recipe down, so that the directory can be read without the files it came from."""
    if path.is_dir() or is_kept(path):
        return
    (study.directory / STEPS).mkdir(exist_ok=True)  # by which a record is known
    base = study.recipe.base if study.recipe.base.is_absolute() else path.parent / study.recipe.base
    values = study.recipe.model_dump(mode="json", by_alias=True)
    last = list(values["axes"])[-1]
    for level in values["axes"][last].values():
        level.update(study.overrides)  # laid over everything else, as they were given
    values |= {"base": BASE, "output": None}  # it is where it lies
    write_text(study.directory / BASE, yaml.safe_dump(read_values(base), sort_keys=False, allow_unicode=True))
    write_text(study.directory / STUDY, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
