"""The pages name files and commands that exist, and CONTRIBUTING lists the test files that can skip.

What the pages claim beyond names is not checked here.
"""

import re
from pathlib import Path

import pytest
import typer

from olivine.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]
#: Files that a documented command writes, which may not be there yet.
WRITTEN = {"benchmarks/results/gpu.json"}
#: Files of an example's own package.
EXAMPLES = {"arcee.py"}
#: Pages that name files of other people's tools, which are not here.
NAMING_TOOLS = {"benchmarks.md"}
CODE = [ROOT / folder for folder in ("src", "tests", "benchmarks")]
WORLD = (ROOT / "src/olivine/world").is_dir()
#: A path of the repository, from its root or from the package; `...` and capitals are placeholders.
_PATH = re.compile(r"(?<![\w./-])((?:src|benchmarks|tests|recipes|docs)/[\w./*-]*\w\.(?:py|yaml|md|json|png|csv))\b")
_MODULE = re.compile(r"`([a-z_]+/[a-z_/]+\.py)`")
_BARE = re.compile(r"`([a-z_]+\.py)`")
_COMMAND = re.compile(r"(?:^|`|-m |bin/)olivine ([a-z]+)(?: ([a-z-]+))?", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
_SKIPS = re.compile(r"pytest\.skip\(|importorskip\(|mark\.skipif\(")


def names_in(pattern, page):
    return sorted(set(pattern.findall(page.read_text(encoding="utf-8"))))


def commands(app_):
    """Return {command: its subcommands, or nothing} of a typer application."""
    group = typer.main.get_command(app_)
    return {name: set(getattr(command, "commands", {})) for name, command in group.commands.items()}


def is_missing(path, *roots):
    found = any(any(root.glob(path)) for root in roots)
    return not found and (WORLD or "world" not in path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    missing = {path for path in names_in(_PATH, page) if path not in WRITTEN and is_missing(path, ROOT)}
    if page.name not in NAMING_TOOLS:
        missing |= {path for path in names_in(_MODULE, page) if is_missing(path, ROOT, ROOT / "src/olivine")}
        missing |= {name for name in names_in(_BARE, page) if name not in EXAMPLES and is_missing(f"**/{name}", *CODE)}
    missing |= {link for link in names_in(_LINK, page) if not (page.parent / link).exists()}
    assert not missing, f"{page.name}: {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page):
    known = commands(app)
    if not WORLD:
        known |= {"world": {"write", "two-images", "page", "pretrain", "align"}, "demo": set()}
    unknown = [
        f"olivine {name} {sub}".strip()
        for name, sub in names_in(_COMMAND, page)
        if name not in known or (known[name] and sub and sub not in known[name])
    ]
    assert not unknown, f"{page.name}: {unknown}"


def test_wrong_names_are_found(tmp_path):
    page = tmp_path / "PAGE.md"
    page.write_text(
        "`src/olivine/nowhere.py`, `model/nowhere.py`, `olivine nothing` `nowhere.py` and [a link](nowhere.md)\n"
    )
    with pytest.raises(
        AssertionError, match=r"model/nowhere\.py', 'nowhere\.md', 'nowhere\.py', 'src/olivine/nowhere\.py"
    ):
        test_files_that_a_page_names_exist(page)
    with pytest.raises(AssertionError, match="olivine nothing"):
        test_commands_that_a_page_names_exist(page)


def test_contributing_lists_the_test_files_that_can_skip():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## What is skipped")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(tests/[\w/]+\.py)` ?", section)) - {"tests/test_cli.py"}  # it skips through conftest
    skipping = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__) and "world" not in path.parts and _SKIPS.search(path.read_text(encoding="utf-8"))
    }
    assert listed == skipping, f"not listed: {skipping - listed}; listed, but without a skip: {listed - skipping}"
