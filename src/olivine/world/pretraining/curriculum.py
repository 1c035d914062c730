"""The tiny language models' training texts, step by step: lists, few properties of few objects, then every question.

The training itself is in `language`, the world's language in `olivine.world`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any

from olivine.data.encoding import Example, TemplateEncoder, Tokens
from olivine.data.template import TEMPLATES, Piece, PieceKind, independent_segments
from olivine.data.vocabulary import IMAGE_TOKEN, train_tokenizer
from olivine.records import Role, Sample, Turn
from olivine.world.conversations import conversation, described_in_words, instructions
from olivine.world.language import EVERYTHING, Mentions, caption, description
from olivine.world.pretraining.symbolic_patches import PatchWords, Text, symbolic_patch_captions
from olivine.world.pretraining.towers import SHAPE
from olivine.world.question import Question
from olivine.world.questions import ask
from olivine.world.sampling import sample_scene
from olivine.world.scene import BACKDROPS, CLASSES, COLOURS, PATTERNS, SIZES, Scene

_TOKENIZER_SCENES = 3000
_BEGINNING = Piece("<bos>", PieceKind.MARKER)
#: The words that mention a property.
_WORDS_OF = {
    "place": ("top", "bottom", "left", "right", "middle"),
    "size": SIZES,
    "pattern": PATTERNS,
    "colour": COLOURS,
}
_LIST_WORDS = (*CLASSES, *BACKDROPS, *(word for words in _WORDS_OF.values() for word in words))


@dataclass(frozen=True, slots=True)
class _Level:
    """The texts up to a share of the training, and the questions about them.

    Attributes:
        until: the share of the steps at which it ends.
        mentions, plainly: which properties of objects are mentioned, and whether in sentences of one form.
        objects: minimum and maximum per scene; 2 to 5 by default.
        topics: topics of the questions; all by default.
        reading: the share of scenes with questions and answers; the others have statements.
    """

    until: float
    mentions: Mentions = EVERYTHING
    plainly: bool = False
    objects: tuple[int, int] | None = None
    topics: tuple[str, ...] | None = None
    reading: float = 0.0

    def scene(self, seed: int, index: int, rng: Random) -> Scene:
        """Sample a scene with this level's number of objects."""
        return sample_scene(seed, "language", index, objects=rng.randint(*self.objects) if self.objects else None)

    def questions(self, scene: Scene, rng: Random, most: int) -> list[Question]:
        """Draw questions that can be answered from what is mentioned."""
        unmentioned = {word for name, words in _WORDS_OF.items() if not getattr(self.mentions, name) for word in words}
        found = ask(scene, rng, most, self.topics)
        return [question for question in found if unmentioned.isdisjoint(re.findall(r"\w+", question.sentence))]


