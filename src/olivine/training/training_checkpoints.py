"""Training checkpoints: folders of sharded safetensors with checksums, the last few kept, the newest intact one used.

They hold what determines the coming steps and nothing else; models for use are written by `model.checkpoint`.
"""

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from olivine.distributed import Processes
from olivine.errors import DataError, RunError
from olivine.files import flush_to_disk, read_json, sha256_of_file, write_json
from olivine.training.staging import Staging

CHECKPOINTS, MANIFEST = "resume", "point.json"
#: A training checkpoint is first written under this name and renamed when it is complete.
_UNFINISHED = ".unfinished"
_log = logging.getLogger(__name__)
_GPU_RANDOM = "random.cuda"


def _has_gpu() -> bool:
    return torch.cuda.is_available()


class TrainingState:
    """The tensors that determine the coming steps, by name: trained weights, AdamW's moments, random number states.

    A parameter that has not had a gradient yet gets the zeros that AdamW would start from. A GPU's random state is
    included if there is a GPU: a checkpoint written without one can be read with one, and vice versa.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._parameters = parameters
        self._optimizer = optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors themselves (not copies), except for the random number state."""
        found = {"random.cpu": torch.get_rng_state()}
        if _has_gpu():
            found[_GPU_RANDOM] = torch.cuda.get_rng_state()
        for name, parameter in self._parameters.items():
            found[f"weights.{name}"] = parameter.detach()
            for moment, value in self._moments(parameter).items():
                found[f"optimizer.{moment}.{name}"] = value
        return found

    def take(self, read: dict[str, Tensor]) -> None:
        """Restore what cannot be read in place.

        A GPU whose random state is not in `read` is seeded from the CPU's, so that every run that resumes from this
        checkpoint on a GPU gets the same random numbers.
        """
        torch.set_rng_state(read["random.cpu"])
        if not _has_gpu():
            return
        if _GPU_RANDOM in read:
            torch.cuda.set_rng_state(read[_GPU_RANDOM])
        else:
            digest = hashlib.sha256(read["random.cpu"].numpy().tobytes()).digest()
            torch.cuda.manual_seed(int.from_bytes(digest[:4], "big"))

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._optimizer.state[parameter]
        if not state:
            # Fused AdamW expects its step count on the parameter's device.
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
        return state


