"""World-VQAv2 in VQAv2's own files: ten annotators per question, who do not always agree and are not always sure.

They disagree where people could: synonyms, shades, places near a border, counts of objects that cover
one another.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.benchmarks.balance import Balance, candidates
from olivine.world.image_files import save_with_truth
from olivine.world.question import YES_NO, Question
from olivine.world.questions import TOPICS
from olivine.world.sampling import sample_scene
from olivine.world.scene import PLACES, SIDE, Scene, SceneObject

SPLIT = "vqav2-val"
QUESTIONS_PER_IMAGE = 5
_HEADER = {
    "info": {"description": "World-VQAv2: drawn scenes", "version": "1.0"},
    "license": {"name": "Apache-2.0"},
    "data_type": "mscoco",
    "data_subtype": "val2014",
}
#: The official question types of these questions: the longest one that a question starts with.
_QUESTION_TYPES = (
    "are there", "do you", "does the", "how many", "is it", "is the", "is there", "is there a", "is this", "is this a",
    "what", "what color is the", "what does the", "what is", "what is the", "what kind of", "where is the", "which",
    "how", "are",
)  # fmt: skip
#: Synonyms that some annotators use.
_SYNONYMS = {
    "car": ("auto", "vehicle"),
    "cup": ("mug",),
    "house": ("home", "building"),
    "lamp": ("light",),
    "sign": ("board",),
    "box": ("carton",),
    "flower": ("plant",),
    "park": ("grass", "field"),
    "street": ("road", "city"),
    "kitchen": ("room", "house"),
    "beach": ("seaside", "sand"),
    "blue": ("dark blue",),
    "green": ("dark green",),
    "pink": ("light pink", "rose"),
    "purple": ("violet",),
    "white": ("cream",),
    "black": ("dark gray",),
    "spotted": ("dotted", "dots"),
    "striped": ("stripes",),
    "plain": ("none",),
    "large": ("big",),
    "small": ("little",),
}
#: How often an annotator uses a synonym, and how often one errs.
_OTHER_WORD, _SLIP = 0.08, 0.015
#: An object farther than this from the middle of its ninth (whose border is at 16 pixels) seems elsewhere to some.
_NEAR_BORDER = 4.0


def write(folder: Path, seed: int, images: int) -> int:
    """Write questions and annotations of val2014, and the images; return the number of questions."""
    rng = Random(f"{seed}/{SPLIT}/questions")
    balance = Balance()
    scenes = {}
    questions, annotations = [], []
    for index in range(images):
        scene = sample_scene(seed, SPLIT, index)
        image_id = 101 + 7 * index
        scenes[f"images/COCO_val2014_{image_id:012d}.jpg"] = scene
        picked = balance.pick(candidates(scene, rng, tuple(TOPICS)), QUESTIONS_PER_IMAGE)
        for number, question in enumerate(picked):
            ids = {"image_id": image_id, "question_id": 1000 * image_id + number}
            questions.append({**ids, "question": question.text})
            annotations.append({**ids, **_annotation(question, scene, rng)})
    write_json(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        {**_HEADER, "task_type": "Open-Ended", "questions": questions},
    )
    write_json(folder / "v2_mscoco_val2014_annotations.json", {**_HEADER, "annotations": annotations})
    save_with_truth(folder, scenes)
    return len(questions)


@dataclass(frozen=True, slots=True)
class _Alternative:
    """Another answer, and the probability that an annotator gives it."""

    answer: str
    likelihood: float


def _annotation(question: Question, scene: Scene, rng: Random) -> dict[str, Any]:
    given = [_given(question, scene, rng) for _ in range(10)]
    given[rng.randrange(10)] = (question.answer.lower(), "yes")
    counts = Counter(answer for answer, _ in given)
    return {
        "question_type": _question_type(question.text),
        "multiple_choice_answer": max(counts, key=lambda answer: (counts[answer], answer == question.answer.lower())),
        "answers": [
            {"answer": answer, "answer_confidence": sure, "answer_id": number}
            for number, (answer, sure) in enumerate(given, start=1)
        ],
        "answer_type": _answer_type(question),
    }


def _given(question: Question, scene: Scene, rng: Random) -> tuple[str, str]:
    """Draw one annotator's answer, in lower case as all of VQAv2's are, and confidence."""
    alternatives = _alternatives(question, scene)
    for alternative in alternatives:
        if rng.random() < alternative.likelihood:
            return alternative.answer, rng.choice(("yes", "maybe", "maybe"))
    if rng.random() < _SLIP and len(question.valid) > 1:
        return rng.choice([other for other in question.valid if other != question.answer]), rng.choice(("maybe", "no"))
    return question.answer.lower(), "maybe" if alternatives and rng.random() < 0.15 else "yes"


def _alternatives(question: Question, scene: Scene) -> list[_Alternative]:
    """Return other defensible answers about this image."""
    words = _SYNONYMS.get(question.answer, ())
    found = [_Alternative(word, _OTHER_WORD / len(words)) for word in words]
    if question.topic == "place":
        found += _near_places(scene.objects[question.objects[0]])
    if question.topic == "count" and question.valid != YES_NO and _covered(scene):
        found.append(_Alternative(str(max(0, int(question.answer) - 1)), 0.06))
    return found


def _near_places(obj: SceneObject) -> list[_Alternative]:
    """Return the neighbouring ninths of an object, likelier the nearer it is to their border."""
    third = SIDE / 3
    column, row = int(obj.x // third), int(obj.y // third)
    across, down = obj.x - third * (column + 0.5), obj.y - third * (row + 0.5)
    found = []
    for offset, place in ((across, (column + _sign(across), row)), (down, (column, row + _sign(down)))):
        if abs(offset) > _NEAR_BORDER and all(0 <= part <= 2 for part in place):
            found.append(_Alternative(PLACES[3 * place[1] + place[0]], 0.05 * (abs(offset) - _NEAR_BORDER)))
    return found


def _covered(scene: Scene) -> bool:
    """Return whether any two objects overlap."""
    objects = scene.objects
    return any(
        max(abs(a.x - b.x), abs(a.y - b.y)) < 0.9 * (a.radius + b.radius)
        for i, a in enumerate(objects)
        for b in objects[:i]
    )


def _sign(value: float) -> int:
    return 1 if value > 0 else -1


def _question_type(text: str) -> str:
    plain = text.lower().replace("colour", "color") + " "
    fitting = [name for name in _QUESTION_TYPES if plain.startswith(f"{name} ")]
    return max(fitting, key=len, default="none of the above")


def _answer_type(question: Question) -> str:
    if question.valid == YES_NO:
        return "yes/no"
    return "number" if question.answer.isdecimal() else "other"
