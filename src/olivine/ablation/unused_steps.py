"""Steps in a study's directory that the current study no longer needs: find them with their sizes, delete on request.

A step's folder is named by the hash of what decides its output, so a changed study leaves its old steps behind.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from olivine.ablation.plan import Plan
from olivine.ablation.study import STEPS
from olivine.locks import exclusive_lock


@dataclass(frozen=True, slots=True)
class UnusedStep:
    """A step folder that belongs to no step of the plan, and its size on disk in bytes."""

    folder: Path
    bytes: int


def unused_steps(plan: Plan) -> list[UnusedStep]:
    """Return the step folders that belong to no step of the plan, largest first."""
    root = plan.study.directory / STEPS
    if not root.is_dir():
        return []
    needed = {step.folder.name for step in plan.steps.values()}
    found = [
        UnusedStep(folder, _bytes(folder))
        for folder in root.iterdir()
        if folder.is_dir() and not folder.is_symlink() and folder.name not in needed
    ]
    return sorted(found, key=lambda step: (-step.bytes, step.folder.name))


def remove(plan: Plan, steps: list[UnusedStep]) -> None:
    """Delete the folders while no other process is working in the study's directory.

    Raises:
        RunError: another process is.
    """
    with exclusive_lock(plan.study.directory):
        for step in steps:
            shutil.rmtree(step.folder)


def _bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
