"""World-ScienceQA in ScienceQA's own files: questions with choices, a third of them without an image.

Those without are answered from a described scene in the hint, or from what the lecture teaches.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.asked import Asked
from olivine.world.image_files import save_with_truth
from olivine.world.language import article, description
from olivine.world.questions import TOPICS, misread
from olivine.world.reasoning import USES
from olivine.world.sampling import scene
from olivine.world.scene import CATEGORIES, KINDS, Scene, named_apart

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
    """A question with choices; `shown` is its image, if it has one."""

    question: str
    choices: tuple[str, ...]
    answer: str
    topic: str
    hint: str = ""
    shown: Scene | None = None
    solution: str = ""


def write(folder: Path, seed: int, images: int) -> int:
    """Write problems.json, pid_splits.json and the images: half as many problems again as images; how many."""
    draw = Random(f"{seed}/{SPLIT}/questions")
    problems = {}
    scenes = {}
    index = made = 0
    while made < images + images // 2:
        # Two of three have an image; of the others every fourth asks for what is known of things.
        shown = scene(seed, SPLIT, index)
        if made % 12 == 11:
            problem: _Problem | None = _known(draw)
        else:
            problem = _read_of(shown, draw) if made % 3 == 2 else _seen(shown, draw)
        index += 1
        if problem is None:
            continue
        key = str(made + 1)
        made += 1
        problems[key] = _row(problem, draw)
        if problem.shown is not None:
            scenes[f"test/{key}/image.png"] = problem.shown
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": list(problems)})
    save_with_truth(folder, scenes)
    return len(problems)


def _seen(shown: Scene, draw: Random) -> _Problem | None:
    asked = _open_question(shown, draw)
    if asked is None:
        return None
    # Half of them have a hint, as in ScienceQA; it is true and does not answer.
    time = "by day" if shown.time == "day" else "at night"
    hint = f"The picture shows a scene {time}." if draw.random() < 0.5 else ""
    return _problem(asked, draw, hint=hint, shown=shown)


def _read_of(shown: Scene, draw: Random) -> _Problem | None:
    asked = _open_question(shown, draw)
    return None if asked is None else _problem(asked, draw, hint=description(shown, draw))


def _known(draw: Random) -> _Problem:
    if draw.random() < 0.5:
        purpose = draw.choice(list(USES))
        members, text = USES[purpose], f"Which of these is something that {purpose}?"
    else:
        category = draw.choice(CATEGORIES)
        members = tuple(kind for kind in KINDS if KINDS[kind].category == category)
        text = f"Which of these is {article(category)}?"
    answer = draw.choice(members)
    others = draw.sample([kind for kind in KINDS if kind not in members], draw.randint(1, _MOST_CHOICES - 2))
    solution = f"{article(answer).capitalize()} is."
    return _Problem(text, tuple(draw.sample([answer, *others], len(others) + 1)), answer, "use", solution=solution)


def _open_question(shown: Scene, draw: Random) -> Asked | None:
    """A question that is neither answered by yes or no nor names the choices itself."""
    for _ in range(20):
        asked = TOPICS[draw.choice(_TOPICS)](shown, draw)
        if asked is not None and asked.structural == "query" and " or " not in asked.text:
            return asked
    return None


def _problem(asked: Asked, draw: Random, *, hint: str, shown: Scene | None = None) -> _Problem:
    choices = _choices(asked, draw)
    return _Problem(asked.text, choices, asked.answer, asked.topic, hint, shown, asked.sentence)


def _choices(asked: Asked, draw: Random) -> tuple[str, ...]:
    """The answer among others, none of which could be meant too."""
    if asked.topic == "writing":
        others = {misread(asked.answer, draw) for _ in range(_MOST_CHOICES)}
    else:
        others = {o for o in asked.valid if named_apart(o, asked.answer) and named_apart(asked.answer, o)}
    wrong = draw.sample(sorted(others), min(len(others), draw.randint(2, _MOST_CHOICES - 1)))
    return tuple(draw.sample([asked.answer, *wrong], len(wrong) + 1))


def _row(problem: _Problem, draw: Random) -> dict[str, Any]:
    subject, topic = _SUBJECTS.get(problem.topic, ("natural science", "units-and-measurement"))
    return {
        "question": problem.question,
        "choices": list(problem.choices),
        "answer": problem.choices.index(problem.answer),
        "hint": problem.hint,
        "image": None if problem.shown is None else "image.png",
        "task": "closed choice",
        "grade": f"grade{draw.randint(1, 12)}",
        "subject": subject,
        "topic": topic,
        "category": problem.topic,
        "skill": f"Answer questions of {problem.topic}",
        "lecture": _LECTURES.get(problem.topic, ""),
        "solution": problem.solution,
        "split": "test",
    }
