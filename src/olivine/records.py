"""The few types that all packages share: conversations, questions, answers and scores.

No reading, writing or tokenising here: those are in `data` and `evaluation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

#: A control evaluation: without images (blind), or with another question's image (shuffled).
Control = Literal["blind", "shuffled"]


class Role(StrEnum):
    """The speaker of a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance, without any template marker and without `<image>`."""

    role: Role
    text: str


#: User and assistant in strict alternation, the user first; a system turn may stand before them.
Conversation = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training item: a conversation about at most one image.

    `image` is relative to the source's image root, `None` for text-only items. The image always precedes the
    first user turn's text, wherever its mark was in the file (LLaVA's `preprocess_multimodal`).
    """

    id: str
    conversation: Conversation
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One evaluation item. `prompt` is the whole user turn; `cluster` the independent cluster for statistics.

    `references` are what counts as correct, in the benchmark's own sense; `details` has anything else that the
    benchmark's scorer reads (types, splits, choices).
    """

    id: str
    prompt: str
    image: str | None
    cluster: str
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class AnswerState(StrEnum):
    """Answered, answered with nothing, or not answered because of an error (never scored as wrong)."""

    ANSWERED = "answered"
    EMPTY = "empty"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one question, or why there is none (`error`)."""

    question_id: str
    text: str
    state: AnswerState = AnswerState.ANSWERED
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One scored question: its independent cluster and its correctness, in [0, 1]."""

    question_id: str
    cluster: str
    correct: float


@dataclass(frozen=True, slots=True)
class Score:
    """A benchmark's score of a set of answers.

    `metrics` are in the official tool's own units; `items` has one entry per question; `missing` has the ids of
    questions without an answer, in question order.
    """

    benchmark: str
    variant: str
    metrics: Mapping[str, float]
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Return the object that `olivine score --json` prints."""
        return {
            "benchmark": self.benchmark,
            "variant": self.variant,
            "metrics": dict(self.metrics),
            "items": len(self.items),
            "missing": list(self.missing),
        }
