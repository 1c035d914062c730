"""World-GQA in GQA's own files: typed questions with their programs, entailments, choices and scene graphs.

The questions come from `questions`; counting and reading are excluded, since GQA has no such questions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.benchmarks.balance import Balance, candidates
from olivine.world.benchmarks.entailment import entailed
from olivine.world.image_files import save_with_truth
from olivine.world.question import YES_NO, Question
from olivine.world.sampling import HELD_OUT, could_be_in, sample_scene
from olivine.world.scene import CLASSES, SIDE, Scene, relations

SPLIT = "gqa-testdev"
QUESTIONS_PER_IMAGE = 10
_TOPICS = ("colour", "size", "pattern", "state", "exist", "logical", "kind", "category", "place", "relation", "compare",
           "setting", "time")  # fmt: skip
#: GQA's detailed types, by topic and structural type.
_DETAILED = {
    ("colour", "query"): "directOf", ("size", "query"): "how", ("pattern", "query"): "what",
    ("state", "query"): "activity", ("state", "choose"): "stateChoose", ("exist", "verify"): "exist",
    ("logical", "logical"): "existAndOr", ("kind", "query"): "category", ("category", "verify"): "categoryVerify",
    ("place", "query"): "positionQuery", ("relation", "verify"): "relVerify", ("relation", "choose"): "relChooser",
    ("relation", "query"): "relS", ("compare", "compare"): "compare", ("setting", "query"): "place",
    ("setting", "verify"): "placeVerify", ("time", "choose"): "timeChoose",
}  # fmt: skip


def write(folder: Path, seed: int, images: int) -> int:
    """Write the testdev tier (balanced and all questions, choices, scene graphs, images); return how many are balanced.

    The balanced file holds ten questions per image, the other one those and all that they entail.
    """
    rng = Random(f"{seed}/{SPLIT}/questions")
    balance = Balance()
    scenes = {}
    everything: dict[str, dict[str, Any]] = {}
    choices, graphs = {}, {}
    for index in range(images):
        scene = sample_scene(seed, SPLIT, index)
        image_id = f"n{index + 1:06d}"
        scenes[f"images/{image_id}.jpg"], graphs[image_id] = scene, _scene_graph(scene)
        picked = balance.pick(candidates(scene, rng, _TOPICS), QUESTIONS_PER_IMAGE)
        for entry in _numbered(picked, f"20{index:06d}"):
            everything[entry.id] = _row(entry, image_id, scene)
            choices[entry.id] = _choices(entry.question, scene)
    balanced = {key: row for key, row in everything.items() if row["isBalanced"]}
    write_json(folder / "testdev_balanced_questions.json", balanced)
    write_json(folder / "testdev_all_questions.json", everything)
    write_json(folder / "testdev_choices.json", choices)
    write_json(folder / "testdev_sceneGraphs.json", graphs)
    save_with_truth(folder, scenes)
    return len(balanced)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    question: Question
    balanced: bool
    entails: tuple[str, ...]


def _numbered(picked: Iterable[Question], prefix: str) -> Iterator[_Entry]:
    """Yield the selected questions of an image and what they entail, each once, with ids."""
    by_text = {question.text: question for question in picked}
    selected = set(by_text)
    links: dict[str, list[str]] = {}
    for question in list(by_text.values()):
        followers = [other for other in entailed(question) if other.text != question.text]
        for other in followers:
            known = by_text.setdefault(other.text, other)
            assert known.answer == other.answer, f"{question} entails {other}, but {known}"
        links[question.text] = [other.text for other in followers]
    ids = {text: f"{prefix}{number:03d}" for number, text in enumerate(by_text)}
    for text, question in by_text.items():
        entails = tuple(ids[other] for other in links.get(text, []))
        yield _Entry(ids[text], question, text in selected, entails)


def _row(entry: _Entry, image_id: str, scene: Scene) -> dict[str, Any]:
    question = entry.question
    names = [f"{scene.objects[i].class_name} ({i})" for i in question.objects] or ["scene"]
    steps = _program(question, names)
    return {
        "semantic": steps,
        "entailed": list(entry.entails),
        "equivalent": [entry.id],
        "question": question.text,
        "imageId": image_id,
        "isBalanced": entry.balanced,
        "groups": {
            "global": None if question.valid == YES_NO else f"{question.semantic}-{question.topic}",
            "local": f"{names[0].split(' ')[0]}-{question.topic}_{question.structural}",
        },
        "answer": question.answer,
        "semanticStr": "->".join(
            f"{step['operation']}: {step['argument']} {step['dependencies'] or ''}".strip() for step in steps
        ),
        "annotations": _annotations(question, scene),
        "types": {
            "detailed": _DETAILED.get((question.topic, question.structural), f"{question.structural}Attr"),
            "semantic": question.semantic,
            "structural": question.structural,
        },
        "fullAnswer": question.sentence,
    }


def _annotations(question: Question, scene: Scene) -> dict[str, dict[str, str]]:
    """Return the ids of the objects that a question's words name, by word; the others go with the answer."""
    words = [word.strip("?,.") for word in question.text.split()]
    named: dict[str, str] = {}
    unnamed: dict[str, str] = {}
    for index in question.objects:
        class_name = scene.objects[index].class_name
        forms = (class_name, CLASSES[class_name].plural)
        at = next((n for n, word in enumerate(words) if word in forms and str(n) not in named), None)
        if at is None:
            unnamed[str(len(unnamed))] = str(index)
        else:
            named[str(at)] = str(index)
    return {"answer": unnamed, "question": named, "fullAnswer": {}}


