"""The few types that all packages share: conversations, questions, answers and scores.

No reading, writing or tokenising here: those are in `data` and `evaluation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

#: A control evaluation: without images (blind), or with another question's image (shuffled).
Control = Literal["blind", "shuffled"]
#: Where the marks of images are in a conversation: all in front of it, or where its author put them.
MarkRule = Literal["front", "in-place"]


class Role(StrEnum):
    """The speaker of a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance, without any template marker and without `<image>`.

    `images` has the characters of `text` in front of which an image stands, ascending. It is empty where images do not
    stand in the text: then the only image precedes the first user turn's text.
    """

    role: Role
    text: str
    images: tuple[int, ...] = ()


#: User and assistant in strict alternation, the user first; a system turn may precede them.
Conversation = tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training item: a conversation about one image, none or several.

    `image` is the only image, relative to the source's image root; `None` for text-only items and for those with
    several, which are in `images` in the order of their marks. Unless its turns say where images stand, the only image
    precedes the first user turn's text, wherever its mark was in the file (LLaVA's `preprocess_multimodal`).
    """

    id: str
    conversation: Conversation
    image: str | None = None
    images: tuple[str, ...] = ()

    @property
    def all_images(self) -> tuple[str, ...]:
        """Return its images in the order of their marks: one, several or none."""
        return self.images if self.image is None else (self.image,)

    @property
    def image_first(self) -> bool:
        """Return whether an image precedes the first user turn's text instead of standing in it."""
        return bool(self.all_images) and not any(turn.images for turn in self.conversation)


@dataclass(frozen=True, slots=True)
class Question:
    """One evaluation item. `prompt` is the whole user turn; `cluster` the independent cluster for statistics.

    `image` is the only image and precedes the prompt. Several images are in `images`, with `image` None: the prompt
    then holds one `<image>` for each, in their order, or none, which puts all of them in front of it.

    `references` are what counts as correct, in the benchmark's own sense; `details` has anything else that the
    benchmark's scorer reads (types, splits, choices).
    """

    id: str
    prompt: str
    image: str | None
    cluster: str
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[str, ...] = ()

    @property
    def all_images(self) -> tuple[str, ...]:
        """Return its images in order: one, several or none."""
        return self.images if self.image is None else (self.image,)


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


class ItemState(StrEnum):
    """Whether a scoring rule could read the answer, could not, or there was none.

    An unread answer is scored as the rule says: most take it as wrong, POPE's as a yes, MMMU's as a guess.
    """

    READ = "read"
    UNREAD = "unread"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Item:
    """One scored question: its independent cluster, its correctness, in [0, 1], and whether its answer was read."""

    question_id: str
    cluster: str
    correct: float
    state: ItemState = ItemState.READ


#: What a rule does with questions that have no answer: they are wrong, in no figure, in the total but not in every
#: group, or a reason to refuse.
MissingRule = Literal["wrong", "excluded", "partly excluded", "refused"]


@dataclass(frozen=True, slots=True)
class Score:
    """A benchmark's score of a set of answers.

    `metrics` are in the official tool's own units; `items` has one entry per question; `missing` has the ids of
    questions without an answer, in question order, and `missing_rule` says what became of them.
    """

    benchmark: str
    variant: str
    metrics: Mapping[str, float]
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()
    missing_rule: MissingRule = "wrong"

    @property
    def unread(self) -> tuple[str, ...]:
        """The ids of questions whose answer the rule could not read, in question order."""
        return tuple(item.question_id for item in self.items if item.state is ItemState.UNREAD)

    def summary(self) -> dict[str, Any]:
        """Return the object that `olivine score --json` prints."""
        return {
            "benchmark": self.benchmark,
            "variant": self.variant,
            "metrics": dict(self.metrics),
            "items": len(self.items),
            "missing": list(self.missing),
            "missing_rule": self.missing_rule,
            "unread": list(self.unread),
        }
