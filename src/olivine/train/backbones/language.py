"""Gemma-shaped language models on the world's text: captions, and questions about scenes told in words.

Reading from a description comes before any picture, so that the connector has only to put pictures in its place.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM

from olivine.data.encoding import Example, TemplateEncoder, Tokens
from olivine.data.packing import IGNORED, Row, deal, pack
from olivine.data.template import TEMPLATES, Piece, independent_parts
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
from olivine.world.scene import Scene

_TOKENIZER_SCENES = 3000
_ROW_TOKENS = 4096


_PLACES = {"top", "bottom", "left", "right", "middle"}


@dataclass(frozen=True, slots=True)
class _Level:
    """What scenes tell up to a share of the training, and what is asked of them."""

    until: float
    told: Told = EVERYTHING
    plainly: bool = False
    things: int | None = None
    topics: tuple[str, ...] | None = None

    def asked(self, shown: Scene, draw: Random, count: int) -> list[Asked]:
        """Questions that can be answered from what is told."""
        found = ask(shown, draw, count, self.topics)
        return [asked for asked in found if self.told.place or _PLACES.isdisjoint(re.findall(r"\w+", asked.sentence))]


#: From little of few things to everything: looking up what is meant is learnt as a whole or not at all, and sooner
#: where there is less to search.
_LEVELS = (
    _Level(0.25, Told(size=False, pattern=False, state=False, place=False), True, 3, ("colour", "kind")),
    _Level(0.45, Told(size=False, pattern=False, state=False), False, 3, ("colour", "place", "kind")),
    _Level(1.0),
)


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
    """How long, and on what: per step, scenes told in words with so many questions each, and scenes gone on about."""

    steps: int
    peak: float
    scenes: int = 12
    questions: int = 7
    texts: int = 16


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
        self.trained: nn.Module = self.model
        self.optimizer = adamw(self.model, 0.05)
        image_token = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._encoders = {
            name: TemplateEncoder(TEMPLATES[name], self.tokenizer, image_token_id=image_token, image_tokens=1)
            for name in ("gemma", "plain")
        }

    def step(self, index: int) -> dict[str, float]:
        """Loss at labelled tokens: replies, and captions whole."""
        examples = self._examples(index)
        rows = [pack([examples[i] for i in dealt], ()) for dealt in deal([e.length for e in examples], _ROW_TOKENS)]
        labels = sum(row.labels for row in rows)
        total = 0.0
        with packed(self.model.model):
            for row in rows:
                loss = labelled_loss(self._hidden(row), row.targets, self.model.lm_head)
                (loss / labels).backward()
                total += loss.item()
        return {"loss": total / labels, "labels": labels}

    def _examples(self, index: int) -> list[Example]:
        plan = self._schedule
        draw = Random(f"{self._seed}/language/{index}")
        level = next(level for level in _LEVELS if index < level.until * self.steps)
        examples = []
        for place in range(plan.scenes):
            shown = scene(self._seed, "language", index * plan.scenes + place, things=level.things)
            told = description(shown, draw, level.told, plainly=level.plainly)
            if level.topics is None:
                pairs = instructions(shown, draw, plan.questions)
            else:
                pairs = [(asked.text, asked.answer) for asked in level.asked(shown, draw, plan.questions)]
            examples.append(self.reading(shown.id, told, pairs))
        for place in range(plan.texts):
            shown = scene(self._seed, "texts", index * plan.texts + place, things=level.things)
            examples.append(self._text(shown, draw, level))
        return [example for example in examples if example.labels]

    def _text(self, shown: Scene, draw: Random, level: _Level) -> Example:
        """A scene told, and gone on about: as a picture and its caption follow one another in `plain`.

        Mostly statements, each of which names a thing and then says what was told of it: nothing teaches to look up
        as soon. Else the whole in other words.
        """
        told = description(shown, draw, level.told, plainly=level.plainly)
        if level.topics is not None or draw.random() < 0.6:
            found = level.asked(shown, draw, 8)
            again = " ".join(asked.sentence for asked in found if asked.structural in ("query", "choose"))
        else:
            again = caption(shown, draw, keep=1.0)
        encoder = self._encoders["plain"]
        pieces = encoder.template.render(conversation([("", again)]), False)
        shared, rest = encoder.encode_parts([[pieces[0], Piece(told), Piece("\n")], pieces[1:]])
        tokens = Tokens(shared.ids + rest.ids, shared.supervised + rest.supervised)
        return Example(Sample(shown.id, conversation([(told, again)]), None), (tokens,))

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
