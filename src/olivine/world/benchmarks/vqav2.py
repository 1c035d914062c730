"""World-VQAv2 in VQAv2's own files: ten annotators a question, who do not always agree, nor always feel sure.

What they disagree on is what can be disagreed on: synonyms, shades, places near a border, counts of things that cover
one another.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.asked import YES_NO, Asked
from olivine.world.benchmarks.balance import Balance, candidates
from olivine.world.image_files import save_with_truth
from olivine.world.questions import TOPICS
from olivine.world.sampling import scene
from olivine.world.scene import PLACES, SIDE, Scene, Thing

SPLIT = "vqav2-val"
QUESTIONS_A_PICTURE = 5
_HEADER = {
    "info": {"description": "World-VQAv2: drawn scenes", "version": "1.0"},
    "license": {"name": "Apache-2.0"},
    "data_type": "mscoco",
    "data_subtype": "val2014",
}
#: The official question types that these questions fall under: the longest that a question begins with.
_QUESTION_TYPES = (
    "are there", "do you", "does the", "how many", "is it", "is the", "is there", "is there a", "is this", "is this a",
    "what", "what color is the", "what does the", "what is", "what is the", "what kind of", "where is the", "which",
    "how", "are",
)  # fmt: skip
#: Other words for the same, which some annotators use.
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
#: How often an annotator uses another word, and how often one errs.
_OTHER_WORD, _SLIP = 0.08, 0.015
#: Farther than this from the middle of its ninth (whose border is at 16 pixels) a thing seems elsewhere to some.
_NEAR_BORDER = 4.0


def write(folder: Path, seed: int, images: int) -> int:
    """Write questions and annotations of val2014, and the images; how many questions there are."""
    draw = Random(f"{seed}/{SPLIT}/questions")
    balance = Balance()
    scenes = {}
    questions, annotations = [], []
    for index in range(images):
        shown = scene(seed, SPLIT, index)
        image_id = 101 + 7 * index
        scenes[f"images/COCO_val2014_{image_id:012d}.jpg"] = shown
        picked = balance.pick(candidates(shown, draw, tuple(TOPICS)), QUESTIONS_A_PICTURE)
        for number, asked in enumerate(picked):
            ids = {"image_id": image_id, "question_id": 1000 * image_id + number}
            questions.append({**ids, "question": asked.text})
            annotations.append({**ids, **_annotation(asked, shown, draw)})
    write_json(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        {**_HEADER, "task_type": "Open-Ended", "questions": questions},
    )
    write_json(folder / "v2_mscoco_val2014_annotations.json", {**_HEADER, "annotations": annotations})
    save_with_truth(folder, scenes)
    return len(questions)


@dataclass(frozen=True, slots=True)
class _Alternative:
    """Another answer, and how likely an annotator gives it."""

    answer: str
    likelihood: float


def _annotation(asked: Asked, shown: Scene, draw: Random) -> dict[str, Any]:
    given = [_given(asked, shown, draw) for _ in range(10)]
    given[draw.randrange(10)] = (asked.answer.lower(), "yes")
    counts = Counter(answer for answer, _ in given)
    return {
        "question_type": _question_type(asked.text),
        "multiple_choice_answer": max(counts, key=lambda answer: (counts[answer], answer == asked.answer.lower())),
        "answers": [
            {"answer": answer, "answer_confidence": sure, "answer_id": number}
            for number, (answer, sure) in enumerate(given, start=1)
        ],
        "answer_type": _answer_type(asked),
    }


def _given(asked: Asked, shown: Scene, draw: Random) -> tuple[str, str]:
    """One annotator's answer, in small letters as all of VQAv2's are, and confidence."""
    alternatives = _alternatives(asked, shown)
    for alternative in alternatives:
        if draw.random() < alternative.likelihood:
            return alternative.answer, draw.choice(("yes", "maybe", "maybe"))
    if draw.random() < _SLIP and len(asked.valid) > 1:
        return draw.choice([other for other in asked.valid if other != asked.answer]), draw.choice(("maybe", "no"))
    return asked.answer.lower(), "maybe" if alternatives and draw.random() < 0.15 else "yes"


def _alternatives(asked: Asked, shown: Scene) -> list[_Alternative]:
    """What else could be said with some right about this very image."""
    words = _SYNONYMS.get(asked.answer, ())
    found = [_Alternative(word, _OTHER_WORD / len(words)) for word in words]
    if asked.topic == "place":
        found += _near_places(shown.things[asked.things[0]])
    if asked.topic == "count" and asked.valid != YES_NO and _covered(shown):
        found.append(_Alternative(str(max(0, int(asked.answer) - 1)), 0.06))
    return found


def _near_places(thing: Thing) -> list[_Alternative]:
    """The ninths that a thing leans towards, likelier the nearer it is to their border."""
    third = SIDE / 3
    column, row = int(thing.x // third), int(thing.y // third)
    across, down = thing.x - third * (column + 0.5), thing.y - third * (row + 0.5)
    found = []
    for offset, place in ((across, (column + _sign(across), row)), (down, (column, row + _sign(down)))):
        if abs(offset) > _NEAR_BORDER and all(0 <= part <= 2 for part in place):
            found.append(_Alternative(PLACES[3 * place[1] + place[0]], 0.05 * (abs(offset) - _NEAR_BORDER)))
    return found


def _covered(shown: Scene) -> bool:
    """Whether any two things reach into one another."""
    things = shown.things
    return any(
        max(abs(a.x - b.x), abs(a.y - b.y)) < 0.9 * (a.radius + b.radius)
        for i, a in enumerate(things)
        for b in things[:i]
    )


def _sign(value: float) -> int:
    return 1 if value > 0 else -1


def _question_type(text: str) -> str:
    plain = text.lower().replace("colour", "color") + " "
    fitting = [name for name in _QUESTION_TYPES if plain.startswith(f"{name} ")]
    return max(fitting, key=len, default="none of the above")


def _answer_type(asked: Asked) -> str:
    if asked.valid == YES_NO:
        return "yes/no"
    return "number" if asked.answer.isdecimal() else "other"
