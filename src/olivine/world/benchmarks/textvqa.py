"""World-TextVQA in TextVQA's own files: what the sign says, ten answers each.

There is no OCR file beside the questions: its tokens would answer them without the image.
"""

from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.asked import Asked
from olivine.world.image_files import save_with_truth
from olivine.world.questions import TOPICS
from olivine.world.sampling import scene
from olivine.world.scene import SIDE, Scene

SPLIT = "textvqa-val"
#: How likely an annotator types something else: without the space of others, or half of it.
_OTHERWISE = 0.06


def write(folder: Path, seed: int, images: int) -> int:
    """Write the validation split, a question an image, and the images; how many questions there are."""
    draw = Random(f"{seed}/{SPLIT}/questions")
    scenes: dict[str, Scene] = {}
    data: list[dict[str, Any]] = []
    index = 0
    while len(data) < images:
        shown = scene(seed, SPLIT, index)
        index += 1
        asked = _asked(shown, draw)
        if asked is None:
            continue
        image_id = f"{draw.getrandbits(64):016x}"
        scenes[f"train_images/{image_id}.jpg"] = shown
        data.append(_row(asked, shown, image_id, 34602 + len(data), draw))
    about = {"dataset_type": "val", "dataset_name": "world-textvqa", "dataset_version": "0.5.1"}
    write_json(folder / "TextVQA_0.5.1_val.json", {**about, "data": data})
    save_with_truth(folder, scenes)
    return len(data)


def _asked(shown: Scene, draw: Random) -> Asked | None:
    """An open question on the sign, None if there is none."""
    while "sign" in shown.kinds:
        asked = TOPICS["writing"](shown, draw)
        if asked is not None and asked.structural == "query":
            return asked
    return None


def _row(asked: Asked, shown: Scene, image_id: str, question_id: int, draw: Random) -> dict[str, Any]:
    return {
        "question": asked.text,
        "image_id": image_id,
        "image_classes": [kind.capitalize() for kind in shown.kinds],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": SIDE,
        "image_height": SIDE,
        "answers": [_typed(asked.answer, draw) for _ in range(10)],
        "question_tokens": asked.text.lower().removesuffix("?").split(),
        "question_id": question_id,
        "set_name": "val",
        "ocr_tokens": [asked.answer],
    }


def _typed(writing: str, draw: Random) -> str:
    """What an annotator types: in small letters, as TextVQA's answers are."""
    text = writing.lower()
    if draw.random() >= _OTHERWISE:
        return text
    return draw.choice((" ".join(text), text[0], f"the sign says {text}"))
