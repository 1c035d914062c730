"""A wheel holds every file of the package: recipes, templates, published tables, pretrained folders, `py.typed`."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "olivine"


def tracked() -> set[str]:
    """Return the package's files that git tracks; in a copy without git, all files."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(PACKAGE), "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        return {name for name in listed if name and (PACKAGE / name).is_file()}
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE).as_posix() for path in files}


def shipped() -> set[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    return {
        path.relative_to(PACKAGE).as_posix()
        for pattern in settings["package-data"]["olivine"]
        for path in PACKAGE.glob(pattern)
    }


def test_every_file_that_is_no_code_is_shipped():
    others = {name for name in tracked() if not name.endswith(".py")}
    assert {"py.typed", "recipes/easy-vqa.yaml", "ablation/templates/report.html.j2"} <= others
    assert others - shipped() == set()


@pytest.mark.parametrize("folder", sorted({Path(name).parent.as_posix() for name in tracked() if name.endswith(".py")}))
def test_every_folder_of_code_is_a_package(folder):
    assert (PACKAGE / folder / "__init__.py").is_file()
