"""The command line's handler of unexpected errors, and streams that cannot be written."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from olivine.streams import UnfailingStream, release


def fails_with(monkeypatch, error):
    def broken():
        raise error

    monkeypatch.setattr("olivine.doctor.describe", broken)


def traces(folder):
    return list(Path(folder).glob("olivine-error-*.txt"))


def test_an_uncaught_error_is_one_line_with_its_trace_in_a_file(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails_with(monkeypatch, KeyError("lost"))
    code, out, err = run("doctor")
    assert code == 1
    assert out == ""
    (kept,) = traces(tmp_path)
    (line,) = err.strip().splitlines()
    assert line.startswith("error: KeyError: 'lost'. This is a bug in Olivine. Please report it with the stack trace")
    assert line.endswith(f"The stack trace is in {kept}.")
    text = kept.read_text()
    assert "Traceback" in text
    assert "olivine doctor" in text


def test_where_the_working_folder_cannot_be_written_the_trace_goes_to_the_temporary_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.cli.last_resort._folders", lambda: [tmp_path / "nowhere", tmp_path])
    fails_with(monkeypatch, ValueError("a\nb"))
    code, _, err = run("doctor")
    assert code == 1
    (kept,) = traces(tmp_path)
    assert "ValueError: a. This is a bug in Olivine. Please report it" in err
    assert str(kept) in err


def test_where_no_file_can_be_written_there_is_still_the_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.cli.last_resort._folders", lambda: [tmp_path / "nowhere"])
    fails_with(monkeypatch, ValueError("a"))
    code, _, err = run("doctor")
    assert code == 1
    assert err.startswith("error: ValueError: a.")


def test_the_trace_is_printed_on_request(tmp_path):
    program = "import olivine.doctor as d, sys; from olivine import cli\ndef f(): raise KeyError('x')\nd.describe = f\n"
    program += "sys.argv = ['olivine', 'doctor']; cli.main()"
    environment = {**os.environ, "OLIVINE_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: cannot be written (No space left on device)"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "/x/y: cannot be written (Read-only file system)"),
        (OSError(errno.EFBIG, "File too large"), "standard output or a file: cannot be written (File too large)"),
        (MemoryError(), "out of memory"),
    ],
)
def test_errors_of_the_environment_are_not_called_bugs(run, tmp_path, monkeypatch, error, says):
    monkeypatch.chdir(tmp_path)
    fails_with(monkeypatch, error)
    code, _, err = run("doctor")
    assert code == 1
    assert says in err
    assert "bug in Olivine" not in err


def ended(shell, tmp_path):
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path, timeout=120)


OLIVINE = f"{sys.executable} -m olivine"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")


@needs_full
def test_standard_output_on_a_full_device_is_one_line(tmp_path):
    done = ended(f"{OLIVINE} recipes > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "could not be written" in done.stderr or "No space left" in done.stderr


@needs_full
def test_standard_error_on_a_full_device_changes_no_exit_code(tmp_path):
    assert ended(f"{OLIVINE} recipes 2> /dev/full", tmp_path).returncode == 0
    assert ended(f"{OLIVINE} recipes --wrong 2> /dev/full", tmp_path).returncode == 2


def test_a_closed_pipe_behind_standard_output_is_no_trace(tmp_path):
    done = ended(f"{OLIVINE} recipes | true", tmp_path)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


class FullDevice:
    def __init__(self, number):
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    def flush(self):
        self.write("")

    def isatty(self):
        return False


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EAGAIN])
def test_a_log_that_cannot_be_written_does_not_end_the_program(number):
    from rich.console import Console

    stream = UnfailingStream(FullDevice(number))
    Console(file=stream).print("nobody reads this")
    print("nor this", file=stream, flush=True)
    assert not stream.isatty()


@needs_full
def test_training_continues_with_its_log_on_a_full_device(tmp_path, monkeypatch):
    """In this process: the console writes to the full device."""
    import yaml

    from olivine import cli
    from olivine.testing import tiny_model_recipe, write_dataset

    dataset = write_dataset(tmp_path / "data", items=12)
    stage = {"name": "a", "train": ["connector"], "data": "all", "batch": 4, "lr": 1e-3, "steps": 2}
    recipe = {
        "name": "tiny",
        "model": tiny_model_recipe().model_dump(by_alias=True, mode="json"),
        "data": {"all": {"json": str(dataset), "images": str(dataset.parent / "images")}},
        "stages": [stage],
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["olivine", "train", str(tmp_path / "recipe.yaml")])
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert (tmp_path / "run" / "a" / "result.json").is_file()


@needs_full
def test_a_stream_that_cannot_be_flushed_is_given_up_once():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        full.write("lost")
        assert not release(full)
        assert release(full)
