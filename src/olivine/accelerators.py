"""GPU settings: allocator, TF32, deterministic algorithms, free memory.

Counting CPUs is in `available_cpus`; nothing here imports torch before it is needed.
"""

import os
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

from olivine.available_cpus import available_cpus

#: Set to 1 for only operations whose bits do not change from run to run (slower; on a CPU they never do).
DETERMINISTIC = "OLIVINE_DETERMINISTIC"
#: The allocator reads one of these when CUDA starts; the second is the name before torch 2.9.
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def choose_allocator(environment: MutableMapping[str, str] = os.environ) -> str:
    """Set CUDA's allocator to expandable segments unless the user has set it; return the setting.

    Packed sequences differ in length: with segments of fixed size, fragmented free memory cannot be used. The setting
    must be made before CUDA starts, and is inherited by worker processes.
    """
    for name in _ALLOCATOR:
        if environment.get(name):
            return f"{name}={environment[name]}"
    if not sys.platform.startswith("linux"):
        return "torch's default"
    environment[_ALLOCATOR[0]] = "expandable_segments:True"
    return f"{_ALLOCATOR[0]}=expandable_segments:True"


def choose_arithmetic(precision: Literal["bf16", "fp32"], device_type: str) -> dict[str, str]:
    """Choose how fp32 products are computed on a GPU, and whether bits repeat; return both in words.

    `precision` is the recipe's. Under bf16 what remains in fp32 may use TF32, whose mantissa of ten bits is longer than
    bf16's seven; fp32 means fp32, in convolutions too, where torch would use TF32 by default. Nothing is changed for a
    CPU, whose results are always the same from run to run.
    """
    if device_type != "cuda":
        return {"tf32": "not used: no GPU", "deterministic": "yes: on a CPU the same threads give the same bits"}
    import torch

    allowed = precision == "bf16"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    deterministic = os.environ.get(DETERMINISTIC) == "1"
    if deterministic:
        # cuBLAS reads it at its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return {
        "tf32": "allowed for what is left in fp32 (precision: bf16)" if allowed else "off (precision: fp32)",
        "deterministic": "yes"
        if deterministic
        else f"no: bits may differ from run to run; {DETERMINISTIC}=1 makes them equal",
    }


def free_bytes(device: Any) -> int | None:
    """Return the bytes that this process can still allocate on a GPU; None for any other device.

    What the allocator has reserved but not used counts as free.
    """
    if device.type != "cuda":
        return None
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def image_threads() -> int:
    """Return how many threads open images: one next to a model on the CPU; with GPUs, a GPU's share of the cores."""
    import torch

    if not torch.cuda.is_available():
        return 1
    return max(1, min(8, available_cpus() // max(1, torch.cuda.device_count()) - 1))
