"""Imports point down the layers, and only the packages listed here import transformers."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "olivine"
LAYERS = [
    {"errors"},
    {"records", "text_formats", "wording", "printable"},
    {
        "auto_classes",
        "files",
        "process_setup",
        "random_state",
        "locks",
        "available_cpus",
        "accelerators",
        "distributed",
        "registry",
        "stop",
        "streams",
        "process_end",
        "strict_yaml",
        "schema_mistakes",
        "field_identity",
        "console",
        "contents",
    },
    {"recipe", "statistics", "shipped_recipes"},
    {"data"},
    {"model"},
    {"conversion"},
    {"cost"},
    {"training"},
    {"evaluation"},
    {"ablation"},
    {"explanation"},
    {"serving"},
    {"testing", "doctor"},
    {"world"},
    {"demo", "api"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {package: height for height, packages in enumerate(LAYERS) for package in packages}
MODULES = sorted(SOURCE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def _package(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    package = _package(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "olivine" and len(parts) > 1 and package != "__init__":
            assert HEIGHT[parts[1]] <= HEIGHT[package], f"{path}: {name} is in a higher layer"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_transformers_stays_in_its_packages(path):
    if "transformers" in {name.split(".")[0] for name in _imports(path)}:
        assert _package(path) in {"model", "training", "testing", "world"} or path.name in (
            "vocabulary.py",
            "plain_side.py",  # a script for a process without Olivine
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_modules_say_what_they_hold(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: no module docstring"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_the_core_is_tested_without_the_world(path):
    """`make test-core` runs the suite with the world deleted; a test that needs it belongs to `tests/world`."""
    if path.parent.name == "world":
        return
    named = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not {name for name in _imports(path) if f"{name}.".startswith(("olivine.world.", "olivine.demo."))}
    assert not {text for text in named if re.match(r"world:\w", text)}, f"{path}: a module of the world"
