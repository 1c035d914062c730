"""Gemma-shaped language models on the world's text: captions, and questions about scenes told in words.

Reading from a description comes before any picture, so that the connector has only to put pictures in its place.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM

from olivine.data.encoding import Example, TemplateEncoder, Tokens
from olivine.data.packing import IGNORED, Row, deal, pack
from olivine.data.template import TEMPLATES, Piece, PieceKind, independent_parts
from olivine.data.vocabulary import IMAGE_TOKEN, train_tokenizer
from olivine.model.attention import packed
from olivine.model.loss import labelled_loss
from olivine.records import Role, Sample, Turn
from olivine.train.backbones.loop import Pretraining, adamw
from olivine.wording import SHORT_ANSWER
from olivine.world.asked import Asked
from olivine.world.conversations import conversation, instructions, told_in_words
from olivine.world.language import EVERYTHING, Told, caption, description
from olivine.world.questions import ask
from olivine.world.sampling import scene
from olivine.world.scene import COLOURS, KINDS, PATTERNS, SETTINGS, Scene
from olivine.world.scene import SIZES as SIZES_OF_THINGS

_TOKENIZER_SCENES = 3000
_ROW_TOKENS = 4096
#: The words that tell a property.
_WORDS_OF = {
    "place": ("top", "bottom", "left", "right", "middle"),
    "size": SIZES_OF_THINGS,
    "pattern": PATTERNS,
    "colour": COLOURS,
}
_LIST_WORDS = (*KINDS, *SETTINGS, *(word for words in _WORDS_OF.values() for word in words))


@dataclass(frozen=True, slots=True)
class _Level:
    """What texts are of up to a share of the training, and what is asked of them.

    Attributes:
        until: the share of the steps at which it ends.
        told, plainly: which properties of things are told, and whether in sentences of one form.
        things: how many a scene has, at least and at most; 2 to 5 by default.
        topics: what is asked about; everything by default.
        reading: the share of scenes with questions and answers; of the others, statements are made.
    """

    until: float
    told: Told = EVERYTHING
    plainly: bool = False
    things: tuple[int, int] | None = None
    topics: tuple[str, ...] | None = None
    reading: float = 0.0

    def scene(self, seed: int, index: int, draw: Random) -> Scene:
        """A scene of so many things."""
        return scene(seed, "language", index, things=draw.randint(*self.things) if self.things else None)

    def asked(self, shown: Scene, draw: Random, most: int) -> list[Asked]:
        """Questions that can be answered from what is told."""
        untold = {word for name, words in _WORDS_OF.items() if not getattr(self.told, name) for word in words}
        found = ask(shown, draw, most, self.topics)
        return [asked for asked in found if untold.isdisjoint(re.findall(r"\w+", asked.sentence))]


_BEGINNING = Piece("<bos>", PieceKind.MARKER)
#: The first layer's heads that begin by looking back, by how far.
_LOOKS_BACK = (1, 2)
#: The first coordinate that all tokens begin with, in standard deviations of the others; by how much the place looked
#: back to leads others before the softmax; how many of a head's pairs, the fastest-turning ones, say so; what is
#: left of the same heads' random weights.
_IN_COMMON, _SCORE, _TURNING, _CONTENT = 3.0, 26.0, 6, 0.1
#: Lists of words, said twice, up to this share of the training: it is how looking back for what followed a word is
#: learnt, in a few hundred steps. Without it, what a thing is like is still guessed from all that is told after ten
#: times as many (docs/world.md).
_LISTS_UNTIL = 0.05
_LIST_LENGTH = (3, 8)
_LOOKED_UP = ("colour", "kind", "size", "place", "exist", "pattern", "state", "writing")
#: Then from little told of few things to everything: looking up is learnt sooner where there is less to search.
_LEVELS = (
    _Level(0.15, Told(size=False, pattern=False, state=False, place=False), True, (2, 2), ("colour", "kind")),
    _Level(0.22, Told(pattern=False, state=False, place=False), True, (2, 3), ("colour", "kind", "size"), 0.6),
    _Level(0.32, Told(pattern=False, state=False), True, (2, 3), ("colour", "kind", "size", "place", "exist"), 0.7),
    _Level(0.45, EVERYTHING, True, (2, 4), _LOOKED_UP, 0.8),
    _Level(1.0, reading=0.8),
)
#: The share of scenes that are of an earlier level, so that what was learnt is not overwritten.
_AGAIN = 0.2


@dataclass(frozen=True, slots=True)
class Size:
    """A language model's shape."""

    hidden: int
    layers: int
    intermediate: int
    heads: int