#: Lists of words up to this share of the training, repeated or with a query for the third word after a given one: they
#: speed up learning to look up where an object is ("ball at the top"). Under AdamW they also sped up its other
#: properties; under Muon those are learnt without (benchmarks/looking_up.py; docs/decisions.md).
_LISTS_UNTIL = 0.03
_LIST_LENGTH = (5, 9)
_BEHIND = 3
_LOOKED_UP = ("colour", "kind", "size", "place", "exist", "pattern", "state", "writing")
#: Then from few properties of few objects to everything: looking up is learnt sooner with less to search. Properties
#: after an object's name, its place and state, are learnt later than those before it, and need levels of their own.
_LEVELS = (
    _Level(0.05, Mentions(size=False, pattern=False, state=False, place=False), True, (2, 2), ("colour", "kind")),
    _Level(0.075, Mentions(size=False, pattern=False, state=False), True, (2, 2), ("place", "kind"), 0.5),
    _Level(0.10, Mentions(size=False, pattern=False, place=False), True, (2, 2), ("state", "writing", "colour"), 0.5),
    _Level(0.12, Mentions(pattern=False, state=False), True, (2, 3), ("colour", "kind", "size", "place", "exist"), 0.7),
    _Level(0.16, EVERYTHING, True, (2, 4), _LOOKED_UP, 0.8),
    _Level(1.0, reading=0.8),
)
#: The share of examples from an earlier level, so that what was learnt is not forgotten.
_AGAIN = 0.2
#: From this share of the training on, most scenes are symbolic patch captions: a model that finds objects in sentences
#: learns to find them in a grid of words in a few hundred steps; one trained on sentences alone would have to learn it
#: from images. One in five of these has a caption as its answer, as in LLaVA's first stage.
_PATCHES_FROM, _PATCHES, _CAPTIONS = 0.12, 0.6, 0.2
#: Half of the questions on patches are about the topics that are learnt last.
_HARDER = ("relation", "count", "state", "total", "compare", "writing", "place", "pattern")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length of the training, tokens per step (about), and questions per scene.

    Attributes:
        lists: what is trained on lists: 1 for repeating them, 3 for the third word after a given one; () for no lists.
        before: steps of the smaller model that this one is expanded from, which these steps follow.
        unplaced: for this many last steps, patches do not mention where objects are.
        restarted: the peak of the warm restart where these begin; 0 for no restart.
    """

    steps: int
    peak: float
    tokens: int = 2400
    questions: int = 10
    lists: tuple[int, ...] = (1, _BEHIND)
    before: int = 0
    unplaced: int = 0
    restarted: float = 0.0


class Curriculum:
    """The examples of every step.

    Args:
        tokenizer: in Gemma's layout.
        schedule: the number of steps, and what a step holds.
        seed: the world's seed; with a step's index it determines its examples.
    """

    def __init__(self, tokenizer: Any, schedule: Schedule, seed: int) -> None:
        self._schedule, self._seed = schedule, seed
        self._tokenizer = tokenizer
        self.image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.encoders = {
            name: TemplateEncoder(
                TEMPLATES[name], tokenizer, image_token_id=self.image_token, image_tokens=SHAPE.grid**2
            )
            for name in ("gemma", "plain")
        }

    def texts(self, index: int) -> list[Text]:
        """Return the texts of step `index`."""
        plan = self._schedule
        placed = index < plan.steps - plan.unplaced
        index, steps = index + plan.before, plan.steps + plan.before
        rng = Random(f"{self._seed}/language/{index}")
        reached = next(number for number, level in enumerate(_LEVELS) if index < level.until * steps)
        texts: list[Text] = []
        for number in count(index * plan.tokens):
            if sum(text.example.length for text in texts) >= plan.tokens:
                break
            if index >= _PATCHES_FROM * steps and rng.random() < _PATCHES:
                texts.append(self._on_patches(number, rng, placed=placed))
                continue
            # Lists are level -1.
            lowest = -1 if plan.lists else 0
            level = lowest if index < _LISTS_UNTIL * steps else reached
            if lowest < level == reached and rng.random() < _AGAIN:
                level = rng.randrange(lowest, reached)
            text = self._listed(number, rng) if level < 0 else self._described(_LEVELS[level], number, rng)
            if text.example.labels:
                texts.append(text)
        return texts

    def _on_patches(self, number: int, rng: Random, *, placed: bool) -> Text:
        scene = sample_scene(self._seed, "language", number)
        patch_words = symbolic_patch_captions(scene, self._tokenizer, rng, places=placed)
        if rng.random() < _CAPTIONS:
            said = conversation([("", caption(scene, rng, keep=1.0))])
            encoded = self.encoders["plain"].conversation(said, image=True)
            return Text(Example(Sample(scene.id, said), (encoded,)), patch_words)
        count = self._schedule.questions
        harder = instructions(scene, rng, count // 2, _HARDER)
        return self._questions_on(scene.id, instructions(scene, rng, count - count // 2) + harder, patch_words)

    def questions_on_patches(self, scene: Scene, pairs: Sequence[tuple[str, str]], rng: Random) -> Text:
        """Return independent questions on symbolic patch captions as at the end of the training, with every word."""
        placed = not self._schedule.unplaced
        patch_words = symbolic_patch_captions(scene, self._tokenizer, rng, places=placed, kept=1.0)
        return self._questions_on(scene.id, pairs, patch_words)

    def _questions_on(self, name: str, pairs: Sequence[tuple[str, str]], patch_words: PatchWords) -> Text:
        turns = conversation(pairs)
        parts = independent_segments(self.encoders["gemma"].template, turns, image=True)
        return Text(Example(Sample(name, turns), self.encoders["gemma"].encode_segments(parts)), patch_words)

    def _listed(self, number: int, rng: Random) -> Text:
        words = rng.sample(_LIST_WORDS, rng.randint(*_LIST_LENGTH))
        kinds = self._schedule.lists
        if 1 in kinds and (_BEHIND not in kinds or rng.random() < 0.4):
            spans = [(words[0], "".join(f" {word}" for word in words[1:]))]
        else:
            positions = rng.sample(range(len(words) - _BEHIND), len(words) - _BEHIND)
            spans = [(f" the {words[position]}", f" {words[position + _BEHIND]}") for position in positions]
        return self._continued(f"list-{number}", " ".join(words), spans)

    def _described(self, level: _Level, number: int, rng: Random) -> Text:
        scene = level.scene(self._seed, number, rng)
        return (self._with_questions if rng.random() < level.reading else self._stated)(scene, rng, level)

    def _with_questions(self, scene: Scene, rng: Random, level: _Level) -> Text:
        text = description(scene, rng, level.mentions, plainly=level.plainly)
        if level.topics is None:
            pairs = instructions(scene, rng, self._schedule.questions)
        else:
            found = level.questions(scene, rng, self._schedule.questions)
            pairs = [(question.text, question.answer) for question in found]
        return self.reading(scene.id, text, pairs)

    def _stated(self, scene: Scene, rng: Random, level: _Level) -> Text:
        """Return statements, each of which names an object and repeats a property; sometimes a paraphrase of all."""
        text = description(scene, rng, level.mentions, plainly=level.plainly)
        if level.topics is None and rng.random() < 0.4:
            return self._continued(scene.id, text, [("", caption(scene, rng, keep=1.0))])
        spans: dict[tuple[str, str], str] = {}
        for question in level.questions(scene, rng, 8):
            before, answer, after = question.sentence.rpartition(" " + question.answer)
            # The object of the next statement cannot be predicted; its property can.
            if question.structural in ("query", "choose") and answer:
                spans[before, answer] = after + " "
        return self._continued(scene.id, text, [part for said, after in spans.items() for part in (said, (after, ""))])

    def _continued(self, name: str, text: str, spans: Sequence[tuple[str, str]]) -> Text:
        """Return a text continued by given and supervised spans, as a caption follows an image in `plain`."""
        encoder = self.encoders["plain"]
        again = [piece for given, target in spans for piece in (Piece(given), Piece(target, supervised=True))]
        shared, rest = encoder.encode_segments([[_BEGINNING, Piece(text), Piece("\n")], again])
        tokens = Tokens(shared.ids + rest.ids, shared.supervised + rest.supervised)
        return Text(Example(Sample(name, ()), (tokens,)))

    def statements_on(self, name: str, text: str, statements: Sequence[tuple[str, str]]) -> Text:
        """Return a description and statements (given, target) that share it and do not attend to each other."""
        parts = [[Piece(given), Piece(target, supervised=True)] for given, target in statements]
        encoded = self.encoders["plain"].encode_segments([[_BEGINNING, Piece(text), Piece("\n")], *parts])
        return Text(Example(Sample(name, ()), encoded))

    def reading(self, name: str, text: str, pairs: Sequence[tuple[str, str]]) -> Text:
        """Return a description that independent questions share, as images are shared."""
        encoder = self.encoders["gemma"]
        # As with an image: the shared part comes first in the user's turn, on its own line.
        shared = [*encoder.template.render((Turn(Role.USER, ""),), False)[:3], Piece(text)]
        parts: list[list[Piece]] = [shared]
        for pair in pairs:
            pieces = independent_segments(encoder.template, conversation([pair]), False)[1]
            parts.append([Piece("\n"), *pieces[2:]])
        return Text(Example(Sample(name, conversation(pairs)), encoder.encode_segments(parts)))


@lru_cache
def world_tokenizer(seed: int, vocabulary: int) -> Any:
    """Train a tokenizer in Gemma's layout on the world's language."""
    return train_tokenizer(_texts(seed), vocabulary)


def _texts(seed: int) -> Iterator[str]:
    rng = Random(f"{seed}/tokenizer")
    for index in range(_TOKENIZER_SCENES):
        scene = sample_scene(seed, "tokenizer", index)
        described = described_in_words(scene, rng, 10)
        yield from (described.description, caption(scene, rng))
        for pair in described.pairs:
            yield from pair
