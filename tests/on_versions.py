"""Run the tests that touch transformers on its oldest supported and its newest published version.

`make test-versions` runs this. Each version has an environment of its own, made when first needed; the newest is looked
up every time.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What runs where the command names no tests.
SUITE = ("tests/model", "tests/training", "tests/data", "tests/evaluation/test_engine.py")
#: Packages that a version of transformers chooses itself.
_FREE = re.compile(r"(transformers|tokenizers|huggingface_hub|httpx2?|httpcore2?|hf-xet|typer|click)==", re.IGNORECASE)
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def oldest() -> str:
    """Return the oldest transformers that pyproject.toml allows."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(found[1] for found in map(re.compile(r"transformers>=([\d.]+)").match, wanted) if found)


def environment(kind: str, requirement: str) -> Path:
    """Return the Python of an environment with a version of transformers, made or brought up to date."""
    folder = ROOT / ".venv-versions" / kind
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    constraints = folder / "constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(line for line in pinned if not _FREE.match(line)) + "\n")
    constrained = ("install", "--constraint", str(constraints))
    # torch first, at its exact version: with a range, pip may fetch a build with gigabytes of CUDA.
    subprocess.run([python, *_PIP, *constrained, "torch"], check=True)
    subprocess.run(
        [python, *_PIP, *constrained, "--upgrade", "--editable", ".[dev]", requirement], check=True, cwd=ROOT
    )
    return python


def result_of(python: Path, arguments: list[str]) -> tuple[int, str]:
    """Run the tests; return pytest's exit status, and its last line with the versions."""
    print_version = (
        "import torch, transformers; print('transformers', transformers.__version__, 'torch', torch.__version__)"
    )
    versions = subprocess.run([python, "-c", print_version], check=True, capture_output=True, text=True).stdout.strip()
    run = subprocess.Popen([python, "-m", "pytest", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    last = ""
    assert run.stdout is not None
    for line in run.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        last = line.strip() or last
    return run.wait(), f"{versions}: {last}"


def main() -> int:
    """Run both; the exit status is that of the first that failed."""
    arguments = sys.argv[1:] or list(SUITE)
    kinds = {"oldest": f"transformers=={oldest()}.*", "newest": "transformers"}
    results = [result_of(environment(kind, requirement), arguments) for kind, requirement in kinds.items()]
    for _, line in results:
        sys.stdout.write(line + "\n")
    return next((status for status, _ in results if status), 0)


if __name__ == "__main__":
    sys.exit(main())
