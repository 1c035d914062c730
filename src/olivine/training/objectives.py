"""What a stage optimises: next-token prediction at labelled positions, or images against captions.

An objective turns one batch into gradients; steps, schedules and logs are in `stage`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from olivine.data.batches import Batch
from olivine.data.packing import PackedSequence, SequenceLayout, padding_sequence
from olivine.data.sources import usable
from olivine.distributed import Processes
from olivine.errors import RequestError
from olivine.model.attention import packed
from olivine.model.loss import contrastive_loss, labelled_loss
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import DataRecipe, ShardingRecipe, StageRecipe
from olivine.records import Sample
from olivine.training.sharding import Shards

T = TypeVar("T")
#: Images that a frozen tower encodes at once.
_TOWER_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Hidden(Generic[T]):
    """A wrapper that keeps a module out of another module's parameters and state."""

    value: T


@dataclass(frozen=True, slots=True)
class Measured:
    """A batch's loss over all processes.

    Attributes:
        total: the sum over labelled tokens or images, each times its weight.
        weight: the sum of the weights, which the total is to be divided by.
        count: how many tokens or images there are.
    """

    total: float
    weight: float
    count: int

    @property
    def mean(self) -> float:
        """The loss."""
        return self.total / self.weight


class Objective(nn.Module, ABC):
    """A map from batches to losses. Its own parameters train with the stage and are dropped at its end."""

    @abstractmethod
    def measure(self, batch: Batch, *, backward: bool) -> Measured:
        """Return the loss of a batch; with `backward`, add the gradients of its mean to the trained parameters.

        With several processes each adds its share times their number, so the average over processes is the gradient.
        """


class SequenceLoss(nn.Module):
    """Embedding, backbone and head of a language model as one forward pass over one packed sequence."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        super().__init__()
        self.backbone = vlm.language
        self.head = vlm.model.lm_head
        self._vlm = Hidden(vlm)

    def forward(self, sequence: PackedSequence, features: Tensor | None, stream: torch.dtype | None = None) -> Tensor:
        """Return the summed loss of a packed sequence's labels, a scalar.

        `stream` is given when weights are gathered for the pass: the dtype of the first hidden states. A backward pass
        then runs through every layer whether or not this sequence needs gradients, as it does on all processes.
        """
        embedded = self._vlm.value.embed(sequence.ids[None], features, sequence.image_positions)
        if stream is not None:
            embedded = embedded.to(stream)
            if torch.is_grad_enabled() and not embedded.requires_grad:
                embedded.requires_grad_()
        vlm = self._vlm.value
        hidden = vlm.run(sequence, embedded)
        return labelled_loss(
            hidden, sequence.targets, self.head, sequence.labelled, vlm.traits.final_cap, sequence.label_weights
        )


class LanguageObjective(Objective):
    """Next-token loss, averaged over the batch's labelled tokens by their weights, however they are packed."""

    def __init__(
        self,
        vlm: VisionLanguageModel,
        processes: Processes = Processes(),  # noqa: B008  # immutable
        layout: SequenceLayout = SequenceLayout(),  # noqa: B008  # immutable
    ) -> None:
        super().__init__()
        self._vlm = Hidden(vlm)
        self._processes = processes
        self._layout = layout
        self._sequence_loss = Hidden(SequenceLoss(vlm))
        self._shards: Shards | None = None
        self._stream: torch.dtype | None = None

    def shard(self, recipe: ShardingRecipe, *, bf16: bool) -> None:
        """Shard the language model over the processes; its parameters are then new objects under the same names."""
        sequence_loss = self._sequence_loss.value
        self._stream = next(sequence_loss.parameters()).dtype
        self._shards = Shards(sequence_loss, self._vlm.value.layers, recipe, self._processes, bf16=bf16)

    def measure(self, batch: Batch, *, backward: bool) -> Measured:
        """Return the loss, computed one packed sequence at a time, so that memory is that of a single sequence.

        Weights are summed over all processes before any gradient, so that a token weighs the same on any of them.
        """
        vlm, world = self._vlm.value, self._processes.world_size
        patches = self._frozen_patches(batch)
        counted, weight = self._processes.total([batch.labels, batch.label_weight])
        labels = int(counted)
        total = torch.zeros((), dtype=torch.float64, device=vlm.device)
        if not labels:
            return Measured(0.0, 0.0, 0)
        sequences = list(batch.sequences)
        if self._processes.several:
            sequences += [padding_sequence(layout=self._layout)] * (batch.rounds - len(sequences))
        # All at once, before the first is used: nothing in the loop waits for a copy.
        sent = [sequence.to(vlm.device) for sequence in sequences]
        with packed(vlm.language):
            for number, sequence in enumerate(sent):
                if self._shards is not None:
                    self._shards.before_sequence(last=number == batch.rounds - 1)
                features = self._features(sequence, sequences[number], batch, patches)
                loss = self._sequence_loss.value(sequence, features, self._stream)
                # A text-only sequence has no gradient for a connector.
                if backward and loss.requires_grad:
                    (loss / (weight / world)).backward()
                total += loss.detach()
        if self._shards is not None and not backward:
            self._shards.rest()
        return Measured(self._processes.total([float(total)])[0], weight, labels)

    def _frozen_patches(self, batch: Batch) -> Tensor | None:
        """Return the tower's features of the batch's images, computed once or from disk; None if the tower trains."""
        vlm = self._vlm.value
        if batch.patches is not None:
            return batch.patches.to(vlm.device, non_blocking=True)
        if batch.pixels is None or any(p.requires_grad for p in vlm.tower.parameters()):
            return None
        with torch.no_grad():
            return torch.cat([vlm.patch_features(pixels) for pixels in batch.pixels.split(_TOWER_CHUNK)])

    def _features(
        self, sequence: PackedSequence, on_cpu: PackedSequence, batch: Batch, patches: Tensor | None
    ) -> Tensor | None:
        """Return image features in the order of the sequence's placeholders, each unique image encoded once."""
        if not sequence.images:
            return None
        vlm = self._vlm.value
        if patches is None:
            assert batch.pixels is not None, "the sequence has images"
            pixels = batch.pixels.index_select(0, on_cpu.unique_images)
            features = vlm.patch_features(pixels.pin_memory() if batch.pixels.is_pinned() else pixels)
        else:
            features = patches.index_select(0, sequence.unique_images)
        # The gradient of an index with duplicates is added in any order by several threads, this one in one order.
        return vlm.project(features).index_select(0, sequence.image_order)


