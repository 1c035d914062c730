"""World-ScienceQA in ScienceQA's own files: questions with choices, a third of them without an image.

Those without are answered from a description in the hint, or from general knowledge.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.image_files import save_with_truth
from olivine.world.language import article, description
from olivine.world.question import Question
from olivine.world.questions import TOPICS, misread
from olivine.world.reasoning import USES
from olivine.world.sampling import sample_scene
from olivine.world.scene import CATEGORIES, CLASSES, Scene, named_apart

SPLIT = "scienceqa-test"
_MOST_CHOICES = 5
_TOPICS = ("colour", "state", "kind", "count", "place", "relation", "pattern", "use", "writing")
_SUBJECTS = {
    "kind": ("natural science", "biology"),
    "use": ("natural science", "physics"),
    "place": ("social science", "geography"),
    "relation": ("social science", "geography"),
    "writing": ("language science", "reading-comprehension"),
}
_LECTURES = {
    "kind": "Everything in a picture has a name.",
    "use": "What a thing is for follows from what it is.",
    "place": "A picture has nine places, from the top left to the bottom right.",
    "relation": "What is nearer to the top is above; what is nearer to the left edge is to the left.",
    "count": "To count is to name each thing once.",
}


@dataclass(frozen=True, slots=True)
class _Problem:
    """A question with choices; `scene` is its image, if it has one."""

    question: str
    choices: tuple[str, ...]
    answer: str
    topic: str
    hint: str = ""
    scene: Scene | None = None
    solution: str = ""


def write(folder: Path, seed: int, images: int) -> int:
    """Write problems.json, pid_splits.json and the images (1.5 problems per image); return the number of problems."""
    rng = Random(f"{seed}/{SPLIT}/questions")
    problems = {}
    scenes = {}
    index = made = 0
    while made < images + images // 2:
        # Two of three have an image; of the others every fourth asks for general knowledge about objects.
        scene = sample_scene(seed, SPLIT, index)
        if made % 12 == 11:
            problem: _Problem | None = _known(rng)
        else:
            problem = _read_of(scene, rng) if made % 3 == 2 else _seen(scene, rng)
        index += 1
        if problem is None:
            continue
        key = str(made + 1)
        made += 1
        problems[key] = _row(problem, rng)
        if problem.scene is not None:
            scenes[f"test/{key}/image.png"] = problem.scene
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": list(problems)})
    save_with_truth(folder, scenes)
    return len(problems)


def _seen(scene: Scene, rng: Random) -> _Problem | None:
    question = _open_question(scene, rng)
    if question is None:
        return None
    # Half of them have a hint, as in ScienceQA; it is true and does not give the answer.
    time = "by day" if scene.time == "day" else "at night"
    hint = f"The picture shows a scene {time}." if rng.random() < 0.5 else ""
    return _problem(question, rng, hint=hint, scene=scene)


def _read_of(scene: Scene, rng: Random) -> _Problem | None:
    question = _open_question(scene, rng)
    return None if question is None else _problem(question, rng, hint=description(scene, rng))


def _known(rng: Random) -> _Problem:
    if rng.random() < 0.5:
        purpose = rng.choice(list(USES))
        members, text = USES[purpose], f"Which of these is something that {purpose}?"
    else:
        category = rng.choice(CATEGORIES)
        members = tuple(class_name for class_name in CLASSES if CLASSES[class_name].category == category)
        text = f"Which of these is {article(category)}?"
    answer = rng.choice(members)
    others = rng.sample(
        [class_name for class_name in CLASSES if class_name not in members], rng.randint(1, _MOST_CHOICES - 2)
    )
    solution = f"{article(answer).capitalize()} is."
    return _Problem(text, tuple(rng.sample([answer, *others], len(others) + 1)), answer, "use", solution=solution)


def _open_question(scene: Scene, rng: Random) -> Question | None:
    """Draw a question that is not answered by yes or no and does not name the choices itself."""
    for _ in range(20):
        question = TOPICS[rng.choice(_TOPICS)](scene, rng)
        if question is not None and question.structural == "query" and " or " not in question.text:
            return question
    return None


def _problem(question: Question, rng: Random, *, hint: str, scene: Scene | None = None) -> _Problem:
    choices = _choices(question, rng)
    return _Problem(question.text, choices, question.answer, question.topic, hint, scene, question.sentence)


def _choices(question: Question, rng: Random) -> tuple[str, ...]:
    """Return the answer among other choices, none of which could also be right."""
    if question.topic == "writing":
        others = {misread(question.answer, rng) for _ in range(_MOST_CHOICES)}
    else:
        others = {o for o in question.valid if named_apart(o, question.answer) and named_apart(question.answer, o)}
    wrong = rng.sample(sorted(others), min(len(others), rng.randint(2, _MOST_CHOICES - 1)))
    return tuple(rng.sample([question.answer, *wrong], len(wrong) + 1))


def _row(problem: _Problem, rng: Random) -> dict[str, Any]:
    subject, topic = _SUBJECTS.get(problem.topic, ("natural science", "units-and-measurement"))
    return {
        "question": problem.question,
        "choices": list(problem.choices),
        "answer": problem.choices.index(problem.answer),
        "hint": problem.hint,
        "image": None if problem.scene is None else "image.png",
        "task": "closed choice",
        "grade": f"grade{rng.randint(1, 12)}",
        "subject": subject,
        "topic": topic,
        "category": problem.topic,
        "skill": f"Answer questions of {problem.topic}",
        "lecture": _LECTURES.get(problem.topic, ""),
        "solution": problem.solution,
        "split": "test",
    }
