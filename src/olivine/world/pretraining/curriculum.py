"""What the tiny language models read, step by step: lists, little told of few objects, then everything there is to ask.

How a model learns from it is in `language`, what the world's language is in `olivine.world`.
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
#: The words that tell a property.
_WORDS_OF = {
    "place": ("top", "bottom", "left", "right", "middle"),
    "size": SIZES,
    "pattern": PATTERNS,
    "colour": COLOURS,
}
_LIST_WORDS = (*CLASSES, *BACKDROPS, *(word for words in _WORDS_OF.values() for word in words))


@dataclass(frozen=True, slots=True)
class _Level:
    """What texts are of up to a share of the training, and what is asked of them.

    Attributes:
        until: the share of the steps at which it ends.
        told, plainly: which properties of objects are told, and whether in sentences of one form.
        objects: how many a scene has, at least and at most; 2 to 5 by default.
        topics: what is asked about; everything by default.
        reading: the share of scenes with questions and answers; of the others, statements are made.
    """

    until: float
    told: Mentions = EVERYTHING
    plainly: bool = False
    objects: tuple[int, int] | None = None
    topics: tuple[str, ...] | None = None
    reading: float = 0.0

    def scene(self, seed: int, index: int, rng: Random) -> Scene:
        """A scene of this many objects."""
        return sample_scene(seed, "language", index, objects=rng.randint(*self.objects) if self.objects else None)

    def asked(self, scene: Scene, rng: Random, most: int) -> list[Question]:
        """Questions that can be answered from what is told."""
        aliased = {word for name, words in _WORDS_OF.items() if not getattr(self.told, name) for word in words}
        found = ask(scene, rng, most, self.topics)
        return [asked for asked in found if aliased.isdisjoint(re.findall(r"\w+", asked.sentence))]


#: Lists of words up to this share of the training, said twice or asked for what stands third after a word: where a
#: object is ("ball at the top") is looked up sooner with them than without. Under AdamW what it is like was, too; under
#: Muon it is learnt without (benchmarks/looking_up.py; docs/decisions.md).
_LISTS_UNTIL = 0.03
_LIST_LENGTH = (5, 9)
_BEHIND = 3
_LOOKED_UP = ("colour", "kind", "size", "place", "exist", "pattern", "state", "writing")
#: Then from little told of few objects to everything: looking up is learnt sooner where there is less to search. What is
#: told behind an object's name, its place and state, is learnt later than what is told before it, and not in passing.
_LEVELS = (
    _Level(0.05, Mentions(size=False, pattern=False, state=False, place=False), True, (2, 2), ("colour", "kind")),
    _Level(0.075, Mentions(size=False, pattern=False, state=False), True, (2, 2), ("place", "kind"), 0.5),
    _Level(0.10, Mentions(size=False, pattern=False, place=False), True, (2, 2), ("state", "writing", "colour"), 0.5),
    _Level(0.12, Mentions(pattern=False, state=False), True, (2, 3), ("colour", "kind", "size", "place", "exist"), 0.7),
    _Level(0.16, EVERYTHING, True, (2, 4), _LOOKED_UP, 0.8),
    _Level(1.0, reading=0.8),
)
#: The share of examples that are of an earlier level, so that what was learnt is not overwritten.
_AGAIN = 0.2
#: From this share of the training on, most scenes are told cell by cell: a model that finds objects in sentences learns
#: to find them in a grid of words in a few hundred steps, and one that read sentences alone has it all before it when
#: the first image comes. Of the last ones one in five has a caption for its answer, as in LLaVA's first stage.
_CELLS_FROM, _CELLS, _CAPTIONS = 0.12, 0.6, 0.2
#: Half of what is asked of cells is about what is learnt last.
_HARDER = ("relation", "count", "state", "total", "compare", "writing", "place", "pattern")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, and on how much: about this many tokens a step, and of a scene this many questions.

    Attributes:
        lists: what is to be known of lists: at 1 how they go on, at 3 what stands third after a word; () for no lists.
        before: how many steps the smaller model learnt that this one is grown from: these are the next ones.
        unplaced: for the last this many steps cells do not tell where objects are.
        restarted: what the rate rises to anew where these begin; 0 if it resumes as it was.
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
        schedule: over how many steps the levels are spread, and how much a step holds.
        seed: of the world; with a step's index it decides its examples.
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
        """What step `index` is trained on."""
        plan = self._schedule
        placed = index < plan.steps - plan.unplaced
        index, steps = index + plan.before, plan.steps + plan.before
        rng = Random(f"{self._seed}/language/{index}")
        reached = next(place for place, level in enumerate(_LEVELS) if index < level.until * steps)
        texts: list[Text] = []
        for number in count(index * plan.tokens):
            if sum(text.example.length for text in texts) >= plan.tokens:
                break
            if index >= _CELLS_FROM * steps and rng.random() < _CELLS:
                texts.append(self._in_cells(number, rng, placed=placed))
                continue
            # Lists are the level before the first.
            lowest = -1 if plan.lists else 0
            level = lowest if index < _LISTS_UNTIL * steps else reached
            if lowest < level == reached and rng.random() < _AGAIN:
                level = rng.randrange(lowest, reached)
            text = self._listed(number, rng) if level < 0 else self._told(_LEVELS[level], number, rng)
            if text.example.labels:
                texts.append(text)
        return texts

    def _in_cells(self, number: int, rng: Random, *, placed: bool) -> Text:
        scene = sample_scene(self._seed, "language", number)
        cells = symbolic_patch_captions(scene, self._tokenizer, rng, places=placed)
        if rng.random() < _CAPTIONS:
            said = conversation([("", caption(scene, rng, keep=1.0))])
            encoded = self.encoders["plain"].conversation(said, image=True)
            return Text(Example(Sample(scene.id, said), (encoded,)), cells)
        count = self._schedule.questions
        harder = instructions(scene, rng, count // 2, _HARDER)
        return self._asked_of_cells(scene.id, instructions(scene, rng, count - count // 2) + harder, cells)

    def asked_of_cells(self, scene: Scene, pairs: Sequence[tuple[str, str]], rng: Random) -> Text:
        """Independent questions about a scene told cell by cell as at the end of the training, no word left out."""
        placed = not self._schedule.unplaced
        cells = symbolic_patch_captions(scene, self._tokenizer, rng, places=placed, kept=1.0)
        return self._asked_of_cells(scene.id, pairs, cells)

    def _asked_of_cells(self, name: str, pairs: Sequence[tuple[str, str]], cells: PatchWords) -> Text:
        turns = conversation(pairs)
        parts = independent_segments(self.encoders["gemma"].template, turns, image=True)
        return Text(Example(Sample(name, turns), self.encoders["gemma"].encode_segments(parts)), cells)

    def _listed(self, number: int, rng: Random) -> Text:
        words = rng.sample(_LIST_WORDS, rng.randint(*_LIST_LENGTH))
        asked_for = self._schedule.lists
        if 1 in asked_for and (_BEHIND not in asked_for or rng.random() < 0.4):
            spans = [(words[0], "".join(f" {word}" for word in words[1:]))]
        else:
            asked = rng.sample(range(len(words) - _BEHIND), len(words) - _BEHIND)
            spans = [(f" the {words[place]}", f" {words[place + _BEHIND]}") for place in asked]
        return self._going_on(f"list-{number}", " ".join(words), spans)

    def _told(self, level: _Level, number: int, rng: Random) -> Text:
        scene = level.scene(self._seed, number, rng)
        return (self._asked if rng.random() < level.reading else self._stated)(scene, rng, level)

    def _asked(self, scene: Scene, rng: Random, level: _Level) -> Text:
        told = description(scene, rng, level.told, plainly=level.plainly)
        if level.topics is None:
            pairs = instructions(scene, rng, self._schedule.questions)
        else:
            pairs = [(asked.text, asked.answer) for asked in level.asked(scene, rng, self._schedule.questions)]
        return self.reading(scene.id, told, pairs)

    def _stated(self, scene: Scene, rng: Random, level: _Level) -> Text:
        """Mostly statements, each of which names an object and says what was told of it; else all in other words."""
        told = description(scene, rng, level.told, plainly=level.plainly)
        if level.topics is None and rng.random() < 0.4:
            return self._going_on(scene.id, told, [("", caption(scene, rng, keep=1.0))])
        spans: dict[tuple[str, str], str] = {}
        for asked in level.asked(scene, rng, 8):
            before, answer, after = asked.sentence.rpartition(" " + asked.answer)
            # What will be spoken of cannot be known; what is said of it can.
            if asked.structural in ("query", "choose") and answer:
                spans[before, answer] = after + " "
        return self._going_on(scene.id, told, [part for said, after in spans.items() for part in (said, (after, ""))])

    def _going_on(self, name: str, told: str, spans: Sequence[tuple[str, str]]) -> Text:
        """A text and how it resumes, given and learnt by turns: as caption follows image in `plain`."""
        encoder = self.encoders["plain"]
        again = [piece for given, learnt in spans for piece in (Piece(given), Piece(learnt, supervised=True))]
        shared, rest = encoder.encode_segments([[_BEGINNING, Piece(told), Piece("\n")], again])
        tokens = Tokens(shared.ids + rest.ids, shared.supervised + rest.supervised)
        return Text(Example(Sample(name, ()), (tokens,)))

    def said_again(self, name: str, told: str, statements: Sequence[tuple[str, str]]) -> Text:
        """A description and statements (given, to be known) that share it and do not see each other."""
        parts = [[Piece(given), Piece(known, supervised=True)] for given, known in statements]
        encoded = self.encoders["plain"].encode_segments([[_BEGINNING, Piece(told), Piece("\n")], *parts])
        return Text(Example(Sample(name, ()), encoded))

    def reading(self, name: str, told: str, pairs: Sequence[tuple[str, str]]) -> Text:
        """A description that independent questions share, as images are shared."""
        encoder = self.encoders["gemma"]
        # As with an image: what is shared comes first in the user's turn, on a line of its own.
        shared = [*encoder.template.render((Turn(Role.USER, ""),), False)[:3], Piece(told)]
        parts: list[list[Piece]] = [shared]
        for pair in pairs:
            pieces = independent_segments(encoder.template, conversation([pair]), False)[1]
            parts.append([Piece("\n"), *pieces[2:]])
        return Text(Example(Sample(name, conversation(pairs)), encoder.encode_segments(parts)))


@lru_cache
def world_tokenizer(seed: int, vocabulary: int) -> Any:
    """A tokenizer in Gemma's layout, trained on the world's language."""
    return train_tokenizer(_texts(seed), vocabulary)


def _texts(seed: int) -> Iterator[str]:
    rng = Random(f"{seed}/tokenizer")
    for index in range(_TOKENIZER_SCENES):
        scene = sample_scene(seed, "tokenizer", index)
        told = described_in_words(scene, rng, 10)
        yield from (told.description, caption(scene, rng))
        for asked, reply in told.pairs:
            yield from (asked, reply)
