"""The reliability page names tests that exist, and fills in every column for each situation."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and not line.startswith("|---") and cells[0] != "situation":
            yield cells


def test_every_row_is_complete_and_names_an_existing_test():
    defined: dict[str, set[str]] = {}
    for cells in rows():
        assert len(cells) == 4, cells
        assert all(cells), cells
        named = _TEST.findall(cells[3])
        assert named, f"no test in {cells}"
        for file, name in named:
            if file not in defined:
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                defined[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in defined[file], f"{file} has no test {name}"


def test_no_situation_is_listed_twice():
    situations = [cells[0] for cells in rows()]
    assert len(situations) == len(set(situations))