SIZES = {"small": Size(128, 4, 448, 4), "large": Size(160, 6, 640, 5)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, and on how much: about so many tokens a step, and of a scene so many questions."""

    steps: int
    peak: float
    tokens: int = 2400
    questions: int = 8


class LanguagePretraining(Pretraining):
    """A Gemma of a given size and vocabulary from random weights.

    Args:
        size: its shape.
        vocabulary: ids of its tokenizer, which is trained here on the same language.
        schedule: how long.
        seed: of the world and of the weights.
    """

    def __init__(self, size: Size, vocabulary: int, schedule: Schedule, seed: int) -> None:
        self._seed = seed
        self._schedule = schedule
        self.steps, self.peak = schedule.steps, schedule.peak
        self.tokenizer = world_tokenizer(seed, vocabulary)
        torch.manual_seed(seed)
        self.model = GemmaForCausalLM(gemma_config(size, len(self.tokenizer)))
        begin_calmly(self.model)
        begin_looking_back(self.model, _LOOKS_BACK)
        self.trained: nn.Module = self.model
        self.optimizer = adamw(self.model, 0.05)
        image_token = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._encoders = {
            name: TemplateEncoder(TEMPLATES[name], self.tokenizer, image_token_id=image_token, image_tokens=1)
            for name in ("gemma", "plain")
        }

    def step(self, index: int) -> dict[str, float]:
        """Loss at labelled tokens: replies, and captions whole."""
        examples = self.examples(index)
        rows = [pack([examples[i] for i in dealt], ()) for dealt in deal([e.length for e in examples], _ROW_TOKENS)]
        labels = sum(row.labels for row in rows)
        total = 0.0
        with packed(self.model.model):
            for row in rows:
                loss = labelled_loss(self._hidden(row), row.targets, self.model.lm_head)
                (loss / labels).backward()
                total += loss.item()
        return {"loss": total / labels, "labels": labels}

    def examples(self, index: int) -> list[Example]:
        """What step `index` is trained on."""
        plan = self._schedule
        draw = Random(f"{self._seed}/language/{index}")
        reached = next(place for place, level in enumerate(_LEVELS) if index < level.until * self.steps)
        examples: list[Example] = []
        for number in count(index * plan.tokens):
            if sum(example.length for example in examples) >= plan.tokens:
                break
            if index < _LISTS_UNTIL * self.steps:
                words = draw.sample(_LIST_WORDS, draw.randint(*_LIST_LENGTH))
                spans = [(words[0], "".join(f" {word}" for word in words[1:]))]
                example = self._going_on(f"list-{number}", " ".join(words), spans)
            else:
                again = reached > 0 and draw.random() < _AGAIN
                level = _LEVELS[draw.randrange(reached) if again else reached]
                shown = level.scene(self._seed, number, draw)
                example = (self._asked if draw.random() < level.reading else self._stated)(shown, draw, level)
            if example.labels:
                examples.append(example)
        return examples

    def _asked(self, shown: Scene, draw: Random, level: _Level) -> Example:
        told = description(shown, draw, level.told, plainly=level.plainly)
        if level.topics is None:
            pairs = instructions(shown, draw, self._schedule.questions)
        else:
            pairs = [(asked.text, asked.answer) for asked in level.asked(shown, draw, self._schedule.questions)]
        return self.reading(shown.id, told, pairs)

    def _stated(self, shown: Scene, draw: Random, level: _Level) -> Example:
        """Mostly statements, each of which names a thing and says what was told of it; else all in other words."""
        told = description(shown, draw, level.told, plainly=level.plainly)
        if level.topics is None and draw.random() < 0.4:
            return self._going_on(shown.id, told, [("", caption(shown, draw, keep=1.0))])
        spans: dict[tuple[str, str], str] = {}
        for asked in level.asked(shown, draw, 8):
            before, answer, after = asked.sentence.rpartition(" " + asked.answer)
            # What will be spoken of cannot be known; what is said of it can.
            if asked.structural in ("query", "choose") and answer:
                spans[before, answer] = after + " "
        return self._going_on(shown.id, told, [part for said, after in spans.items() for part in (said, (after, ""))])

    def _going_on(self, name: str, told: str, spans: Sequence[tuple[str, str]]) -> Example:
        """A text and how it goes on, given and learnt by turns: as caption follows picture in `plain`."""
        encoder = self._encoders["plain"]
        again = [piece for given, learnt in spans for piece in (Piece(given), Piece(learnt, supervised=True))]
        shared, rest = encoder.encode_parts([[_BEGINNING, Piece(told), Piece("\n")], again])
        tokens = Tokens(shared.ids + rest.ids, shared.supervised + rest.supervised)
        return Example(Sample(name, (), None), (tokens,))

    def reading(self, name: str, told: str, pairs: Sequence[tuple[str, str]]) -> Example:
        """A description that independent questions share, as pictures are shared."""
        encoder = self._encoders["gemma"]
        # As with a picture: what is shared comes first in the user's turn, on a line of its own.
        shared = [*encoder.template.render((Turn(Role.USER, ""),), False)[:3], Piece(told)]
        parts: list[list[Piece]] = [shared]
        for pair in pairs:
            pieces = independent_parts(encoder.template, conversation([pair]), False)[1]
            parts.append([Piece("\n"), *pieces[2:]])
        return Example(Sample(name, conversation(pairs), None), encoder.encode_parts(parts))

    def _hidden(self, row: Row) -> torch.Tensor:
        states: torch.Tensor = self.model.model(
            input_ids=row.ids[None],
            position_ids=row.positions[None],
            attention_mask=None,
            use_cache=False,
            packed_groups=row.groups,
        ).last_hidden_state
        return states[0]

    @torch.no_grad()
    def share_right(self, examples: Sequence[Example]) -> float:
        """The share of the labelled tokens that the model, fed those before, finds the likeliest."""
        right, labels = 0, 0
        with packed(self.model.model):
            for example in examples:
                row = pack([example], ())
                labelled = row.targets != IGNORED
                guess = self.model.lm_head(self._hidden(row)[labelled]).argmax(-1)
                right += int((guess == row.targets[labelled]).sum())
                labels += int(labelled.sum())
        return right / labels

    @torch.no_grad()
    def figures(self, scenes: int = 200) -> dict[str, Any]:
        """Share of short answers about described held-out scenes that greedy decoding would give word for word."""
        right: Counter[str] = Counter()
        asked_of: Counter[str] = Counter()
        for topic, hit in self._answered(scenes):
            asked_of[topic] += 1
            right[topic] += hit
        total = sum(asked_of.values())
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "vocabulary": len(self.tokenizer),
            "questions": total,
            "accuracy": round(100 * sum(right.values()) / total, 2),
            "by_topic": {topic: round(100 * right[topic] / count, 1) for topic, count in sorted(asked_of.items())},
        }

    def _answered(self, scenes: int) -> Iterator[tuple[str, bool]]:
        draw = Random(f"{self._seed}/held-out questions")
        self.model.eval()
        with packed(self.model.model):
            for index in range(scenes):
                shown = scene(self._seed, "held-out", index)
                found = ask(shown, draw, 12)
                example = self.reading(
                    shown.id, description(shown, draw), [(a.text + SHORT_ANSWER, a.answer) for a in found]
                )
                row = pack([example], ())
                guess = self.model.lm_head(self._hidden(row)).argmax(-1)
                # Greedy decoding gives the answer if, fed the answer, every next token is the likeliest one.
                start = len(example.parts[0])
                for asked, part in zip(found, example.parts[1:], strict=True):
                    place = slice(start, start + len(part))
                    start += len(part)
                    target = row.targets[place]
                    labelled = target != IGNORED
                    yield asked.topic, bool((guess[place][labelled] == target[labelled]).all())
        self.model.train()

    def save(self, folder: Path) -> None:
        """Weights in bf16, the tokenizer beside them."""
        self.model.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def gemma_config(size: Size, vocabulary: int) -> GemmaConfig:
    """Gemma's architecture at a tiny size, with as many key-value heads as heads, as Gemma-7B has."""
    return GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=32,
        max_position_embeddings=4096,
        # transformers' 0.02 suits widths of thousands: at this one queries and keys would begin all but equal.
        initializer_range=size.hidden**-0.5,
    )


