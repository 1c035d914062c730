"""World-GQA in GQA's own files: typed questions with their programs, what they entail, choices, balanced and all.

The questions are `questions`'s; counting and reading are left out, as GQA does not ask for them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.asked import YES_NO, Asked
from olivine.world.benchmarks.balance import Balance, candidates
from olivine.world.benchmarks.entailment import entailed
from olivine.world.image_files import save_with_truth
from olivine.world.sampling import HELD_OUT, could_be_in, scene
from olivine.world.scene import KINDS, Scene

SPLIT = "gqa-testdev"
QUESTIONS_A_PICTURE = 10
_TOPICS = ("colour", "size", "pattern", "state", "exist", "logical", "kind", "category", "place", "relation", "compare",
           "setting", "time")  # fmt: skip
#: GQA's names of the detailed types, by topic and structural type.
_DETAILED = {
    ("colour", "query"): "directOf", ("size", "query"): "how", ("pattern", "query"): "what",
    ("state", "query"): "activity", ("state", "choose"): "stateChoose", ("exist", "verify"): "exist",
    ("logical", "logical"): "existAndOr", ("kind", "query"): "category", ("category", "verify"): "categoryVerify",
    ("place", "query"): "positionQuery", ("relation", "verify"): "relVerify", ("relation", "choose"): "relChooser",
    ("relation", "query"): "relS", ("compare", "compare"): "compare", ("setting", "query"): "place",
    ("setting", "verify"): "placeVerify", ("time", "choose"): "timeChoose",
}  # fmt: skip


def write(folder: Path, seed: int, images: int) -> int:
    """Write the testdev tier: balanced and all questions, choices, images; how many are balanced.

    The balanced file holds ten questions an image, the other one those and all that they entail.
    """
    draw = Random(f"{seed}/{SPLIT}/questions")
    balance = Balance()
    scenes = {}
    everything: dict[str, dict[str, Any]] = {}
    choices = {}
    for index in range(images):
        shown = scene(seed, SPLIT, index)
        image_id = f"n{index + 1:06d}"
        scenes[f"images/{image_id}.jpg"] = shown
        picked = balance.pick(candidates(shown, draw, _TOPICS), QUESTIONS_A_PICTURE)
        for entry in _numbered(picked, f"20{index:06d}"):
            everything[entry.id] = _row(entry, image_id, shown)
            choices[entry.id] = _choices(entry.asked, shown)
    balanced = {key: row for key, row in everything.items() if row["isBalanced"]}
    write_json(folder / "testdev_balanced_questions.json", balanced)
    write_json(folder / "testdev_all_questions.json", everything)
    write_json(folder / "testdev_choices.json", choices)
    save_with_truth(folder, scenes)
    return len(balanced)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    asked: Asked
    balanced: bool
    entails: tuple[str, ...]


def _numbered(picked: Iterable[Asked], prefix: str) -> Iterator[_Entry]:
    """The picked questions of an image and what they entail, each once, with ids."""
    by_text = {asked.text: asked for asked in picked}
    asked_first = set(by_text)
    links: dict[str, list[str]] = {}
    for asked in list(by_text.values()):
        followers = [other for other in entailed(asked) if other.text != asked.text]
        for other in followers:
            known = by_text.setdefault(other.text, other)
            assert known.answer == other.answer, f"{asked} entails {other}, but {known}"
        links[asked.text] = [other.text for other in followers]
    ids = {text: f"{prefix}{number:03d}" for number, text in enumerate(by_text)}
    for text, asked in by_text.items():
        entails = tuple(ids[other] for other in links.get(text, []))
        yield _Entry(ids[text], asked, text in asked_first, entails)


def _row(entry: _Entry, image_id: str, shown: Scene) -> dict[str, Any]:
    asked = entry.asked
    names = [f"{shown.things[i].kind} ({i})" for i in asked.things] or ["scene"]
    steps = _program(asked, names)
    return {
        "semantic": steps,
        "entailed": list(entry.entails),
        "equivalent": [entry.id],
        "question": asked.text,
        "imageId": image_id,
        "isBalanced": entry.balanced,
        "groups": {
            "global": None if asked.valid == YES_NO else f"{asked.semantic}-{asked.topic}",
            "local": f"{names[0].split(' ')[0]}-{asked.topic}_{asked.structural}",
        },
        "answer": asked.answer,
        "semanticStr": "->".join(
            f"{step['operation']}: {step['argument']} {step['dependencies'] or ''}".strip() for step in steps
        ),
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {
            "detailed": _DETAILED.get((asked.topic, asked.structural), f"{asked.structural}Attr"),
            "semantic": asked.semantic,
            "structural": asked.structural,
        },
        "fullAnswer": asked.sentence,
    }


def _program(asked: Asked, names: list[str]) -> list[dict[str, Any]]:
    """The steps that lead to the answer, in GQA's operations."""
    steps: list[dict[str, Any]] = []

    def step(operation: str, argument: str, *after: int) -> None:
        steps.append({"operation": operation, "dependencies": list(after), "argument": argument})

    last = 0
    if asked.topic in ("setting", "time"):
        step("select", "scene")
    elif asked.topic == "relation" and asked.structural == "query":
        step("select", names[1])
        step("relate", f"{names[0].split(' ')[0]},{_relation_in(asked.text)},s (0)", 0)
        last = 1
    elif asked.topic in ("compare", "logical") and len(names) > 1:
        step("select", names[0])
        step("select", names[1])
        last = 1
    else:
        step("select", names[0])
    operation, argument = _closing(asked)
    step(operation, argument, *range(last + 1) if asked.topic in ("compare", "logical") else (last,))
    return steps


def _closing(asked: Asked) -> tuple[str, str]:
    if asked.topic in ("exist", "category"):
        return "exist", "?"
    if asked.topic == "logical":
        return ("and" if "both" in asked.text else "or"), ""
    if asked.topic == "kind" or (asked.topic == "relation" and asked.structural == "query"):
        return "query", "name"
    what = _relation_in(asked.text) if asked.topic == "relation" else asked.topic
    if asked.structural == "compare":
        return ("same" if asked.valid == YES_NO else "choose"), what
    return f"{asked.structural} {asked.topic}" if asked.structural != "query" else "query", what


def _relation_in(text: str) -> str:
    return next(name for name in ("to the left of", "to the right of", "above", "below") if name in text)


def _choices(asked: Asked, shown: Scene) -> dict[str, list[str]]:
    """All answers that make sense, and those that this world could show there."""
    plausible = list(asked.valid)
    if asked.topic == "colour" and asked.things and asked.valid != YES_NO:
        kind = shown.things[asked.things[0]].kind
        plausible = [colour for colour in asked.valid if (kind, colour) not in HELD_OUT]
    elif set(asked.valid) <= set(KINDS):
        plausible = [kind for kind in asked.valid if could_be_in(kind, shown.setting)]
    return {"valid": list(asked.valid), "plausible": plausible}
