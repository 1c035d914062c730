"""What the speed and memory scripts share: their options, the machine they ran on, and how results are printed."""

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from olivine.available_cpus import available_cpus


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and one round, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument("--out", type=Path, help="also write the JSON there")
    return parser


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads of {available_cpus()} cores"


def show(
    requested: argparse.Namespace,
    ratios: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    *,
    quiet: bool = False,
    **more: Any,
) -> None:
    """Write and print a result; `quiet` only writes it, for scripts that may be interrupted."""
    result = {
        "ratios": dict(ratios),
        "rows": list(rows),
        **more,
        "quick": requested.quick,
        "device": device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
    }
    text = json.dumps(result, indent=2)
    if requested.out:
        requested.out.parent.mkdir(parents=True, exist_ok=True)
        requested.out.write_text(text + "\n", encoding="utf-8")
    if quiet:
        return
    if requested.json:
        sys.stdout.write(text + "\n")
        return
    for row in rows:
        print(
            "  ".join(
                f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in row.items()
            )
        )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio}")