class TrainingCheckpoints:
    """The training checkpoints of one stage.

    A checkpoint appears under its name only when every byte of it is on disk, with a checksum of each file beside it.
    It can be read by any number of processes, independent of how many wrote it.

    Args:
        folder: the stage's folder.
        keep: how many checkpoints are kept; older ones are deleted when a newer one is complete.
        background: write alongside the next steps (tensors are copied first). A failure is then raised by the next
            call.
    """

    def __init__(self, folder: Path, *, keep: int, processes: Processes, background: bool) -> None:
        self._folder = folder / CHECKPOINTS
        self._keep = keep
        self._processes = processes
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training-checkpoint") if background else None
        self._staging = Staging()
        self._pending: Future[None] | None = None
        self._begun: Path | None = None

    def save(self, step: int, state: TrainingState) -> None:
        """Write the state that determines the steps from `step` on.

        Raises:
            RunError: it cannot be written (disk full); earlier checkpoints are unchanged.
        """
        self.finish()
        unfinished = self._folder / f"{_UNFINISHED}-{step:08d}"
        with self._write_errors_reported(step):
            if self._processes.is_first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self._processes.wait()
            writer = HuggingFaceStorageWriter(str(unfinished), save_distributed=True)
            alone = not self._processes.several
            if self._pool is None:
                with _single_process_is_meant():
                    save(state.tensors(), storage_writer=writer, no_dist=alone)
                self._seal(unfinished, step)
                return
            tensors = state.tensors()
            written: Any = async_save(
                tensors, storage_writer=writer, no_dist=alone, async_stager=self._staging.stager(tensors)
            )
            self._begun = unfinished
            self._pending = self._pool.submit(self._seal_when, written, unfinished, step)

    def finish(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            RunError: the checkpoint that was being written could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            assert self._begun is not None, "set together with the pending write"
            with self._write_errors_reported(int(self._begun.name.rpartition("-")[2])):
                pending.result()

    def load(self, state: TrainingState) -> int:
        """Restore the newest intact checkpoint and return the step to resume with, 0 if there is none.

        A checkpoint that is incomplete or damaged is named in a warning, and the one before it is tried.

        Raises:
            RunError: it belongs to another model.
        """
        selected = self._processes.from_first(self._newest_intact() if self._processes.is_first else None)
        if selected is None:
            return 0
        tensors = state.tensors()
        try:
            with torch.no_grad():
                reader = HuggingFaceStorageReader(str(selected))
                metadata = reader.read_metadata().state_dict_metadata
                if _GPU_RANDOM in tensors and _GPU_RANDOM not in metadata:
                    del tensors[_GPU_RANDOM]  # it was written on a machine without a GPU
                _check_tensors(metadata, tensors)
                with _single_process_is_meant():
                    load(tensors, storage_reader=reader, no_dist=not self._processes.several)
        except (CheckpointException, RuntimeError, KeyError, ValueError, OSError) as error:
            raise RunError(
                f"{selected}: does not fit this model ({_reason(error)}). "
                f"Delete {self._folder} to start the stage again."
            ) from None
        state.take(tensors)
        return int(read_json(selected / MANIFEST)["step"])

    def clear(self) -> None:
        """Remove all training checkpoints, once the stage is finished and its model folder written."""
        self.finish()
        self._staging.close()
        if self._processes.is_first:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _newest_intact(self) -> Path | None:
        for leftover in self._folder.glob(f"{_UNFINISHED}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for saved in reversed(self._checkpoints()):
            problem = find_corruption(saved)
            if problem is None:
                return saved
            _log.warning(f"{saved}: not used, {problem}; trying the one before")
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))

    def _seal_when(self, written: "Future[Any]", unfinished: Path, step: int) -> None:
        written.result()
        self._seal(unfinished, step)

    def _seal(self, unfinished: Path, step: int) -> None:
        """Write checksums, rename, then delete the oldest checkpoints. The writer has returned: all shards exist."""
        if not self._processes.is_first:
            return
        files = sorted(unfinished.glob("*.safetensors"))
        for file in files:
            flush_to_disk(file)
        manifest = {
            "step": step,
            "processes": self._processes.world_size,
            "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of_file(file)} for file in files},
        }
        write_json(unfinished / MANIFEST, manifest)
        saved = self._folder / f"step-{step:08d}"
        # A damaged checkpoint of this same step may be there: the run resumed from an older one and got here again.
        shutil.rmtree(saved, ignore_errors=True)
        unfinished.rename(saved)
        flush_to_disk(self._folder)
        for old in self._checkpoints()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def _write_errors_reported(self, step: int) -> Iterator[None]:
        try:
            yield
        except (CheckpointException, OSError, RuntimeError) as error:
            shutil.rmtree(self._folder / f"{_UNFINISHED}-{step:08d}", ignore_errors=True)
            kept = [int(saved.name.rpartition("-")[2]) for saved in self._checkpoints()]
            earlier = f"that of step {kept[-1]} is intact" if kept else "there is no earlier one"
            raise RunError(
                f"{self._folder}: the training checkpoint of step {step} cannot be written ({_reason(error)}); "
                f"{earlier}. Free disk space and run the same command to resume."
            ) from None


@contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """Keep torch from warning that a single process writes or reads alone.

    In the background it warns from a thread, which this does not reach: Olivine's own processes have a filter.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _check_tensors(written: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes; the random state of another kind of device may be present or absent.

    Raises:
        ValueError: tensors are missing, unexpected, or of another shape.
    """
    ours = {name for name in expected if not name.startswith("random.")}
    theirs = {name for name in written if not name.startswith("random.")}
    shapes = sorted(name for name in ours & theirs if tuple(written[name].size) != tuple(expected[name].shape))
    for names, problem in ((ours - theirs, "missing"), (theirs - ours, "unexpected"), (shapes, "of another shape")):
        if names:
            raise ValueError(f"{len(names)} tensors are {problem}: {', '.join(sorted(names)[:4])}")


def find_corruption(saved: Path) -> str | None:
    """Return why a training checkpoint cannot be used, in words; None if every file is there with its checksum."""
    try:
        files = read_json(saved / MANIFEST)["files"]
        for name, expected in files.items():
            if (saved / name).stat().st_size != expected["bytes"]:
                return f"{name} has {(saved / name).stat().st_size:,} bytes instead of {expected['bytes']:,}"
            if sha256_of_file(saved / name) != expected["sha256"]:
                return f"{name} is damaged (its checksum differs)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (DataError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"it is incomplete ({_reason(error)})"
    return None if files else "it holds no file"


def _reason(error: BaseException) -> str:
    """Return the cause in one line; torch's distributed checkpoint wraps those of every process."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
