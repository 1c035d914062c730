"""The processes of one run: one alone, and two over gloo; a failure of the first ends the other."""

import os
import subprocess
import sys

import pytest

from olivine.distributed import Processes, init_distributed
from olivine.errors import RequestError

DRIVER = """
import sys
from pathlib import Path
from olivine.distributed import init_distributed
from olivine.errors import OtherProcessError, RequestError
from olivine.process_end import end_process

def refuse():
    raise RequestError("wrong")

with init_distributed() as processes:
    other = 1 - processes.rank
    assert processes.several and processes.is_first == (processes.rank == 0)
    assert processes.gather(processes.rank) == [0, 1]
    assert processes.union([processes.rank] * 2) == [0, 0, 1, 1]
    assert processes.total([1.0, processes.rank]) == [2.0, 1.0]
    assert processes.from_first(processes.rank) == 0
    assert processes.run_on_first(lambda: f"by {processes.rank}") == "by 0"
    try:
        processes.run_on_first(refuse)
    except OtherProcessError as error:
        outcome = f"elsewhere {error.exit_code}"
    except RequestError as error:
        outcome = f"here {error.exit_code}"
    Path(sys.argv[1], str(processes.rank)).write_text(outcome)
end_process(0)
"""


def test_a_single_process_is_the_first_and_has_all_work():
    with init_distributed() as processes:
        assert processes == Processes()
        assert processes.is_first
        assert not processes.several
        assert processes.gather(3) == [3]
        assert processes.union([3, 4]) == [3, 4]
        assert processes.total([3.0]) == [3.0]
        assert processes.from_first(3) == 3
        assert processes.run_on_first(lambda: 3) == 3


def test_two_processes_exchange_and_the_first_alone_reports(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "driver.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["here 2", "elsewhere 2"]


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}])
def test_half_an_environment_is_refused_by_name(environment, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=r"WORLD_SIZE is 2.*torchrun"), init_distributed():
        pass
