"""`olivine ablate` and `olivine report`.

Studies themselves are in `ablation`.
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
        Path | None,
        typer.Argument(
            metavar="STUDY",
            help="A study's YAML file or directory, or the name of a shipped one (`olivine recipes`).",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and their cost without running them.")] = False,
    device: Annotated[
        str, typer.Option(help="Device that --plan estimates hours for: cpu, h100, a100 and others.")
    ] = "h100",
    launcher: Annotated[str, typer.Option(help="Where steps run: local or ray.")] = "local",
    jobs: Annotated[
        int, typer.Option(help="Steps to run in parallel on this machine, each with its own GPU or share of the cores.")
    ] = 1,
    against: Annotated[
        str | None,
        typer.Option(help="A published table to compare with: paper. Without STUDY: show the table's effects."),
    ] = None,
) -> None:
    """Run a study: train and evaluate every configuration, then report every axis's effect with its interval.

    Resumes where it stopped; steps that configurations share are run once. A study's directory may be moved or copied:
    given as STUDY, it is resumed and reported in place.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save the running steps and exit with code 75. Other exit codes: 0 done,
    1 a step failed, 2 invalid request.

    Example: olivine ablate recipes/studies/llava-gemma.yaml --plan --device h100
    """
    from olivine.ablation.published import table

    published = table(against) if against is not None else None
    if study is None:
        if published is None:
            raise RequestError("STUDY: missing. Give a study's YAML file (recipes/studies/), or --against paper.")
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
        log.print(f"{len(failures)} steps failed; report on the others: {page}", highlight=False)
        raise typer.Exit(1)
    log.print(f"done: {page}", highlight=False)


@app.command("report")
def report_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study's directory or YAML file.")],
    against: Annotated[str | None, typer.Option(help="A published table to compare with: paper.")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Also write tables.tex: scores, averages, effects.")] = False,
) -> None:
    """Regenerate a study's report from its finished steps: report.html, report.md, results.csv, effects.csv.

    Example: olivine report runs/llava-gemma
    """
    from olivine.ablation.published import table
    from olivine.ablation.run import plan_study, report

    page = report(plan_study(study), table(against) if against is not None else None, latex=latex)
    log.print(f"done: {page}", highlight=False)


def _show_published(published: Any) -> None:
    from olivine.ablation.agreement import published_effects

    echo(f"{published.title}: main effects. {published.source}")
    for effect in published_effects(published):
        echo(f"{effect.change}\t{effect.label}\t{effect.effect:+.2f}")
