"""How long the report of a whole study takes: the world's eight configurations, eight benchmarks, seeing and blind.

    python benchmarks/report_time.py [--data data/world] [--quick] [--rounds 3] [--json]

Nothing is trained: every step gets the files that it would leave, with random answers (right more often
for some configurations than for others), so that only measuring and reporting are timed. `--data` is what `olivine
world write` wrote; without it the benchmarks are drawn first. `--quick` draws a twentieth of each benchmark.
"""

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from report import arguments, show

from olivine.ablation.plan import EvaluateStep, StageStep
from olivine.ablation.run import plan_study, report
from olivine.evaluation.answers import to_row
from olivine.evaluation.run import ANSWERS, write_score
from olivine.files import write_json, write_json_lines
from olivine.records import Answer

STUDY = Path(__file__).parents[1] / "recipes" / "studies" / "world.yaml"
CHANCE = {"large": 0.03, "dinov2": -0.1, "no": -0.3}


def write_study(folder: Path, data: Path) -> Path:
    values = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    values |= {"base": str((STUDY.parent / values["base"]).resolve()), "output": str(folder / "study")}
    for name, asked in values["benchmarks"].items():
        values["benchmarks"][name] = {**(asked if isinstance(asked, dict) else {}), "data": str(data / name)}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def finish(step: StageStep, seed: int) -> None:
    loss = 3 * np.exp(-np.arange(200) / 40) + 0.2 + np.random.default_rng(seed).normal(0, 0.08, 200)
    rows = [{"step": n, "loss": float(v), "tokens": 4000, "seconds": 0.05} for n, v in enumerate(loss)]
    write_json_lines(step.folder / "metrics.jsonl", rows)
    about = {"packages": {"torch": "2.13.0"}, "python": "3.11", "device": "cpu", "threads": 2}
    write_json(step.folder / "provenance.json", about)
    write_json(step.folder / "result.json", {"stage": step.kind, "steps": 200, "seconds": 10.0})


def answer(step: EvaluateStep, chance: float, seed: int) -> None:
    benchmark = step.settings.opened(step.benchmark)
    questions = benchmark.read(step.settings.data)
    luck = np.random.default_rng(seed)
    answers = []
    for question in questions:
        truth = question.references[0]
        wrong = {"yes": "no", "no": "yes"}.get(truth, "B" if truth == "A" else "A")
        answers.append(Answer(question.id, truth if luck.random() < chance else wrong))
    score = benchmark.score(questions, answers)
    about = {"control": step.control, "model": "drawn", **benchmark.judged_by(score.variant)}
    write_score(score, step.folder, questions, about)
    rows = [to_row(one, question, "drawn") for one, question in zip(answers, questions, strict=True)]
    write_json_lines(step.folder / ANSWERS, rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="what `olivine world write` wrote (default: drawn first)")
    parser.add_argument("--rounds", type=int, default=3)
    requested = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = requested.data or folder / "data"
        if requested.data is None:
            share = ["--share", "0.05"] if requested.quick else []
            command = [sys.executable, "-m", "olivine", "world", "write", str(data), *share]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        path = write_study(folder, data)
        plan = plan_study(path)
        for key, step in plan.steps.items():
            ((cell, _seed), *_rest) = plan.used_by(key)
            seed = int(hashlib.sha256(f"{step.kind}{cell}".encode()).hexdigest()[:8], 16)
            if isinstance(step, StageStep):
                finish(step, seed)
            elif isinstance(step, EvaluateStep):
                base = 0.3 if step.control else 0.85 + sum(CHANCE.get(level, 0) for level in cell)
                answer(step, base, seed)
        seconds = []
        for _ in range(1 if requested.quick else requested.rounds):
            began = time.monotonic()
            page = report(plan_study(path))
            seconds.append(round(time.monotonic() - began, 2))
        digest = hashlib.sha256(page.read_bytes()).hexdigest()
    rows = [{"round": number, "seconds": value} for number, value in enumerate(seconds, start=1)]
    show(requested, {}, rows, median_seconds=statistics.median(seconds), evaluations=len(plan.evaluations), page=digest)


if __name__ == "__main__":
    main()
