"""Whether a recipe's training gives the same bits every time: fresh processes, several threads, with and without kills.

    python benchmarks/same_bits.py recipes/easy-vqa.yaml [KEY=VALUE ...] [--runs 2] [--kills 0] [--threads 2] [--json]

The recipe is trained `--runs` times without interruption and, with `--kills N`, once more, killed N times with SIGKILL
at random instants and started again. Every stage's model file must have the same hash in all of them; the exit code is
1 if not. Seconds per step are medians over the steps of the first run. `--quick` cuts every stage to 40 steps.
"""

import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import arguments, show

from olivine.files import read_json_lines
from olivine.recipe import Recipe, load

QUICK_STEPS = 40


def start(requested: Any, overrides: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "olivine", "train", str(requested.recipe), *overrides, f"output={output}"]
    # Threads that spin while they wait make a run many times slower on a machine that does anything else.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(requested.threads)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed without being killed:\n{said.decode()}")


def train_with_kills(requested: Any, overrides: Sequence[str], output: Path, kills: int, whole: float) -> None:
    """Train to the end, killed at `kills` random instants within the time that an uninterrupted run takes."""
    draw = random.Random(requested.seed)
    for _ in range(kills):
        process = start(requested, overrides, output)
        try:
            process.wait(draw.uniform(0, 2 * whole / (kills + 1)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        else:
            finish(process)
            sys.exit(f"the run finished before {kills} kills; use more steps or fewer kills")
    finish(start(requested, overrides, output))


def hashes(recipe: Recipe, output: Path) -> dict[str, str]:
    """The SHA-256 of each stage's model files."""
    found = {}
    for stage in recipe.stages:
        files = sorted((output / stage.name / "checkpoint").glob("*.safetensors"))
        if files:
            found[stage.name] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return found


def seconds_a_step(recipe: Recipe, output: Path) -> dict[str, float]:
    medians = {}
    for stage in recipe.stages:
        log = output / stage.name / "metrics.jsonl"
        if log.is_file():
            taken = [row["seconds"] for row in read_json_lines(log) if "seconds" in row]
            medians[stage.name] = round(statistics.median(taken), 4)
    return medians


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe's file")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as for olivine train")
    parser.add_argument("--runs", type=int, default=2, help="uninterrupted runs (default 2)")
    parser.add_argument("--kills", type=int, default=0, help="kills of one more run (default 0: no such run)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each run (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants of the kills")
    parser.add_argument("--folder", type=Path, help="keep the runs there (default: a temporary folder)")
    requested = parser.parse_args()
    recipe = load(requested.recipe, requested.overrides)
    quick = [f"stages.{stage.name}.steps={QUICK_STEPS}" for stage in recipe.stages] if requested.quick else []
    overrides = [*requested.overrides, *quick]
    with tempfile.TemporaryDirectory() as name:
        folder = requested.folder or Path(name)
        rows: list[dict[str, Any]] = []
        for number in range(1, requested.runs + 1):
            began = time.monotonic()
            finish(start(requested, overrides, folder / f"run-{number}"))
            taken = time.monotonic() - began
            found = hashes(recipe, folder / f"run-{number}")
            rows.append({"run": number, "kills": 0, "seconds": round(taken, 1), **found})
        if requested.kills:
            output = folder / "run-killed"
            train_with_kills(requested, overrides, output, requested.kills, rows[0]["seconds"])
            rows.append({"run": "killed", "kills": requested.kills, **hashes(recipe, output)})
        steps = seconds_a_step(recipe, folder / "run-1")
    same = sum(all(row[stage] == rows[0][stage] for stage in steps) for row in rows)
    ratios = {"runs that ended in the first one's bits": same / len(rows)}
    show(requested, ratios, rows, seconds_a_step=steps, threads=requested.threads, recipe=recipe.name)
    if same != len(rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
