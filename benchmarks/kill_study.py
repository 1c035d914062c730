"""Kill a study at random instants, let it go on each time, and compare its tables with those of an unkilled run.

    python benchmarks/kill_study.py STUDY.yaml --kills 20 [--seed 0] [--json]

Exit 0 if results.csv is the same byte for byte, 1 if not. Both runs go to temporary folders.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml


def copy_of(study: Path, folder: Path) -> Path:
    """The study with an output of its own."""
    values = yaml.safe_load(study.read_text())
    values["base"] = str((study.parent / values["base"]).resolve())
    values["output"] = str(folder / "run")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def start(study: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "olivine", "ablate", str(study)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        whole, killed = copy_of(options.study, Path(first)), copy_of(options.study, Path(second))
        began = time.monotonic()
        if start(whole).wait():
            raise SystemExit(f"{options.study}: the study itself fails; nothing to compare")
        seconds = time.monotonic() - began
        kills, instants = 0, []
        while kills < options.kills:
            run = start(killed)
            # Short lives beside long ones: also the first moments, and those behind many finished steps, are met.
            life = draw.uniform(0, 2.2 * seconds / options.kills + 4)
            try:
                run.wait(life)
                break  # it came to its end between two kills
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                kills += 1
                instants.append(round(life, 2))
        code = start(killed).wait()
        tables = [(Path(folder) / "run" / "results.csv").read_bytes() for folder in (first, second)]
    same = code == 0 and tables[0] == tables[1]
    found = {"same": same, "kills": kills, "lives_s": instants, "whole_run_s": round(seconds, 1)}
    print(json.dumps(found) if options.json else f"{'same' if same else 'DIFFERENT'} after {kills} kills {instants}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
