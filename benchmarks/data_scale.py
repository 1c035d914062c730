"""What checking and opening a large data set takes: a quick check, a training's start, a full check killed and resumed.

The items are synthetic: as many as LLaVA-1.5's mix has, of about its 1.5 kB each, over images on disk. Every figure is
of a fresh process; memory is the peak of the sum over that process and its descendants.

    python benchmarks/data_scale.py --json benchmarks/results/data-scale.json
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: LLaVA-1.5's mix: 665,000 items; its five image folders hold about 350,000 images that it uses.
ITEMS, IMAGES, FULL_IMAGES = 665_000, 350_000, 50_000
FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K")
RECIPE = """\
name: scale
model:
  vision: {{from: "world:tiny-clip", layer: -2}}
  language: {{from: "world:tiny-gemma-s"}}
data:
  all: {{json: {json}, images: {images}}}
stages:
  - {{name: align, train: [connector], data: all, batch: 4, steps: 2, lr: 1.0e-3, validate_every: 0}}
optimizer: {{precision: fp32}}
output: {output}
"""


def jpegs(width: int, height: int, count: int) -> list[bytes]:
    """Return a few images of noise and gradients, about as large as JPEG photographs."""
    draw = np.random.default_rng(0)
    slope = np.linspace(0, 1, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    made = []
    for _ in range(count):
        pixels = slope * draw.integers(60, 250, 3) + draw.normal(0, 8, (height, width, 3))
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=85)
        made.append(content.getvalue())
    return made


def write_images(root: Path, count: int, width: int, height: int) -> list[str]:
    """Write files of different content: one of a few JPEGs, each with its own comment."""
    bases = jpegs(width, height, 32)
    names = []
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{FOLDERS[number % len(FOLDERS)]}/{number:012}.jpg"
        comment = f"image {number}".encode()
        base = bases[number % len(bases)]
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (root / name).write_bytes(base[:2] + segment + base[2:])
        names.append(name)
    return names


def write_items(path: Path, count: int, names: list[str]) -> None:
    """A JSON list as LLaVA publishes it, of about 1.5 kB an item; every sixteenth is text alone."""
    draw = random.Random(0)
    words = [
        "the",
        "a",
        "red",
        "blue",
        "small",
        "large",
        "man",
        "woman",
        "street",
        "table",
        "holding",
        "beside",
        "under",
        "and",
        "with",
        "looks",
        "of",
        "in",
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            turns = []
            for pair in range(3):
                mark = "<image>\n" if pair == 0 and number % 16 else ""
                turns.append({"from": "human", "value": mark + " ".join(draw.choices(words, k=20)) + "?"})
                turns.append({"from": "gpt", "value": " ".join(draw.choices(words, k=60)) + "."})
            item: dict[str, Any] = {"id": f"{number:012}", "conversations": turns}
            if number % 16:
                item["image"] = names[number % len(names)]
            file.write(("[" if not number else ",\n") + json.dumps(item))
        file.write("]")


def measured(command: list[str], kill_after: float | None = None) -> dict[str, Any]:
    """Run a command; return wall-clock and processor seconds, peak memory of all processes, exit code, output.

    On a busy machine the processor seconds are the more reliable.
    """
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "TERM": "dumb"}, start_new_session=True
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            if kill_after is not None and time.monotonic() - began > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.1)
        seconds = time.monotonic() - began
        output.seek(0)
        text = output.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak / 2**20),
        "load": round(os.getloadavg()[0], 1),
        "rc": process.returncode,
        "output": text,
    }


def memory_of(root: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, IndexError, ValueError):
            continue
    return total


def scale(folder: Path, items: int, images: int) -> list[dict[str, Any]]:
    """A quick check and a training's start over the same items."""
    names = write_images(folder / "images", images, 48, 32)
    write_items(folder / "train.json", items, names)
    size = (folder / "train.json").stat().st_size
    olivine = [sys.executable, "-m", "olivine"]
    rows = []
    check = measured(
        [*olivine, "data", "check", str(folder / "train.json"), "--images", str(folder / "images"), "--json"]
    )
    summary = json.loads(check.pop("output").splitlines()[-1])
    assert summary["items"] == summary["trainable"] == items, summary
    rows.append({"what": "data check", "items": items, "images": summary["images"], "json_bytes": size, **check})
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(json=folder / "train.json", images=folder / "images", output=folder / "run"), encoding="utf-8"
    )
    train = measured([*olivine, "train", str(recipe)])
    assert train["rc"] == 0, train["output"]
    train.pop("output")
    rows.append(
        {"what": "training's start and two steps", "items": items, "images": images, "json_bytes": size, **train}
    )
    return rows


def full(folder: Path, images: int, kill_after: float) -> list[dict[str, Any]]:
    """A full check over different images, killed in the middle, run again to its end, and then once more."""
    names = write_images(folder / "images", images, 320, 240)
    write_items(folder / "full.json", images, names)
    command = [sys.executable, "-m", "olivine", "data", "check", str(folder / "full.json")]
    command += ["--images", str(folder / "images"), "--full", "--json"]
    referenced = sum(1 for number in range(images) if number % 16)
    rows = []
    for what, limit in (("full check, killed", kill_after), ("full check, resumed", None), ("full check, again", None)):
        row = measured(command, limit)
        output = row.pop("output")
        if limit is None:
            summary = json.loads(output.splitlines()[-1])
            assert summary["trainable"] == images, summary
            row |= {
                "images": summary["images"],
                "kept": summary["images_kept"],
                "decoded": referenced - summary["images_kept"],
            }
            row["images_per_second"] = round(row["decoded"] / row["seconds"], 1)
        rows.append({"what": what, "items": images, **row})
    journal = (folder / ".full.json.check.jsonl").read_text(encoding="utf-8").splitlines()
    keys = [json.loads(line)["key"] for line in journal[1:]]
    assert len(keys) == len(set(keys)), "a job was done twice"
    rows.append({"what": "jobs in the journal", "jobs": len(keys), "done_twice": len(keys) - len(set(keys))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the size")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it to FILE")
    parser.add_argument("--folder", type=Path, help="where the data set is made (default: a temporary folder)")
    parser.add_argument("--only", choices=["scale", "full"], help="one of the two parts")
    arguments = parser.parse_args()
    part = 100 if arguments.quick else 1
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="olivine-data-scale-"))
    rows: list[dict[str, Any]] = []
    try:
        if arguments.only != "full":
            rows += scale(folder / "scale", ITEMS // part, IMAGES // part)
        if arguments.only != "scale":
            rows += full(folder / "full", FULL_IMAGES // part, 12.0 if arguments.quick else 60.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    by_name = {row["what"]: row for row in rows}
    ratios = {}
    if "data check" in by_name:
        ratios["check_items_per_second"] = round(by_name["data check"]["items"] / by_name["data check"]["seconds"])
    result = {"ratios": ratios, "rows": rows, "device": f"{platform.processor() or 'cpu'}, {os.cpu_count()} cores"}
    if arguments.json in (None, "-"):
        print(json.dumps(result, indent=None if arguments.json else 2))
    else:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
