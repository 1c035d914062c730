"""`olivine recipes`, `olivine diff` and `olivine clean`.

What they list, compare and delete is determined elsewhere.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import Json, echo, log

app = OnceTyper()


@app.command()
def recipes(
    copy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Copy this recipe together with the recipes it is based on.")
    ] = None,
    into: Annotated[Path, typer.Option(help="Folder for the copies.")] = Path("recipes"),
    as_json: Json = False,
) -> None:
    """List the recipes and studies shipped with Olivine; every command accepts them by these names.

    Example: olivine recipes --copy world/clip-s-aligned --into my-recipes
    """
    from olivine import shipped_recipes

    if copy is not None:
        copied = shipped_recipes.copy(copy, into)
        log.print(f"copied {len(copied)} file(s) -> {copied[0]}", markup=False, highlight=False)
        return
    listed = shipped_recipes.shipped()
    if as_json:
        rows = [{"name": r.name, "study": r.is_study, "about": r.about, "path": str(r.path)} for r in listed]
        echo(json.dumps(rows))
        return
    width = max(len(recipe.name) for recipe in listed)
    for recipe in listed:
        echo(f"{recipe.name:<{width}}  {recipe.about}")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory to compare it with.")],
    as_json: Json = False,
) -> None:
    """Show how two runs differ: recipe, data, versions, environment, results.

    Example: olivine diff runs/easy-vqa runs/try
    """
    from olivine.training.run_difference import compare_runs

    found = compare_runs(first, second)
    if as_json:
        echo(json.dumps([dataclasses.asdict(difference) for difference in found]))
        return
    section = ""
    for difference in found:
        if difference.section != section:
            section = difference.section
            echo(section)
        echo(f"  {difference.key}: {difference.first!r} -> {difference.second!r}")
    if not found:
        log.print("no differences in recipe, data, environment or results")


@app.command()
def clean(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A study's directory or YAML file, or the name of a shipped one.")
    ],
    delete: Annotated[bool, typer.Option("--delete", help="Delete the steps instead of only listing them.")] = False,
    as_json: Json = False,
) -> None:
    """List the steps on disk that a study no longer needs, largest first; with --delete, delete them.

    Example: olivine clean runs/easy-vqa-study --delete
    """
    from olivine.ablation.run import plan_study
    from olivine.ablation.unused_steps import remove, unused_steps
    from olivine.shipped_recipes import resolve

    plan = plan_study(resolve(study, study=True))
    found = unused_steps(plan)
    total = sum(step.bytes for step in found)
    if delete:
        remove(plan, found)
    if as_json:
        rows = [{"folder": str(step.folder), "bytes": step.bytes} for step in found]
        echo(json.dumps({"bytes": total, "deleted": delete, "steps": rows}))
        return
    for step in found:
        echo(f"{step.bytes / 1e6:>12,.1f} MB  {step.folder}")
    outcome = "deleted" if delete else "not needed; --delete removes them"
    log.print(f"{len(found)} steps, {total / 1e6:,.1f} MB: {outcome}", markup=False, highlight=False)