class ContrastiveObjective(Objective):
    """CLIP's objective (arXiv:2103.00020): a tower's pooled patches against captions encoded by a small text encoder.

    The first reply about each image is its caption. The patches of the layer that the language model will receive are
    averaged, so that they are trained, and not a class token that is never used later.
    """

    #: Captions are cut to this many tokens (CLIP: 77).
    MAX_TOKENS = 77
    _WIDTH = 64

    def __init__(self, vlm: VisionLanguageModel) -> None:
        super().__init__()
        self._vlm = Hidden(vlm)
        width: int = vlm.model.config.vision_config.hidden_size
        heads: int = vlm.model.config.vision_config.num_attention_heads
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vlm.tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=1,
                num_attention_heads=heads,
                max_position_embeddings=self.MAX_TOKENS,
                hidden_act="gelu",
                bos_token_id=vlm.tokenizer.bos_token_id,
                eos_token_id=vlm.tokenizer.eos_token_id,
            )
        )
        self.image_projection = nn.Linear(width, self._WIDTH, bias=False)
        self.text_projection = nn.Linear(width, self._WIDTH, bias=False)
        # CLIP starts its temperature at 0.07 and never lets the scale above 100.
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def measure(self, batch: Batch, *, backward: bool) -> Measured:
        """Return the loss of the whole batch: every other caption is a negative. Each process computes all of it."""
        assert batch.pixels is not None, "the stage checked that every sample has an image"
        vlm = self._vlm.value
        pooled = vlm.patch_features(batch.pixels).mean(dim=1)
        images = F.normalize(self.image_projection(pooled), dim=-1)
        texts = F.normalize(self.text_projection(self._read(list(batch.captions))), dim=-1)
        loss = contrastive_loss(images, texts, self.log_scale.exp().clamp(max=100), list(batch.captions))
        if backward:
            loss.backward()
        count = len(batch.captions)
        return Measured(loss.item() * count, count, count)

    def _read(self, captions: list[str]) -> Tensor:
        """Encode captions as `[captions, width]`, the mean over their tokens."""
        tokenizer: Any = self._vlm.value.tokenizer
        encoded = tokenizer(
            captions,
            padding=True,
            truncation=True,
            max_length=self.MAX_TOKENS,
            return_tensors="pt",
            padding_side="right",
        ).to(self._vlm.value.device)
        states = self.text(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).last_hidden_state
        real = encoded.attention_mask.unsqueeze(-1).to(states.dtype)
        mean: Tensor = (states * real).sum(dim=1) / real.sum(dim=1)
        return mean


def check_objective(stage: StageRecipe, source: DataRecipe, samples: Sequence[Sample]) -> None:
    """Refuse a contrastive stage over samples without an image, or with several.

    Raises:
        RequestError: a sample has no image, or several.
    """
    if stage.objective == "contrastive":
        unfit = next((sample for sample in usable(samples, source) if sample.image is None), None)
        if unfit is not None:
            raise RequestError(
                f"stages.{stage.name}: objective contrastive needs one image in every sample; "
                f"{unfit.id!r} of data source {stage.data!r} has {len(unfit.images) or 'none'}."
            )