@torch.no_grad()
def begin_calmly(model: GemmaForCausalLM) -> None:
    """GPT-2's initialisation of what layers add to the residual stream: smaller, the more of them add to it."""
    config = model.config
    share = (2 * config.num_hidden_layers) ** -0.5
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= share
        layer.mlp.down_proj.weight *= share * (config.hidden_size / config.intermediate_size) ** 0.5


@torch.no_grad()
def begin_looking_back(model: GemmaForCausalLM, distances: Sequence[int]) -> None:
    """Let the first heads of the first layer attend, at first, to the token so many places before: one head each.

    Who learns to look back for "the ball" must first have found out, in each token, what stands before it; at this
    size that takes longer than all the rest, and seldom happens at all in minutes. After the smeared keys of
    arXiv:2209.11895, as an initialisation: every token begins with the same first coordinate, these heads' queries
    and keys with one vector in answer to it, the query's turned back by so many of the rotary embedding's steps.
    """
    config = model.config
    embedded = model.model.embed_tokens.weight
    first = _IN_COMMON * config.hidden_size**-0.5
    embedded[:, 0] = first
    # What is left of it after the first norm, whose output has a mean square of one.
    seen = first / float(embedded.square().mean(-1).sqrt().mean())
    half = config.head_dim // 2
    theta = config.rope_parameters["rope_theta"]
    turns = theta ** (-torch.arange(_TURNING) / half)
    strength = (_SCORE * config.head_dim**0.5 / _TURNING) ** 0.5 / seen
    attention = model.model.layers[0].self_attn
    for head, distance in enumerate(distances):
        rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
        for matrix, angles in ((attention.q_proj.weight, -distance * turns), (attention.k_proj.weight, 0 * turns)):
            matrix[rows] *= _CONTENT
            start = head * config.head_dim
            matrix[start : start + _TURNING, 0] = strength * angles.cos()
            matrix[start + half : start + half + _TURNING, 0] = strength * angles.sin()


@lru_cache
def world_tokenizer(seed: int, vocabulary: int) -> Any:
    """A tokenizer in Gemma's layout, trained on the world's language."""
    return train_tokenizer(_texts(seed), vocabulary)


def _texts(seed: int) -> Iterator[str]:
    draw = Random(f"{seed}/tokenizer")
    for index in range(_TOKENIZER_SCENES):
        shown = scene(seed, "tokenizer", index)
        told = told_in_words(shown, draw, 10)
        yield from (told.description, caption(shown, draw))
        for asked, reply in told.pairs:
            yield from (asked, reply)
