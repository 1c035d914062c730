"""Random kills: a small run is killed with SIGKILL at a random instant and started again, until it finishes.

    python benchmarks/resume.py [--quick] [--json] [--kills 50] [--seed 0]

Every run that finishes is compared with one that was never killed, bit by bit, and its audit log with that run's:
no sample lost, none taken twice. A run that ends before all kills are spent is followed by a fresh one.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from report import arguments, show

from olivine.files import read_json_lines
from olivine.testing import tiny_model_recipe, write_dataset

STEPS = 60


def write_recipe(folder: Path) -> Path:
    """Two stages, a training checkpoint every third step, validation in between."""
    dataset = write_dataset(folder / "data", items=60)
    stage = {"data": "all", "batch": 6, "lr": 1e-2, "sequence_tokens": 160, "save_every": 3, "validate_every": 10}
    recipe = {
        "name": "killed",
        "model": tiny_model_recipe().model_dump(by_alias=True),
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images"), "turns": "independent"}},
        "stages": [
            {**stage, "name": "align", "train": ["connector"], "steps": STEPS},
            {**stage, "name": "instruct", "train": ["connector", "language"], "steps": STEPS},
        ],
        "optimizer": {"precision": "fp32"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start(recipe: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "olivine", "train", str(recipe), f"output={output}"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed without being killed:\n{said.decode()}")


def bits(output: Path) -> str:
    content = b"".join(
        (output / stage / "checkpoint" / "model.safetensors").read_bytes() for stage in ("align", "instruct")
    )
    return hashlib.sha256(content).hexdigest()


def audit(output: Path) -> list[tuple[int, list[str]]]:
    rows = [row for stage in ("align", "instruct") for row in read_json_lines(output / stage / "audit.jsonl")]
    return [(row["step"], row["samples"]) for row in rows]


def where(output: Path) -> str:
    """How far the run had come when it was killed."""
    for stage in ("instruct", "align"):
        log = output / stage / "metrics.jsonl"
        if log.is_file():
            steps = [row for row in read_json_lines(log, allow_cut_end=True) if "loss" in row]
            return f"{stage} step {len(steps)}"
    return "before the first step"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, help="how many in all (default 50; 3 with --quick)")
    parser.add_argument("--seed", type=int, default=0)
    requested = parser.parse_args()
    kills = requested.kills or (3 if requested.quick else 50)
    draw = random.Random(requested.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe(folder)
        began = time.monotonic()
        finished(start(recipe, folder / "whole"))
        whole = time.monotonic() - began
        expected, expected_audit = bits(folder / "whole"), audit(folder / "whole")
        assert [step for step, _ in expected_audit] == [*range(STEPS)] * 2
        spent = same = runs = 0
        while spent < kills:
            runs += 1
            output = folder / f"run-{runs}"
            while True:
                process = start(recipe, output)
                delay = draw.uniform(0, whole)
                if spent < kills:
                    try:
                        process.wait(delay)
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.communicate()
                        spent += 1
                        rows.append({"run": runs, "killed_after_s": round(delay, 2), "at": where(output)})
                        continue
                finished(process)
                break
            same += bits(output) == expected and audit(output) == expected_audit
    show(
        requested,
        {"runs that ended in the same bits and took the same samples": same / runs},
        rows,
        kills=spent,
        runs=runs,
        identical=same,
        steps=2 * STEPS,
    )
    if same != runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
