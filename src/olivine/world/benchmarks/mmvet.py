"""World-MM-Vet in MM-Vet's own file: open questions, answers as elements, the capabilities that each question needs.

Grading is decided elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.image_files import save_with_truth
from olivine.world.language import number
from olivine.world.question import YES_NO, Question
from olivine.world.questions import TOPICS
from olivine.world.sampling import sample_scene
from olivine.world.scene import CLASSES, Scene

SPLIT = "mmvet"
AND, OR = "<AND>", "<OR>"


@dataclass(frozen=True, slots=True)
class Open:
    """An open question, and the elements of its answer joined by <AND> and <OR>."""

    question: str
    answer: str


def write(folder: Path, seed: int, images: int) -> int:
    """Write mm-vet.json, one question per image, and the images; return the number of questions."""
    rng = Random(f"{seed}/{SPLIT}/questions")
    rows: dict[str, dict[str, Any]] = {}
    scenes = {}
    index = 0
    while len(rows) < images:
        capabilities, ask = FORMS[len(rows) % len(FORMS)]
        scene = sample_scene(seed, SPLIT, index)
        index += 1
        form = ask(scene, rng)
        if form is None:
            continue
        key = f"v1_{len(rows)}"
        rows[key] = {
            "imagename": f"{key}.jpg",
            "question": form.question,
            "answer": form.answer,
            "capability": list(capabilities),
            "imagesource": "olivine world",
        }
        scenes[f"images/{key}.jpg"] = scene
    write_json(folder / "mm-vet.json", rows)
    save_with_truth(folder, scenes)
    return len(rows)


def _of_topic(topic: str, *, starting: str | tuple[str, ...] = "") -> Callable[[Scene, Random], Open | None]:
    """Return a function that draws a topic's own open questions."""

    def ask(scene: Scene, rng: Random) -> Open | None:
        for _ in range(20):
            question = TOPICS[topic](scene, rng)
            if question is not None and question.valid != YES_NO and question.text.startswith(starting):
                return Open(question.text, _elements(question))
        return None

    return ask


def _elements(question: Question) -> str:
    """Return the accepted forms of the answer: numbers in words or figures."""
    if question.answer.isdecimal() and question.topic != "writing" and int(question.answer) < 10:
        return f"{question.answer}{OR}{number(int(question.answer))}"
    return question.answer


def _everything(scene: Scene, rng: Random) -> Open:
    text = rng.choice(("What is in the picture?", "What do you see?"))
    return Open(text, AND.join(scene.classes))


def _description(scene: Scene, rng: Random) -> Open:
    text = rng.choice(("Describe the picture.", "Describe the image."))
    colours = dict.fromkeys(str(obj.colour) for obj in scene.objects)
    return Open(text, AND.join([*scene.classes, *colours, scene.backdrop]))


def _sign_and_colour(scene: Scene, rng: Random) -> Open | None:
    signs = scene.of_class("sign")
    if not signs:
        return None
    question = rng.choice(
        ("What does the sign say, and what colour is it?", "What colour is the sign and what does it say?")
    )
    return Open(question, f"{signs[0].writing}{AND}{signs[0].colour}")


def _colours_of(scene: Scene, rng: Random) -> Open | None:
    several = [class_name for class_name in scene.classes if len(scene.of_class(class_name)) == 2]
    fitting = [class_name for class_name in several if len({obj.colour for obj in scene.of_class(class_name)}) == 2]
    if not fitting:
        return None
    class_name = rng.choice(fitting)
    colours = (str(obj.colour) for obj in scene.of_class(class_name))
    return Open(f"Which colours do the {CLASSES[class_name].plural} have?", AND.join(colours))


#: Capabilities in MM-Vet's names, and a function that draws a question that needs them, None if a scene has none.
FORMS: tuple[tuple[tuple[str, ...], Callable[[Scene, Random], Open | None]], ...] = (
    (("rec",), _of_topic("colour", starting="Wh")),
    (("rec", "gen"), _everything),
    (("rec", "spat"), _of_topic("relation", starting="What")),
    (("ocr",), _of_topic("writing")),
    (("rec", "math"), _of_topic("count")),
    (("rec", "know"), _of_topic("use")),
    (("ocr", "math"), _of_topic("total", starting="What is the number")),
    (("rec", "spat"), _of_topic("kind", starting=("What is at", "What is in", "What is on"))),
    (("rec", "ocr"), _sign_and_colour),
    (("rec", "gen"), _description),
    (("rec", "math"), _of_topic("total", starting="How many")),
    (("rec",), _colours_of),
)
