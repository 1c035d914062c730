"""Gemma-shaped language models on the world's text: captions, and questions about scenes told in words.

Reading from a description comes before any picture, so that the connector has only to put pictures in its place. What
is read, in which order, is in `curriculum`; shapes and initial weights in `gemma`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from transformers import GemmaForCausalLM

from olivine.data.encoding import Example
from olivine.data.packing import IGNORED, Row, deal, pack
from olivine.model.attention import packed
from olivine.model.loss import labelled_loss
from olivine.train.backbones.curriculum import Curriculum, Schedule, world_tokenizer
from olivine.train.backbones.gemma import LOOKS_BACK, Size, begin_calmly, begin_looking_back, gemma_config
from olivine.train.backbones.loop import Pretraining, adamw
from olivine.wording import SHORT_ANSWER
from olivine.world.language import description
from olivine.world.questions import ask
from olivine.world.sampling import scene

_ROW_TOKENS = 4096


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
        self.steps, self.peak = schedule.steps, schedule.peak
        self.tokenizer = world_tokenizer(seed, vocabulary)
        torch.manual_seed(seed)
        self.model = GemmaForCausalLM(gemma_config(size, len(self.tokenizer)))
        begin_calmly(self.model)
        begin_looking_back(self.model, LOOKS_BACK)
        self.trained: nn.Module = self.model
        self.optimizer = adamw(self.model, 0.05)
        self.curriculum = Curriculum(self.tokenizer, schedule, seed)

    def step(self, index: int) -> dict[str, float]:
        """Loss at labelled tokens: replies, and captions whole."""
        examples = self.curriculum.examples(index)
        rows = [pack([examples[i] for i in dealt], ()) for dealt in deal([e.length for e in examples], _ROW_TOKENS)]
        labels = sum(row.labels for row in rows)
        total = 0.0
        with packed(self.model.model):
            for row in rows:
                loss = labelled_loss(self._hidden(row), row.targets, self.model.lm_head)
                (loss / labels).backward()
                total += loss.item()
        return {"loss": total / labels, "labels": labels}

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
    def right(self, told: Example) -> list[bool]:
        """Of each answer behind what is told, whether greedy decoding would give it word for word."""
        row = pack([told], ())
        with packed(self.model.model):
            guess = self.model.lm_head(self._hidden(row)).argmax(-1)
        # It does if, fed the answer, every next token is the likeliest one.
        hits = (guess == row.targets) | (row.targets == IGNORED)
        lengths = [len(part) for part in told.parts]
        return [bool(part.all()) for part in hits.split(lengths)[1:]]

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
        for index in range(scenes):
            shown = scene(self._seed, "held-out", index)
            found = ask(shown, draw, 12)
            example = self.curriculum.reading(
                shown.id, description(shown, draw), [(a.text + SHORT_ANSWER, a.answer) for a in found]
            )
            for asked, hit in zip(found, self.right(example), strict=True):
                yield asked.topic, hit
        self.model.train()

    def save(self, folder: Path) -> None:
        """Weights in bf16, the tokenizer beside them."""
        self.model.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
