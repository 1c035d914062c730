"""World-MM-Vet in MM-Vet's own file: open questions, answers in elements, the capabilities that each question needs.

Who grades the answers is not decided here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from olivine.files import write_json
from olivine.world.asked import YES_NO, Asked
from olivine.world.image_files import save_with_truth
from olivine.world.language import number
from olivine.world.questions import TOPICS
from olivine.world.sampling import scene
from olivine.world.scene import KINDS, Scene

SPLIT = "mmvet"
AND, OR = "<AND>", "<OR>"


@dataclass(frozen=True, slots=True)
class Open:
    """An open question, and the elements of its answer joined by <AND> and <OR>."""

    question: str
    answer: str


def write(folder: Path, seed: int, images: int) -> int:
    """Write mm-vet.json, a question an image, and the images; how many questions there are."""
    draw = Random(f"{seed}/{SPLIT}/questions")
    rows: dict[str, dict[str, Any]] = {}
    scenes = {}
    index = 0
    while len(rows) < images:
        capabilities, ask = FORMS[len(rows) % len(FORMS)]
        shown = scene(seed, SPLIT, index)
        index += 1
        asked = ask(shown, draw)
        if asked is None:
            continue
        key = f"v1_{len(rows)}"
        rows[key] = {
            "imagename": f"{key}.jpg",
            "question": asked.question,
            "answer": asked.answer,
            "capability": list(capabilities),
            "imagesource": "olivine world",
        }
        scenes[f"images/{key}.jpg"] = shown
    write_json(folder / "mm-vet.json", rows)
    save_with_truth(folder, scenes)
    return len(rows)


def _of_topic(topic: str, *, starting: str | tuple[str, ...] = "") -> Callable[[Scene, Random], Open | None]:
    """A topic's own open questions."""

    def ask(shown: Scene, draw: Random) -> Open | None:
        for _ in range(20):
            asked = TOPICS[topic](shown, draw)
            if asked is not None and asked.valid != YES_NO and asked.text.startswith(starting):
                return Open(asked.text, _elements(asked))
        return None

    return ask


def _elements(asked: Asked) -> str:
    """The answer as it may be said: numbers in words or figures."""
    if asked.answer.isdecimal() and asked.topic != "writing" and int(asked.answer) < 10:
        return f"{asked.answer}{OR}{number(int(asked.answer))}"
    return asked.answer


def _everything(shown: Scene, draw: Random) -> Open:
    text = draw.choice(("What is in the picture?", "What do you see?"))
    return Open(text, AND.join(shown.kinds))


def _description(shown: Scene, draw: Random) -> Open:
    text = draw.choice(("Describe the picture.", "Describe the image."))
    colours = dict.fromkeys(str(thing.colour) for thing in shown.things)
    return Open(text, AND.join([*shown.kinds, *colours, shown.setting]))


def _sign_and_colour(shown: Scene, draw: Random) -> Open | None:
    signs = shown.of_kind("sign")
    if not signs:
        return None
    asked = draw.choice(
        ("What does the sign say, and what colour is it?", "What colour is the sign and what does it say?")
    )
    return Open(asked, f"{signs[0].writing}{AND}{signs[0].colour}")


def _colours_of(shown: Scene, draw: Random) -> Open | None:
    several = [kind for kind in shown.kinds if len(shown.of_kind(kind)) == 2]
    fitting = [kind for kind in several if len({thing.colour for thing in shown.of_kind(kind)}) == 2]
    if not fitting:
        return None
    kind = draw.choice(fitting)
    colours = (str(thing.colour) for thing in shown.of_kind(kind))
    return Open(f"Which colours do the {KINDS[kind].plural} have?", AND.join(colours))


#: Capabilities in MM-Vet's names, and what makes a question that needs them, or None where a scene has nothing for it.
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
