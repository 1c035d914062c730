"""Samples kept out of training: which they are, the loss on them, answers to the first of them."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from olivine.data.batches import BatchMaker
from olivine.data.lazy_samples import SelectedSamples
from olivine.data.pieces import without_system
from olivine.errors import DataError
from olivine.model.generate import answer_one
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import OnError
from olivine.records import Role, Sample
from olivine.training.objectives import Objective


class HeldOut:
    """The held-out samples of a stage.

    Args:
        vlm: the model; put into evaluation mode to measure it.
        batches: makes batches of these samples alone.
        count: how many there are.
        on_error: what becomes of a sample that cannot be read.
    """

    def __init__(self, vlm: VisionLanguageModel, batches: BatchMaker, count: int, on_error: OnError) -> None:
        self._vlm, self._batches, self.count, self._on_error = vlm, batches, count, on_error

    @torch.no_grad()
    def loss(self, objective: Objective, batch: int) -> float | None:
        """Return the mean loss over the labelled tokens, in batches of `batch` samples; None if there are none."""
        if not self.count:
            return None
        self._vlm.model.eval()
        total, labels = 0.0, 0
        for start in range(0, self.count, batch):
            positions = [(0, index) for index in range(start, min(start + batch, self.count))]
            measured = objective.measure(self._batches.make(positions), backward=False)
            total, labels = total + measured.total, labels + measured.count
        return total / labels if labels else None

    def answers(self, count: int) -> Iterator[dict[str, str]]:
        """Yield answers to the first `count` samples that can be read.

        Raises:
            DataError: one cannot be read, under `on_error: stop`.
        """
        for index in range(self.count):
            if count == 0:
                return
            try:
                answered = self._answer(self._batches.sample(index))
            except DataError:
                if self._on_error == "stop":
                    raise
                continue
            count -= 1
            yield answered

    def _answer(self, sample: Sample) -> dict[str, str]:
        system, (question, truth, *_) = without_system(sample.conversation)
        assert question.role is Role.USER, "conversations begin with the user"
        images = self._batches.images(sample)
        turn = question.text if sample.image_first else question
        later = sum(len(turn.images) for turn in sample.conversation) - len(question.images)
        answer = answer_one(self._vlm, turn, images[: len(images) - later], system=system, max_new_tokens=32)
        return {"sample": sample.id, "question": question.text, "answer": answer, "truth": truth.text}


def split_held_out(
    samples: Sequence[Sample], held_out: int, seed: int, key: str
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return (training, held-out) samples: the same split in every stage over a source, at most a tenth held out."""
    count = min(held_out, len(samples) // 10)
    entropy = [seed, int.from_bytes(hashlib.sha256(f"held out {key}".encode()).digest()[:8], "big")]
    selected = np.random.default_rng(entropy).choice(len(samples), size=count, replace=False)
    if not isinstance(samples, list):
        return SelectedSamples(samples, np.delete(np.arange(len(samples)), selected)), SelectedSamples(
            samples, np.sort(selected)
        )
    held_out_indices = {int(index) for index in selected}
    return (
        [sample for index, sample in enumerate(samples) if index not in held_out_indices],
        [samples[index] for index in sorted(held_out_indices)],
    )
