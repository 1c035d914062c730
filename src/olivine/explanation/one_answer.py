"""One answer explained: its maps, what the image gives of it, how far to trust each map; and the files of that.

The page's look is in `templates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from olivine import __version__
from olivine.explanation.explainer import Asked, Explainer, Word
from olivine.explanation.faithfulness import areas
from olivine.explanation.image_share import ImageShare, image_share
from olivine.explanation.methods.base import Method
from olivine.explanation.overlay import data_uri, overlay
from olivine.files import atomic_file, write_json, write_text
from olivine.printable import printable

JSON, PAGE = "explanation.json", "explanation.html"


@dataclass(frozen=True, slots=True)
class MethodMap:
    """A method's map of some of an answer's tokens.

    Attributes:
        method: its name.
        map: `[side, side]`, over the tower's own grid.
        deletion, insertion: areas under the curves in the map's order, from 0 to 1.
        signed: whether a negative score speaks against.
    """

    method: str
    map: NDArray[np.float32]
    deletion: float
    insertion: float
    signed: bool


@dataclass(frozen=True, slots=True)
class ExplainedWord:
    """Some of an answer's tokens with their maps.

    Attributes:
        word: the text and its tokens' positions.
        share: what the image gives of it.
        maps: by the methods, in their order.
        random_deletion, random_insertion: mean areas under random orders' curves.
    """

    word: Word
    share: ImageShare
    maps: tuple[MethodMap, ...]
    random_deletion: float
    random_insertion: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer to a question about an image, explained."""

    question: str
    answer: str
    words: tuple[ExplainedWord, ...]
    image: Image.Image
    other_image: str
    about: dict[str, Any]


def explain(
    explainer: Explainer,
    image: Image.Image,
    question: str,
    methods: Sequence[Method],
    *,
    token: int | None = 0,
    other: Image.Image | None = None,
) -> Explanation:
    """Explain the model's own answer.

    Args:
        explainer: the model.
        image: as opened.
        question: the text of the user turn.
        methods: whose maps to make.
        token: which of the answer's tokens to explain, from 0; None explains every word.
        other: another image to compare with; None takes one of the tower's mean colour.

    Raises:
        RequestError: the answer is empty, or has no such token.
    """
    features = explainer.features(image)
    asked = explainer.ask(question, features, f"{question}\n{image.size}")
    words = explainer.words(asked) if token is None else [_one_token(explainer, asked, token)]
    other_features = explainer.blank_features() if other is None else explainer.features(other)
    return Explanation(
        question=question,
        answer=explainer.text(asked),
        words=tuple(_explained(explainer, asked, word, methods, other_features) for word in words),
        image=explainer.vlm.transform.fitted(image),
        other_image="an image of the tower's mean colour" if other is None else "the other image given",
        about={
            "baseline": explainer.baseline,
            "grid": {"side": explainer.grid.side, "patches_along_token": explainer.grid.factor},
            "image_tokens": explainer.grid.tokens,
            "options": {method.name: vars(method) for method in methods},
        },
    )


def _one_token(explainer: Explainer, asked: Asked, token: int) -> Word:
    explainer.case(asked, (token,))  # refuses a token that is not there
    return Word(explainer.vlm.decode([asked.answer[token]]).strip(), (token,))


def _explained(
    explainer: Explainer, asked: Asked, word: Word, methods: Sequence[Method], other: Tensor
) -> ExplainedWord:
    case = explainer.case(asked, word.tokens)
    scores = {method.name: method.token_scores(case) for method in methods}
    by_order, chance = areas(case, scores)
    maps = tuple(
        MethodMap(method.name, case.grid.map(scores[method.name]), *by_order[method.name], method.signed)
        for method in methods
    )
    return ExplainedWord(word, image_share(explainer, asked, word.tokens, other), maps, *chance)


def as_json(explanation: Explanation, model: str) -> dict[str, Any]:
    """Return an explanation as plain values; maps are rows of the tower's grid from the top."""
    return {
        "model": model,
        "question": explanation.question,
        "answer": explanation.answer,
        **explanation.about,
        "other_image": explanation.other_image,
        "explained": [
            {
                "text": one.word.text,
                "tokens": list(one.word.tokens),
                "log_probability": {
                    "with_image": one.share.with_image,
                    "blind": one.share.blind,
                    "other_image": one.share.other,
                },
                "decided_by_image": one.share.decided,
                "random_orders": {"deletion": one.random_deletion, "insertion": one.random_insertion},
                "maps": {
                    each.method: {"deletion": each.deletion, "insertion": each.insertion, "map": each.map.tolist()}
                    for each in one.maps
                },
            }
            for one in explanation.words
        ],
        "version": __version__,
    }


def write_explanation(explanation: Explanation, model: str, folder: Path) -> list[Path]:
    """Write the JSON, one overlay for each word and method, and the page; return their paths, the page first.

    With one word and one method the overlay is `overlay.png`, else `overlay-WORD-METHOD.png`, words counted from 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON, as_json(explanation, model))
    alone = len(explanation.words) == len(explanation.words[0].maps) == 1
    overlays: list[Path] = []
    addresses: list[list[str]] = []
    for number, one in enumerate(explanation.words):
        addresses.append([])
        for each in one.maps:
            drawn = overlay(explanation.image, each.map, signed=each.signed)
            overlays.append(folder / ("overlay.png" if alone else f"overlay-{number}-{each.method}.png"))
            with atomic_file(overlays[-1]) as partial:
                drawn.save(partial, format="PNG")
            addresses[-1].append(data_uri(drawn))
    page = template_environment().get_template("explanation.html.j2")
    context = {"explanation": explanation, "model": model, "addresses": addresses, "version": __version__}
    write_text(folder / PAGE, page.render(context, plain=data_uri(explanation.image.resize((448, 448)))))
    return [folder / PAGE, folder / JSON, *overlays]


def template_environment() -> jinja2.Environment:
    """Return what renders the pages; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("olivine.explanation", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: type(value)(printable(value)) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "signed": _signed, "plain": _plain}
    return environment


def _percent(log_probability: float) -> str:
    share = 100 * float(np.exp(log_probability))
    return f"{share:.1f} %" if share >= 0.1 else "below 0.1 %"


def _points(value: float) -> str:
    return f"{100 * value:+.0f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if np.isfinite(value) else "unknown"


def _plain(value: float) -> str:
    return f"{value:.1f}"
