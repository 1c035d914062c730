"""Whether a change of the code leaves a study unchanged: hashes of a small study's tables, models and report.

    python benchmarks/same_study.py --out before.json         # on the code as it was
    python benchmarks/same_study.py --against before.json     # on the changed code: exit code 1 if a hash differs

Two configurations of the embedded world (connector aligned or not), two benchmarks, one seed, eight steps a stage, one
thread. Durations, dates and hashes in steps' names that a report states are masked before hashing; every other byte
counts. For a change that is meant to alter the output, --against lists the files that differ. Words that were renamed
on purpose are in `RENAMED`: with --renamed they replace the earlier ones before hashing, so that code from before the
renaming can be compared with code after it.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml
from report import arguments, show

STUDY = Path(__file__).parents[1] / "recipes" / "studies" / "world-align.yaml"
STEPS = {"stages.align.steps": 8, "stages.instruct.steps": 8, "stages.instruct.validate_every": 4}
TABLES = ("results.csv", "effects.csv")
#: Seconds, minutes and hours as reports print them, in text and in the table of costs.
_DURATION = re.compile(
    r"\d[\d,.]*(?=\s*(?:s|min|minutes|h|hours)\b)|(?<=compute: )[\d,.]+"
    r"|(?<=</code></th><td>)[\d,.]+|(?<=` \| )[\d,.]+(?= \|)"
)
#: The hash in a step's name: it depends on how the code identifies a step, not on what the step left.
_STEP_NAME = re.compile(r"(?<=-)[0-9a-f]{16}\b")
#: What was renamed in the heads of tables: the earlier word, then the present one.
RENAMED = {"units": "clusters"}


def olivine(*arguments_: object) -> None:
    command = [sys.executable, "-m", "olivine", *map(str, arguments_)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def write_study(folder: Path) -> Path:
    data = folder / "data"
    if not data.is_dir():
        olivine("world", "write", data, _count_option(), 60, "--share", "0.05")
    values = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    values["base"] = str((STUDY.parent / values["base"]).resolve())
    values["benchmarks"] = {name: str(data / name) for name in ("gqa", "pope")}
    values["seeds"] = [0]
    values["output"] = str(folder / "study")
    sources = {
        f"data.{name}.{key}": str(data / "training" / position)
        for name in ("captions", "instructions")
        for key, position in (("json", f"{name}.json"), ("images", "images"))
    }
    values["overrides"] = {**STEPS, **sources}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def _count_option() -> str:
    """Return this version's name of the option for the number of training images."""
    command = [sys.executable, "-m", "olivine", "world", "write", "--help"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "--images" if "--images" in text else "--pictures"


def hashes(study: Path, folder: Path, renamed: Mapping[str, str]) -> dict[str, str]:
    found = {name: _sha256(_with_head(study / name, renamed)) for name in TABLES}
    steps = sorted(study.glob("steps/*/checkpoint/*.safetensors"))
    # By content, not by its step's name, which a new field of a recipe changes.
    found["models"] = _sha256("\n".join(sorted(_sha256(path.read_bytes()) for path in steps)).encode())
    for name in ("report.html", "report.md"):
        text = (study / name).read_text(encoding="utf-8")
        for root in (folder, STUDY.resolve().parents[1]):  # where the study and the checkout lie
            text = text.replace(str(root), "")
        text = _STEP_NAME.sub("#", text)
        found[name] = _sha256(_DURATION.sub("#", text).encode())
    return found


def _with_head(table: Path, renamed: Mapping[str, str]) -> bytes:
    head, _, rows = table.read_text(encoding="utf-8").partition("\n")
    return "\n".join([",".join(renamed.get(name, name) for name in head.split(",")), rows]).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--against", type=Path, help="the JSON that an earlier run wrote with --out")
    parser.add_argument("--folder", type=Path, help="work there and keep the study (default: a temporary folder)")
    parser.add_argument("--renamed", action="store_true", help="take the earlier heads of tables for the present ones")
    requested = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = requested.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        olivine("ablate", write_study(folder))
        found = hashes(folder / "study", folder, RENAMED if requested.renamed else {})
    rows = [{"file": file, "sha256": digest} for file, digest in found.items()]
    different = []
    if requested.against:
        before = {row["file"]: row["sha256"] for row in json.loads(requested.against.read_text())["rows"]}
        different = [file for file in found if before.get(file) != found[file]]
    show(requested, {"files that differ": len(different)}, rows, different=different)
    if different:
        sys.exit(1)


if __name__ == "__main__":
    main()
