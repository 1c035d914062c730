"""Samples on disk as a real stage reads them: JPEG images as large as photographs, texts of LLaVA's lengths."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from loads import MIX
from PIL import Image

from olivine.testing import CORPUS, llava_item

#: Different files; every sample names one by its own link, so that each image is opened and fitted again.
_FILES = 32
_WORDS = [word for text in CORPUS[:2] for word in text.rstrip("?").split()]
#: Text tokens of a sample, so that none is longer than LLaVA's 2,048 with its image.
_MOST_TEXT = 1_300


def write_samples(folder: Path, stage: str, count: int, tokenizer: Any, side: int) -> Path:
    """Write a LLaVA JSON of `count` samples with images `side` pixels wide, and return its path."""
    images = folder / "images"
    if not images.is_dir():
        _write_images(images, side)
    draw = np.random.default_rng(0)
    rate = len(tokenizer(" ".join(_WORDS * 20)).input_ids) / (20 * len(_WORDS))
    items = []
    for number in range(count):
        asked, replied, image = _lengths(stage, draw)
        name = _link(images, number) if image else None
        items.append(llava_item(f"s{number}", [(_text(asked / rate), _text(replied / rate))], name))
    path = folder / f"{stage.replace(' ', '-')}-{count}.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return path


def _lengths(stage: str, draw: np.random.Generator) -> tuple[float, float, bool]:
    """(tokens of the question, of the reply, whether there is an image): captions, or the mix of instructions."""
    if stage == "stage 1":
        return 2, float(np.clip(draw.lognormal(np.log(20), 0.4), 5, 77)), True
    weights = np.array([part[1] for part in MIX], float)
    _, _, median, spread, labelled, image = MIX[draw.choice(len(MIX), p=weights / weights.sum())]
    text = min(draw.lognormal(np.log(median), spread), _MOST_TEXT)
    return text * (1 - labelled), text * labelled, image


def _text(words: float) -> str:
    count = max(1, round(words))
    return " ".join((_WORDS * (count // len(_WORDS) + 1))[:count])


def _write_images(folder: Path, side: int) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(_FILES):
        coarse = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        image.save(folder / f"file-{number}.jpg", quality=90)


def _link(images: Path, number: int) -> str:
    name = f"{number}.jpg"
    if not (images / name).exists():
        os.link(images / f"file-{number % _FILES}.jpg", images / name)
    return name
