"""`olivine ablate` and `olivine report`.

Studies themselves are `ablate`'s.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from olivine.cli.once import OnceTyper
from olivine.cli.terminal import echo, log
from olivine.errors import RequestError

app = OnceTyper()


@app.command()
def ablate(
    study: Annotated[
        Path | None, typer.Argument(help="A study: its YAML, its directory, or the name of a shipped one.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show steps and costs; run nothing.")] = False,
    device: Annotated[str, typer.Option(help="What the plan's hours are for: cpu, h100, a100 and others.")] = "h100",
    launcher: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    jobs: Annotated[int, typer.Option(help="Steps at a time on this machine, each GPU or core to one of them.")] = 1,
    against: Annotated[
        str | None, typer.Option(help="A published table to compare with: paper. Alone: show its effects.")
    ] = None,
) -> None:
    """Run a study: every configuration, then the effect of every axis with its interval, in a report.

    Resumes where it stopped; steps that configurations share are run once. A study's directory may be moved or copied: given
    itself, it is reported and resumed where it lies.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save the steps under way and end with exit code 75 (0: done, 1: a step failed,
    2: wrong request).

    Example: olivine ablate recipes/studies/llava-gemma.yaml --plan --device h100
    """
    from olivine.ablation.published import table

    published = table(against) if against is not None else None
    if study is None:
        if published is None:
            raise RequestError("STUDY: missing. Give a study's YAML (recipes/studies/), or --against paper.")
        _show_published(published)
        return
    from olivine.ablation.run import carry_out, plan_study, report
    from olivine.shipped_recipes import resolve

    study = resolve(study, study=True)
    planned = plan_study(study)
    if plan:
        from olivine.ablation.terminal_lines import plan_lines

        for line in plan_lines(planned, device):
            echo(line)
        return
    from olivine.ablation.terminal_lines import StepLines

    failures = carry_out(planned, study, log, StepLines(planned, log), launcher, jobs)
    for failure in failures:
        log.print(Text("failed:", "red"), f"{failure.step.key}: {failure.reason}", highlight=False)
    page = report(planned, published)
    if failures:
        log.print(f"{len(failures)} steps failed; a report of the others: {page}", highlight=False)
        raise typer.Exit(1)
    log.print(f"done: {page}", highlight=False)


@app.command("report")
def report_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's directory or its YAML.")],
    against: Annotated[str | None, typer.Option(help="A published table to compare with: paper.")] = None,
) -> None:
    """Write a study's report anew from what is finished: report.html, report.md, results.csv, effects.csv.

    Example: olivine report runs/llava-gemma
    """
    from olivine.ablation.published import table
    from olivine.ablation.run import plan_study, report

    page = report(plan_study(study), table(against) if against is not None else None)
    log.print(f"done: {page}", highlight=False)


def _show_published(published: Any) -> None:
    from olivine.ablation.agreement import published_effects

    echo(f"{published.title}: main effects. {published.source}")
    for effect in published_effects(published):
        echo(f"{effect.change}\t{effect.label}\t{effect.effect:+.2f}")
