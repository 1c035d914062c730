"""A whole study: plan, carry out, measure, report; what `olivine ablate` and `olivine report` call.

All decisions are made in the modules called from here.
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
    """Read a study (its file, or the directory of one that was run) and return the plan of its steps.

    Raises:
        RequestError: the path is neither, or the study is not valid.
    """
    return make_plan(load_study(_study_file(path), overrides))


def carry_out(
    plan: Plan, path: Path, console: Console, progress: Progress, launcher_name: str = "local", jobs: int = 1
) -> list[Failure]:
    """Carry out the remaining steps of a plan, `jobs` in parallel; return the failures.

    Raises:
        RequestError: data are missing, the launcher is unavailable, or another process is working on the study.
        RunError: the study's directory cannot be written.
        Stopped: a signal arrived; the running steps have saved their state.
    """
    launch = launcher(launcher_name, jobs)
    if plan.missing:
        listed = "".join(f"\n  {file}" for file in plan.missing)
        raise RequestError(f"{path}: these files or folders do not exist:{listed}\nGet them, or correct the paths.")
    directory = plan.study.directory
    with full_disk_reported(directory), exclusive_lock(directory):
        _keep(plan.study, path)
        remember(directory, plan.features)
        return launch(plan, console, progress)


def report(plan: Plan, against: PublishedTable | None = None, *, latex: bool = False) -> Path:
    """Measure the finished steps and write the report; return the page's path.

    Raises:
        RunError: nothing is finished yet.
    """
    with full_disk_reported(plan.study.directory):
        return write_report(collect(plan), plan.study.directory, against, latex=latex)


def _study_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (path / STUDY).is_file():
        return path / STUDY
    raise RequestError(f"{path}: not a study's directory ({STUDY} is missing). Give a study's file or its directory.")


def _keep(study: Study, path: Path) -> None:
    """Save the study and its base recipe, so that the directory can be used without the original files."""
    if path.is_dir() or is_kept(path):
        return
    (study.directory / STEPS).mkdir(exist_ok=True)  # `is_kept` recognises the directory by it
    base = study.recipe.base if study.recipe.base.is_absolute() else path.parent / study.recipe.base
    values = study.recipe.model_dump(mode="json", by_alias=True)
    last = list(values["axes"])[-1]
    for level in values["axes"][last].values():
        level.update(study.overrides)  # they override everything else, as when they were given
    values |= {"base": BASE, "output": None}  # the directory may be moved
    write_text(study.directory / BASE, yaml.safe_dump(read_values(base), sort_keys=False, allow_unicode=True))
    write_text(study.directory / STUDY, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
