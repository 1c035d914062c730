"""Gemma-shaped language models on the world's text: captions, and questions about described scenes.

Reading a description is learnt before any image, so that the connector only has to put images in its place. The texts
and their order are in `curriculum`, patch captions in `symbolic_patches`, shapes and initial weights in `gemma`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from transformers import GemmaForCausalLM

from olivine.data.packing import IGNORED, PackedSequence, balance, pack
from olivine.files import sha256_of_file
from olivine.model.attention import packed
from olivine.model.configuration import folder_config
from olivine.model.loss import labelled_loss
from olivine.model.tokenizers import folder_tokenizer
from olivine.model.weights import language_naming, load_weights
from olivine.random_state import RandomState
from olivine.wording import SHORT_ANSWER
from olivine.world.language import description
from olivine.world.pretraining.curriculum import Curriculum, Schedule, world_tokenizer
from olivine.world.pretraining.gemma import LOOKS_BACK, Size, begin_looking_back, expanded, gemma_config, scaled_init
from olivine.world.pretraining.loop import Pretraining, muon
from olivine.world.pretraining.symbolic_patches import Text, embedded
from olivine.world.questions import ask
from olivine.world.sampling import sample_scene

_SEQUENCE_TOKENS = 4096


class LanguagePretraining(Pretraining):
    """A Gemma of a given size and vocabulary, from random weights or expanded from a smaller one.

    Args:
        size: its shape.
        vocabulary: size of its tokenizer, which is trained here on the same language; ignored if `smaller` is given.
        schedule: length of the training.
        seed: seed of the world and of the weights.
        smaller: the folder of the model to expand, whose tokenizer it keeps.
    """

    def __init__(
        self, size: Size, vocabulary: int, schedule: Schedule, seed: int, *, smaller: Path | None = None
    ) -> None:
        self._seed = seed
        self.steps, self.peak = schedule.steps, schedule.peak
        if schedule.restarted:
            self.restart = (schedule.steps - schedule.unplaced, schedule.restarted)
        self.tokenizer = folder_tokenizer(smaller, "smaller") if smaller else world_tokenizer(seed, vocabulary)
        with RandomState(seed).active():
            self.model = self._first_model(size, smaller)
        self.trained: nn.Module = self.model
        # Fewer steps than with AdamW alone (docs/decisions.md).
        self.optimizers = muon(self.model, (self.model,), 0.05)
        self.curriculum = Curriculum(self.tokenizer, schedule, seed)

    def _first_model(self, size: Size, smaller: Path | None) -> Any:
        if smaller is None:
            model = GemmaForCausalLM(gemma_config(size, len(self.tokenizer)))
            scaled_init(model)
            begin_looking_back(model, LOOKS_BACK)
            return model
        self.origin = sha256_of_file(smaller / "model.safetensors")
        config = folder_config(smaller, "smaller")
        naming = language_naming(config)
        origin = load_weights(GemmaForCausalLM, smaller, config, naming, key="smaller", dtype=torch.float32)
        return expanded(origin, size)

    def step(self, index: int) -> dict[str, float]:
        """Compute gradients of the loss at labelled tokens: replies, and whole captions."""
        texts = self.curriculum.texts(index)
        labels = sum(text.example.labels for text in texts)
        noise = torch.Generator(self.device).manual_seed(self._seed * self.steps + index)
        total = 0.0
        with packed(self.model.model):
            for indices in balance([text.example.length for text in texts], _SEQUENCE_TOKENS):
                some = [texts[i] for i in indices]
                sequence = pack([text.example for text in some], ()).to(self.device)
                loss = labelled_loss(self._hidden(sequence, some, noise), sequence.targets, self.model.lm_head)
                (loss / labels).backward()
                total += loss.item()
        return {"loss": total / labels, "labels": labels}

    def _hidden(
        self, sequence: PackedSequence, texts: Sequence[Text], noise: torch.Generator | None = None
    ) -> torch.Tensor:
        words = embedded(self.model.model.embed_tokens, sequence.ids, texts, self.curriculum.image_token, noise)
        states: torch.Tensor = self.model.model(
            inputs_embeds=words[None],
            position_ids=sequence.positions[None],
            attention_mask=None,
            use_cache=False,
            packed_groups=sequence.groups,
        ).last_hidden_state
        return states[0]

    @torch.no_grad()
    def right(self, text: Text) -> list[bool]:
        """Return for each answer in a text whether greedy decoding would give it word for word."""
        sequence = pack([text.example], ()).to(self.device)
        with packed(self.model.model):
            guess = self.model.lm_head(self._hidden(sequence, [text])).argmax(-1)
        # It does if, fed the answer, every next token is the likeliest one.
        hits = (guess == sequence.targets) | (sequence.targets == IGNORED)
        lengths = [len(segment) for segment in text.example.parts]
        return [bool(answer.all()) for answer in hits.split(lengths)[1:]]

    @torch.no_grad()
    def figures(self, scenes: int = 200) -> dict[str, Any]:
        """Measure the share of short answers about held-out scenes that greedy decoding would give word for word.

        The same questions are asked about every scene in sentences and as symbolic patch captions.
        """
        counted = {"accuracy": Counter[str](), "accuracy_on_cells": Counter[str]()}
        asked: Counter[str] = Counter()
        self.model.eval()
        for found, hits in self._answered(scenes):
            asked.update(found)
            for name, of_way in zip(counted, hits, strict=True):
                counted[name].update(topic for topic, hit in zip(found, of_way, strict=True) if hit)
        self.model.train()
        figures: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "vocabulary": len(self.tokenizer),
            "questions": asked.total(),
        }
        for name, right in counted.items():
            figures[name] = round(100 * right.total() / asked.total(), 2)
            figures[name.replace("accuracy", "by_topic")] = {
                topic: round(100 * right[topic] / count, 1) for topic, count in sorted(asked.items())
            }
        return figures

    def _answered(self, scenes: int) -> Iterator[tuple[list[str], tuple[list[bool], list[bool]]]]:
        """Yield for each held-out scene the topics asked about, and what was right in sentences and on patches."""
        rng = Random(f"{self._seed}/held-out questions")
        for index in range(scenes):
            scene = sample_scene(self._seed, "held-out", index)
            found = ask(scene, rng, 12)
            pairs = [(question.text + SHORT_ANSWER, question.answer) for question in found]
            in_sentences = self.curriculum.reading(scene.id, description(scene, rng), pairs)
            on_patches = self.curriculum.questions_on_patches(scene, pairs, rng)
            yield [question.topic for question in found], (self.right(in_sentences), self.right(on_patches))

    def save(self, folder: Path) -> None:
        """Save the weights in bf16, and the tokenizer."""
        self.model.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
