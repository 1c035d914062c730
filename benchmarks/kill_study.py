"""Kill a study at random instants, resume it each time, and compare its tables with those of an unkilled run.

    python benchmarks/kill_study.py [STUDY.yaml] [--quick] [--kills 20] [--seed 0] [--out FILE]

By default the demo's own eight configurations, on a small world and with few steps; two steps at a time, as in the
demo. Only the command is killed: its processes must end without a signal before the next command needs their folders.
Exit 0 if results.csv is the same byte for byte, 1 if not. Everything goes to temporary folders.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from report import arguments, show

WORLD = Path(__file__).parents[1] / "recipes" / "studies" / "world.yaml"
BRIEF = {"stages.align.steps": 6, "stages.instruct.steps": 8, "stages.instruct.validate_every": 4}


def brief_world(folder: Path, quick: bool) -> Path:
    """The world study over a tenth of its benchmarks, with few steps and training checkpoints every third; its path."""
    data = folder / "data"
    written = [sys.executable, "-m", "olivine", "world", "write", str(data), "--images", "200", "--share", "0.1"]
    subprocess.run(written, check=True, stdout=subprocess.DEVNULL)
    values = yaml.safe_load(WORLD.read_text())
    values["base"] = str((WORLD.parent / values["base"]).resolve())
    values["overrides"] = {
        **BRIEF,
        **{f"stages.{stage}.save_every": 3 for stage in ("align", "instruct")},
        **{
            f"data.{name}": {
                "json": str(data / "training" / f"{name}.json"),
                "images": str(data / "training" / "images"),
            }
            for name in ("captions", "instructions")
        },
    }
    if quick:
        values["axes"].pop("language")
        values["say"].pop("language")
    asked = values["benchmarks"]
    for name, entry in asked.items():
        asked[name] = entry | {"data": str(data / name)} if isinstance(entry, dict) else str(data / name)
    path = folder / "brief.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def copy_of(study: Path, folder: Path) -> Path:
    """The study with its own output."""
    values = yaml.safe_load(study.read_text())
    values["base"] = str((study.parent / values["base"]).resolve())
    values["output"] = str(folder / "run")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def start(study: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "olivine", "ablate", str(study), "--jobs", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done(study: Path) -> int:
    """Steps of a study that are finished."""
    from olivine.ablation.run import plan_study

    plan = plan_study(study)
    return len(plan.steps) - len(plan.left())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--kills", type=int, help="how many (default 20; 3 with --quick)")
    parser.add_argument("--seed", type=int, default=0)
    requested = parser.parse_args()
    kills = requested.kills or (3 if requested.quick else 20)
    draw = random.Random(requested.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
        study = requested.study or brief_world(Path(name), requested.quick)
        whole, killed = (copy_of(study, folder) for folder in folders)
        began = time.monotonic()
        if start(whole).wait():
            sys.exit(f"{study}: the study itself fails; nothing to compare")
        seconds = time.monotonic() - began
        while len(rows) < kills:
            run = start(killed)
            # Short and long runs, so that kills also fall on the first moments and on moments after many finished
            # steps.
            life = draw.uniform(0, 1.6 * seconds / kills + 4)
            try:
                run.wait(life)
                break  # it finished between two kills
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
                rows.append({"killed_after_s": round(life, 2), "steps_done": done(killed)})
        code = start(killed).wait()
        tables = [(folder / "run" / "results.csv").read_bytes() for folder in folders]
    same = code == 0 and tables[0] == tables[1]
    show(requested, {"results.csv the same": float(same)}, rows, kills=len(rows), whole_run_s=round(seconds, 1))
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
