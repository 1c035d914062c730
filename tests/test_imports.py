"""Commands that must start fast load neither torch nor transformers."""

import subprocess
import sys

import pytest

LIGHT = [
    "import olivine",
    "import olivine.recipe",
    "import olivine.statistics; olivine.statistics.t_quantile(0.975, 12.0)",
    "import olivine.ablation.study",
    "import olivine.evaluation.benchmarks",
    "import olivine.cli",
    "import sys, olivine.cli; sys.argv = ['olivine', '--help']\ntry: olivine.cli.main()\nexcept SystemExit: pass",
]


@pytest.mark.parametrize("code", LIGHT)
def test_no_torch(code):
    check = "\nimport sys; heavy = {'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [LIGHT[0], LIGHT[-1]], ids=["import", "help"])
def test_starting_loads_only_what_is_needed(code):
    # Each of these (a recipe's schema, scipy, Parquet) takes as long as everything else that `--help` imports.
    names = {"olivine.recipe", "scipy", "pyarrow", "filelock", "numpy"}
    check = f"\nimport sys; heavy = {names!r} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
