"""Kill train, evaluate and a study at random instants, resume each time, and compare with runs that were never killed.

    python benchmarks/kills.py [--quick] [--json] [--kills 50] [--seed 0] [--out FILE]

SIGKILL and SIGTERM in turn at random, `--kills` of them for each of the three. Nothing may be lost (logged steps, kept
answers and finished steps never become fewer), nothing repeated (each step, sample and answer is there once), and what
comes out must be the same byte for byte; a SIGTERM must end with exit code 75 and, in a stage, with a training
checkpoint of its last step. Each command runs in a process forked from this one, so that instants fall on its
work and not on PyTorch's import. Exit code 1 if anything differs.
"""

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from report import arguments, show

from olivine import cli
from olivine.ablation.run import plan_study
from olivine.files import read_json_lines
from olivine.testing import tiny_model_recipe, write_dataset

STAGES = ("align", "instruct")


@dataclass(frozen=True)
class Subject:
    """A command that is killed: its command line for an output folder, what it leaves, how far it has come."""

    name: str
    command: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]
    progress: Callable[[Path], int]
    problem: Callable[[Path], str | None]


def write_recipe(folder: Path, steps: int) -> Path:
    """Two stages of a tiny model, a training checkpoint every third step."""
    dataset = write_dataset(folder / "data", items=60)
    stage = {"data": "all", "batch": 6, "lr": 1e-2, "sequence_tokens": 160, "save_every": 3, "validate_every": 10}
    recipe = {
        "name": "killed",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images"), "turns": "independent"}},
        "stages": [
            {**stage, "name": "align", "train": ["connector"], "steps": steps},
            {**stage, "name": "instruct", "train": ["connector", "language"], "steps": steps},
        ],
        "optimizer": {"precision": "fp32"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_questions(folder: Path, images: Path, count: int) -> Path:
    """Questions about the training images, for the exact-match benchmark."""
    folder.mkdir()
    rows = [
        {"question_id": n, "image": f"{n % 30}.png", "text": f"is there a circle? {n}", "answer": "yes"}
        for n in range(count)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "images").symlink_to(images)
    return folder


def write_study(folder: Path, recipe: Path, questions: Path, steps: int) -> Path:
    """Two configurations over the recipe, fewer steps each."""
    study = {
        "name": "killed",
        "base": str(recipe),
        "overrides": {f"stages.{name}.steps": steps for name in STAGES},
        "axes": {"align": {"yes": {}, "no": {"stages.align.skip": True}}},
        "benchmarks": {"exact-match": str(questions)},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


def start(command: list[str], said: Path) -> int:
    """Run a command in a forked process, and return its id."""
    process = os.fork()
    if process:
        return process
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["olivine", *command]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def wait(process: int, seconds: float | None) -> int | None:
    """The exit code (negative: the signal), or None if the process is still there after this many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, 0 if deadline is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


def digests(folder: Path, pattern: str) -> list[tuple[str, str]]:
    return [
        (str(file.relative_to(folder)), hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.rglob(pattern))
    ]


def audited(output: Path) -> list[tuple[str, int, list[str]]]:
    return [
        (stage, row["step"], row["samples"])
        for stage in STAGES
        for row in read_json_lines(output / stage / "audit.jsonl")
    ]


def whole_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def saved_to_the_last_step(output: Path) -> str | None:
    """What a stage that was signalled to stop has not saved."""
    for folder in sorted({file.parent for file in output.rglob("metrics.jsonl")}):
        if (folder / "result.json").is_file():
            continue
        rows = [row["step"] for row in read_json_lines(folder / "metrics.jsonl", allow_cut_end=True) if "loss" in row]
        points = [int(point.name.rpartition("-")[2]) for point in folder.glob("resume/step-*")]
        if rows and max(points, default=0) != rows[-1] + 1:
            return (
                f"{folder.name}: step {rows[-1]} is logged, the newest training checkpoint is {max(points, default=0)}"
            )
    return None


def resumable_steps(output: Path) -> int:
    """Steps that would not be trained again."""
    count = 0
    for stage in STAGES:
        if (output / stage / "result.json").is_file():
            count += 10_000
        count += max((int(p.name.rpartition("-")[2]) for p in (output / stage).glob("resume/step-*")), default=0)
    return count


def subjects(folder: Path, quick: bool) -> Iterator[Subject]:
    recipe = write_recipe(folder, 10 if quick else 24)
    yield Subject(
        "train",
        lambda output: ["train", str(recipe), f"output={output}"],
        lambda output: (digests(output, "model.safetensors"), audited(output)),
        resumable_steps,
        saved_to_the_last_step,
    )
    model = folder / "train-whole"
    questions = write_questions(folder / "asked", folder / "data" / "images", 60 if quick else 400)
    yield Subject(
        "evaluate",
        lambda output: [
            "evaluate",
            str(model),
            "--benchmarks",
            "exact-match",
            "--data",
            str(questions),
            "--output",
            str(output),
        ],
        lambda output: (digests(output, "*.jsonl"), digests(output, "scores.json")),
        lambda output: whole_lines(output / "exact-match" / "answers.jsonl"),
        lambda _output: None,
    )
    few = write_questions(folder / "few", folder / "data" / "images", 40)
    study = write_study(folder, recipe, few, 4 if quick else 9)

    def of_its_own(output: Path) -> Path:
        path = folder / f"{output.name}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(study.read_text()) | {"output": str(output)}, sort_keys=False))
        return path

    def steps_done(output: Path) -> int:
        plan = plan_study(of_its_own(output))
        return len(plan.steps) - len(plan.left())

    yield Subject(
        "study",
        lambda output: ["ablate", str(of_its_own(output))],
        lambda output: [
            digests(output, name) for name in ("results.csv", "model.safetensors", "items.jsonl", "audit.jsonl")
        ],
        steps_done,
        saved_to_the_last_step,
    )


def killed(subject: Subject, folder: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill one subject this many times, and return what was found."""
    whole = folder / f"{subject.name}-whole"
    said = folder / f"{subject.name}.log"
    began = time.monotonic()
    if wait(start(subject.command(whole), said), None):
        sys.exit(f"{subject.name} fails without being killed:\n{said.read_text()}")
    seconds = time.monotonic() - began
    expected = subject.outcome(whole)
    spent = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    stopped = same = runs = 0
    problems: list[str] = []
    while sum(spent.values()) < kills:
        runs += 1
        output, reached = folder / f"{subject.name}-{runs}", 0
        while True:
            process = start(subject.command(output), said)
            left = sum(spent.values()) < kills
            code = wait(process, draw.uniform(0, seconds) if left else None)
            if code is not None:
                break
            number = draw.choice((signal.SIGKILL, signal.SIGTERM))
            os.kill(process, number)
            code = wait(process, None)
            if code == 0:
                break  # it had finished before the signal came
            spent[number] += 1
            if number == signal.SIGTERM:
                stopped += code == 75
                if code not in (75, -signal.SIGTERM):  # -15: its signal handler was not yet installed
                    problems.append(f"run {runs}: SIGTERM ended it with {code}")
                # Signalled before it resumed, it leaves what a SIGKILL left: steps logged after the last training
                # checkpoint.
                elif b"is saved at step" in said.read_bytes()[-400:] and (problem := subject.problem(output)):
                    problems.append(f"run {runs}: {problem}")
            now = subject.progress(output)
            if now < reached:
                problems.append(f"run {runs}: {reached} became {now}")
            reached = now
        if code:
            problems.append(f"run {runs}: exit code {code}")
        elif subject.outcome(output) == expected:
            same += 1
        else:
            problems.append(f"run {runs}: another outcome")
    print(f"{subject.name}: {sum(spent.values())} kills over {runs} runs, {len(problems)} problems", file=sys.stderr)
    return {
        "command": subject.name,
        "kills": spent[signal.SIGKILL],
        "terms": spent[signal.SIGTERM],
        "terms_ended_with_75": stopped,
        "runs": runs,
        "same_bytes": same,
        "whole_run_s": round(seconds, 1),
        "problems": problems,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, help="how many of each command (default 50; 4 with --quick)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("train", "evaluate", "study"), help="kill one of the three alone")
    requested = parser.parse_args()
    torch.set_num_threads(1)  # before any fork: threads are not inherited
    draw = random.Random(requested.seed)
    kills = requested.kills or (4 if requested.quick else 50)
    with tempfile.TemporaryDirectory() as name:
        made = subjects(Path(name), requested.quick)
        rows = [killed(s, Path(name), kills if requested.only in (None, s.name) else 0, draw) for s in made]
    share = sum(row["same_bytes"] for row in rows) / sum(row["runs"] for row in rows)
    show(requested, {"runs that ended in the same bytes": share}, rows)
    if share < 1 or any(row["problems"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
