"""What to do when a stage does not fit in memory, reported where it happens.

How much a recipe takes is estimated in `cost`; what may change before a run is resumed is declared on the recipe's
fields.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from olivine.errors import RunError
from olivine.field_identity import Identity, decides
from olivine.recipe import Recipe, StageRecipe

#: The wordings of the libraries below: PyTorch's CPU allocator (two ways), CUDA's calls and cuBLAS.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
#: A packed sequence shorter than this saves nothing more.
_SHORTEST_SEQUENCE = 256


@contextmanager
def out_of_memory_reported(recipe: Recipe, stage: StageRecipe) -> Iterator[None]:
    """Turn running out of memory into an error that says which settings to lower.

    Raises:
        RunError: memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip().splitlines() or ["MemoryError"])[0][:200]
        raise RunError(f"stage {stage.name}: out of memory ({said}).\n{advice(recipe, stage)}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def advice(recipe: Recipe, stage: StageRecipe) -> str:
    """Return what takes less memory: first what the begun run can be resumed with, then what requires a new one."""
    settings = list(_less_memory(recipe, stage))
    resumable = [s for s in settings if decides(Recipe, s.partition("=")[0]).identity is not Identity.ANOTHER_OUTPUT]
    new = [setting for setting in settings if setting not in resumable]
    lines = ["The same command resumes from what was saved; these take less memory and may be added to it:"]
    lines += [f"  {setting}" for setting in resumable]
    lines.append("  more processes (torchrun --nproc-per-node N), which shard weights and optimizer state")
    if new:
        lines.append("In a new run (output=DIR), since they change the result: " + ", ".join(new))
    return "\n".join(lines)


def _less_memory(recipe: Recipe, stage: StageRecipe) -> Iterator[str]:
    """Yield settings that take less memory than the recipe's, as overrides."""
    if not recipe.optimizer.checkpoint_activations:
        yield "optimizer.checkpoint_activations=true"
    if stage.sequence_tokens > _SHORTEST_SEQUENCE:
        yield f"stages.{stage.name}.sequence_tokens={max(_SHORTEST_SEQUENCE, stage.sequence_tokens // 2)}"
    if not recipe.sharding.gather_twice:
        yield "sharding.gather_twice=true"
    if "language" in stage.train and stage.lora is None:
        yield f"stages.{stage.name}.lora={{rank: 16}}"
    elif stage.lora is not None and stage.lora.quantize is None:
        yield f"stages.{stage.name}.lora.quantize=nf4"
    if recipe.optimizer.precision == "fp32":
        yield "optimizer.precision=bf16"
