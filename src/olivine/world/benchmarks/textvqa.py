"""World-TextVQA in TextVQA's own files: what the sign says, ten answers each.

There is no OCR file: its tokens would answer the questions without the image.
"""

from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.image_files import save_with_truth
from olivine.world.question import Question
from olivine.world.questions import TOPICS
from olivine.world.sampling import sample_scene
from olivine.world.scene import SIDE, Scene

SPLIT = "textvqa-val"
#: Probability that an annotator types something else: spaced, half of it, or a sentence.
_OTHERWISE = 0.06


def write(folder: Path, seed: int, images: int) -> int:
    """Write the validation split, one question per image, and the images; return the number of questions."""
    rng = Random(f"{seed}/{SPLIT}/questions")
    scenes: dict[str, Scene] = {}
    data: list[dict[str, Any]] = []
    index = 0
    while len(data) < images:
        scene = sample_scene(seed, SPLIT, index)
        index += 1
        question = _open_question(scene, rng)
        if question is None:
            continue
        image_id = f"{rng.getrandbits(64):016x}"
        scenes[f"train_images/{image_id}.jpg"] = scene
        data.append(_row(question, scene, image_id, 34602 + len(data), rng))
    about = {"dataset_type": "val", "dataset_name": "world-textvqa", "dataset_version": "0.5.1"}
    write_json(folder / "TextVQA_0.5.1_val.json", {**about, "data": data})
    save_with_truth(folder, scenes)
    return len(data)


def _open_question(scene: Scene, rng: Random) -> Question | None:
    """Draw an open question about the sign, None if there is none."""
    while "sign" in scene.classes:
        question = TOPICS["writing"](scene, rng)
        if question is not None and question.structural == "query":
            return question
    return None


def _row(question: Question, scene: Scene, image_id: str, question_id: int, rng: Random) -> dict[str, Any]:
    return {
        "question": question.text,
        "image_id": image_id,
        "image_classes": [class_name.capitalize() for class_name in scene.classes],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": SIDE,
        "image_height": SIDE,
        "answers": [_typed(question.answer, rng) for _ in range(10)],
        "question_tokens": question.text.lower().removesuffix("?").split(),
        "question_id": question_id,
        "set_name": "val",
        "ocr_tokens": [question.answer],
    }


def _typed(writing: str, rng: Random) -> str:
    """Return what an annotator types: in lower case, as TextVQA's answers are."""
    text = writing.lower()
    if rng.random() >= _OTHERWISE:
        return text
    return rng.choice((" ".join(text), text[0], f"the sign says {text}"))
