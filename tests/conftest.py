"""What every test shares: quiet libraries, no network, one tiny model of each kind."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Threads that spin while they wait make every test many times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import pytest
import torch

from olivine import cli
from olivine.model.vlm import VisionLanguageModel
from olivine.testing import tiny_vlm, write_images

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def vlm() -> VisionLanguageModel:
    """CLIP and Gemma; tests must not change it."""
    return tiny_vlm()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, 12)
    return folder


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets are not on this machine")
    return SHARED_DATA


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the command line in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["olivine", *map(str, arguments)])
        # The console was created on import, before pytest replaced the streams.
        monkeypatch.setattr(cli.log, "_file", sys.stderr)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return stopped.value.code or 0, out, err

    return call