def _scene_graph(scene: Scene) -> dict[str, Any]:
    """Return a scene as GQA's scene graphs have an image; ids are the objects' indices."""
    index = {id(obj): str(number) for number, obj in enumerate(scene.objects)}
    objects: dict[str, dict[str, Any]] = {}
    for number, obj in enumerate(scene.objects):
        left, top, width, height = obj.box
        attributes = [obj.colour, obj.size, obj.pattern, *([obj.state] if obj.state else [])]
        box = {"x": round(left, 2), "y": round(top, 2), "w": round(width, 2), "h": round(height, 2)}
        objects[str(number)] = {"name": obj.class_name, **box, "attributes": attributes, "relations": []}
    for first, relation, second in relations(scene):
        objects[index[id(first)]]["relations"].append({"name": relation, "object": index[id(second)]})
    return {"width": SIDE, "height": SIDE, "location": scene.backdrop, "objects": objects}


def _program(question: Question, names: list[str]) -> list[dict[str, Any]]:
    """Return the steps that lead to the answer, in GQA's operations."""
    steps: list[dict[str, Any]] = []

    def step(operation: str, argument: str, *after: int) -> None:
        steps.append({"operation": operation, "dependencies": list(after), "argument": argument})

    last = 0
    if question.topic in ("setting", "time"):
        step("select", "scene")
    elif question.topic == "relation" and question.structural == "query":
        step("select", names[1])
        step("relate", f"{names[0].split(' ')[0]},{_relation_in(question.text)},s (0)", 0)
        last = 1
    elif question.topic in ("compare", "logical") and len(names) > 1:
        step("select", names[0])
        step("select", names[1])
        last = 1
    else:
        step("select", names[0])
    operation, argument = _closing(question)
    step(operation, argument, *range(last + 1) if question.topic in ("compare", "logical") else (last,))
    return steps


def _closing(question: Question) -> tuple[str, str]:
    if question.topic in ("exist", "category"):
        return "exist", "?"
    if question.topic == "logical":
        return ("and" if "both" in question.text else "or"), ""
    if question.topic == "kind" or (question.topic == "relation" and question.structural == "query"):
        return "query", "name"
    what = _relation_in(question.text) if question.topic == "relation" else question.topic
    if question.structural == "compare":
        return ("same" if question.valid == YES_NO else "choose"), what
    return f"{question.structural} {question.topic}" if question.structural != "query" else "query", what


def _relation_in(text: str) -> str:
    return next(name for name in ("to the left of", "to the right of", "above", "below") if name in text)


def _choices(question: Question, scene: Scene) -> dict[str, list[str]]:
    """Return all plausible answers, and those that are possible in this world."""
    plausible = list(question.valid)
    if question.topic == "colour" and question.objects and question.valid != YES_NO:
        class_name = scene.objects[question.objects[0]].class_name
        plausible = [colour for colour in question.valid if (class_name, colour) not in HELD_OUT]
    elif set(question.valid) <= set(CLASSES):
        plausible = [class_name for class_name in question.valid if could_be_in(class_name, scene.backdrop)]
    return {"valid": list(question.valid), "plausible": plausible}
