"""Library code does not change the process that uses it: no exit, no global seed, no warning filter, no print.

Olivine's own processes (the command line, a worker, `python -m`) may do these; the exceptions are listed here.
"""

import ast
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from olivine.console import PlainConsole, diagnostics_on
from olivine.data.image_files import decode_image
from olivine.random_state import RandomState
from olivine.recipe import ModelRecipe
from olivine.testing import CORPUS, save_language_model, save_tower, tiny_model_recipe

SOURCE = Path(__file__).parents[1] / "src" / "olivine"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "cli")

EXITS = {"sys.exit", "exit", "quit", "os._exit", "os.abort", "SystemExit", "typer.Exit"}
SEEDS = {
    "torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.random.seed", "torch.set_rng_state",
    "torch.random.set_rng_state", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.cuda.seed",
    "torch.cuda.set_rng_state", "random.seed", "random.setstate", "np.random.seed", "numpy.random.seed",
    "np.random.set_state",
}  # fmt: skip
FILTERS = {"warnings.filterwarnings", "warnings.simplefilter", "warnings.resetwarnings"}
TERMINAL = {
    "print", "typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write", "rich.print", "Console",
    "rich.console.Console", "logging.basicConfig", "logging.captureWarnings", "warnings.warn",
}  # fmt: skip
#: What is allowed outside cli/, and why.
ALLOWED = {
    ("available_cpus.py", "os._exit"): "a worker process ends itself, from a thread, when its parent is gone",
    ("process_end.py", "sys.exit"): "the end of a process of Olivine's own, which the command line calls last",
    ("process_end.py", "os._exit"): "the end of a process of Olivine's own, which the command line calls last",
    ("random_state.py", "torch.set_rng_state"): "inside fork_rng, which puts the caller's state back",
    ("random_state.py", "torch.cuda.set_rng_state"): "inside fork_rng, which puts the caller's state back",
    ("training/training_checkpoints.py", "torch.set_rng_state"): "called while the stage's RandomState is active",
    ("training/training_checkpoints.py", "torch.cuda.set_rng_state"): "called while the stage's RandomState is active",
    ("training/training_checkpoints.py", "torch.cuda.manual_seed"): "called while the stage's RandomState is active",
    ("process_setup.py", "warnings.filterwarnings"): "for processes of Olivine's own, which call it as they start",
}
#: What may call `process_setup`: the entry points of Olivine's own processes.
ENTRY_POINTS = {"cli/__init__.py", "ablation/launch_processes.py", "ablation/launch_ray.py", "data/check_work.py"}


class _Calls(ast.NodeVisitor):
    """Collects a module's calls and raised names by dotted name, except those under `if __name__ == "__main__"`."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, bool]] = []
        self._caught = 0

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "__name__ == '__main__'":
            self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        caught = any("catch_warnings" in ast.unparse(item.context_expr) for item in node.items)
        self._caught += caught
        self.generic_visit(node)
        self._caught -= caught

    def visit_Call(self, node: ast.Call) -> None:
        self.found.append((ast.unparse(node.func), node.lineno, self._caught > 0))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Name | ast.Attribute):
            self.found.append((ast.unparse(node.exc), node.lineno, self._caught > 0))
        self.generic_visit(node)


def offences(text: str) -> list[tuple[str, int]]:
    calls = _Calls()
    calls.visit(ast.parse(text))
    return [
        (name, line)
        for name, line, caught in calls.found
        if name in EXITS | SEEDS | TERMINAL or (name in FILTERS and not caught)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_library_code_leaves_its_process_alone(path):
    name = path.relative_to(SOURCE).as_posix()
    found = [(call, line) for call, line in offences(path.read_text()) if (name, call) not in ALLOWED]
    assert not found, f"{name}: {found}"


def test_every_exception_is_needed():
    for name, call in ALLOWED:
        assert call in {found for found, _ in offences((SOURCE / name).read_text())}, (name, call)


def test_only_entry_points_set_up_their_process():
    callers = {path for path in SOURCE.rglob("*.py") if "ignore_known_warnings()" in path.read_text()}
    assert {path.relative_to(SOURCE).as_posix() for path in callers} == ENTRY_POINTS | {"process_setup.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(1)", "raise SystemExit", "raise SystemExit(2)", "import os\nos._exit(0)",
        "import torch\ntorch.manual_seed(0)", "import random\nrandom.seed(0)", "import numpy as np\nnp.random.seed(0)",
        "import warnings\nwarnings.simplefilter('ignore')", "print('x')", "import sys\nsys.stderr.write('x')",
        "from rich.console import Console\nConsole()", "import logging\nlogging.basicConfig()",
    ],
)  # fmt: skip
def test_offences_are_found(text):
    assert offences(text)


@pytest.mark.parametrize(
    "text",
    [
        "if __name__ == '__main__':\n    raise SystemExit(0)", "generator.manual_seed(0)",
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')", "log.print('x')",
    ],
)  # fmt: skip
def test_permitted_code_is_accepted(text):
    assert not offences(text)


IMPORT_ALL = """
import importlib, logging, pkgutil, random, sys, warnings
import numpy as np, torch, transformers, PIL.Image, rich.console  # what they change is their own
before = list(warnings.filters), random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())
import olivine
for module in pkgutil.walk_packages(olivine.__path__, "olivine."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert (error.name or "").split(".")[0] != "olivine", error
after = list(warnings.filters), random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())
ours = ("olivine", "PIL", "Image size", "distributed")
added = [rule for rule in after[0] if rule not in before[0] and any(word in str(rule) for word in ours)]
assert not added, added
assert after[1:] == before[1:]
assert not logging.getLogger().handlers and not logging.getLogger("olivine").handlers
"""


def test_importing_everything_leaves_the_process_unchanged():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def state() -> list[int]:
    return torch.get_rng_state().tolist()


def test_a_random_state_resumes_where_it_was_and_leaves_the_callers(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(1)
    before = state()
    own = RandomState(7)
    with own.active():
        first = torch.rand(2)
    assert state() == before
    with own.active():
        second = torch.rand(2)
    assert state() == before
    assert torch.equal(torch.cat([first, second]), expected)


def test_making_models_leaves_the_callers_random_numbers(tmp_path):
    from olivine.model.build import build

    before = state()
    recipe: ModelRecipe = tiny_model_recipe()
    one = build(recipe, seed=0, texts=lambda: CORPUS).part("language")
    save_tower(tmp_path / "tower")
    save_language_model(tmp_path / "language")
    assert state() == before
    torch.rand(3)
    two = build(recipe, seed=0, texts=lambda: CORPUS).part("language")
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_diagnostics_reach_the_console_and_nothing_else(capsys):
    file = io.StringIO()
    with diagnostics_on(PlainConsole(file=file, soft_wrap=True)):
        logging.getLogger("olivine.training.log").warning("line 3 [bold]is damaged[/bold]")
        logging.getLogger("olivine.training.log").info("a detail")
        logging.getLogger("another").info("not ours")
    assert file.getvalue() == "line 3 [bold]is damaged[/bold]\n"
    assert capsys.readouterr() == ("", "")
    assert not logging.getLogger("olivine").handlers


def test_an_image_is_the_same_where_warnings_are_raised():
    raw = io.BytesIO()
    Image.new("RGB", (9500, 9500)).save(raw, "PNG")  # above the size from which Pillow warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(raw.getvalue()))
        before = list(warnings.filters)
        assert decode_image(raw.getvalue(), "large").size == (9500, 9500)
        assert warnings.filters == before
