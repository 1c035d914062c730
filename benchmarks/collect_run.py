"""Collect what a finished run measured into one JSON: seconds and loss per stage, scores, versions, device.

python benchmarks/collect_run.py runs/easy-vqa --out benchmarks/results/easy-vqa-cpu.json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from olivine.files import read_json, sha256_of_file, write_json
from olivine.recipe import CHECKPOINT, PROVENANCE, RECIPE, RESULT
from olivine.training.run import find_checkpoint


def collect(run: Path) -> dict[str, Any]:
    """Return what the run directory has, without any path of the machine it ran on."""
    provenance = read_json(run / PROVENANCE)
    weights = find_checkpoint(run) / "model.safetensors"
    return {
        "run": provenance["name"],
        "device": provenance["device"],
        "threads": provenance["threads"],
        "versions": {**provenance["packages"], "python": provenance["python"]},
        "seed": provenance["seed"],
        "recipe_sha256": sha256_of_file(run / RECIPE),
        "weights_sha256": sha256_of_file(weights),
        "data": {name: {k: d[k] for k in ("sha256", "samples", "skipped")} for name, d in provenance["data"].items()},
        "stages": [read_json(path) for path in sorted(run.glob(f"*/{RESULT}"), key=lambda p: p.stat().st_mtime)],
        "scores": {
            path.parent.name: read_json(path)["metrics"] for path in sorted(run.glob("*/evaluation/*/scores.json"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help=f"a finished run directory (its last stage has a {CHECKPOINT})")
    parser.add_argument("--out", type=Path, help="write there instead of to stdout")
    requested = parser.parse_args()
    result = collect(requested.run)
    if requested.out:
        write_json(requested.out, result)
    else:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
