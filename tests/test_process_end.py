"""The end of a process: alone with Python's finalization, as one of several without, and nothing of it lost."""

import os
import subprocess
import sys

import pytest

DRIVER = """
import atexit, sys, threading, time
from pathlib import Path
from olivine.process_end import end_process

folder = Path(sys.argv[1])

class Finalized:
    def __del__(self, write=(folder / "finalized").write_text):
        write("")

def late():
    time.sleep(0.2)
    (folder / "thread").write_text("")

kept = Finalized()
kept.itself = kept  # collected by nothing but the finalization
threading.Thread(target=late).start()
atexit.register((folder / "atexit").write_text, "")
sys.stdout.write("out")
sys.stderr.write("err")
end_process(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_it_ends_with_threads_and_output_done(tmp_path, count, code):
    environment = {**os.environ, "WORLD_SIZE": str(count)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "out", "err")
    written = {"thread", "atexit"} | ({"finalized"} if count == 1 else set())
    assert {file.name for file in tmp_path.iterdir()} == written
