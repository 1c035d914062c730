"""An exported folder answered by plain transformers, in a process of its own; the script there is `plain_side`."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from olivine.conversion.export_samples import ProofSample
from olivine.conversion.proof import MAX_NEW_TOKENS, Side
from olivine.errors import RunError

_SCRIPT = Path(__file__).with_name("plain_side.py")
#: Lines of the other process's error that a message quotes.
_QUOTED = 3


def plain_side(folder: Path, samples: Sequence[ProofSample], python: str) -> Side:
    """Ask transformers of another interpreter.

    Args:
        folder: the exported model folder.
        samples: the questions.
        python: the interpreter.

    Raises:
        RunError: it cannot be started, or fails there; the message ends with what it said.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = [work / f"{number}.png" for number in range(len(samples))]
        for path, sample in zip(images, samples, strict=True):
            sample.image.save(path)
        job = {
            "model": str(folder.absolute()),
            "images": [str(path) for path in images],
            "questions": [sample.question for sample in samples],
            "max_new_tokens": MAX_NEW_TOKENS,
            "logits": str(work / "logits.npy"),
            "answers": str(work / "answers.json"),
        }
        (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
        _run([python, str(_SCRIPT), str(work / "job.json")])
        said = json.loads((work / "answers.json").read_text(encoding="utf-8"))
        return Side(said["runtime"], said["answers"], said["lengths"], np.load(work / "logits.npy"))


def _run(command: list[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)  # noqa: S603
    except OSError as error:
        raise RunError(f"{command[0]}: the interpreter cannot be started ({error.strerror}).") from None
    if done.returncode:
        said = " / ".join(line.strip() for line in done.stderr.strip().splitlines()[-_QUOTED:])
        raise RunError(f"{command[0]}: plain transformers could not answer from the exported folder: {said}")
