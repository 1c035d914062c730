"""What this machine has and what Olivine will use; nothing is changed and nothing is fetched."""

import importlib.metadata
import platform
import sys

from olivine.accelerators import choose_allocator, free_bytes
from olivine.available_cpus import allowed_cores, available_cpus, cgroup_quota

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
_EXTRAS = {"easy-vqa": "easy-vqa", "tensorboard": "tensorboard", "torchvision": "torchvision"}


def describe() -> dict[str, str]:
    """Return facts about the machine by name, ready to be printed."""
    import torch

    facts = {
        "olivine": _version("olivine"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": f"{available_cpus()}{_quota()} (torch uses {torch.get_num_threads()} threads)",
        **{name: _version(name) for name in _PACKAGES},
        **{f"extra {name}": _version(package) for name, package in _EXTRAS.items()},
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        facts["device memory free"] = f"{(free_bytes(torch.device('cuda', 0)) or 0) / 2**30:.1f} GiB"
        facts["device allocator"] = choose_allocator()
        facts["bf16"] = "yes" if torch.cuda.is_bf16_supported() else "no; use optimizer.precision=fp32"
        facts["tf32"] = "for what is left in fp32 under precision: bf16; not under precision: fp32"
    else:
        facts["device"] = "cpu"
    return facts


def _quota() -> str:
    """Describe how a container's quota limits the CPUs, if it does."""
    quota, allowed = cgroup_quota(), allowed_cores()
    return (
        f", limited by the container's quota of {quota:g} of {allowed}" if quota is not None and quota < allowed else ""
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
