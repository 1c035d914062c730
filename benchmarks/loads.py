"""The two loads that speed and memory are measured on, and one training step of each method that runs them.

Plain is what LLaVA's scripts do: samples in shuffled order, padded to the batch's longest, logits for every position.
Fused is the same with head and loss in one. Olivine is its own objective on packed sequences. All start from the same
weights and train the same modules.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from olivine.data.batches import Batch
from olivine.data.encoding import Example, Tokens
from olivine.data.packing import IGNORED, balance, pack
from olivine.model.build import build
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ConnectorRecipe, ModelRecipe, ModuleName, OptimizerRecipe, StageRecipe
from olivine.records import Sample
from olivine.testing import CORPUS
from olivine.training.objectives import LanguageObjective
from olivine.training.optimizer import make_optimizer
from olivine.training.trainable import choose_trainable

#: Shares of LLaVA-1.5's 665K mix (arXiv:2310.03744, table 7) and, assumed here, each part's median of text tokens,
#: their standard deviation (of the logarithm), the share of text that is labelled, and whether it has an image.
MIX = (
    ("llava-instruct", 158, 280, 0.5, 0.75, True),
    ("sharegpt", 40, 900, 0.7, 0.75, False),
    ("vqav2", 83, 150, 0.5, 0.2, True),
    ("gqa", 72, 200, 0.5, 0.2, True),
    ("okvqa, a-okvqa", 75, 70, 0.4, 0.15, True),
    ("ocrvqa", 80, 130, 0.3, 0.4, True),
    ("textcaps", 22, 60, 0.3, 0.5, True),
    ("refcoco, vg", 134, 350, 0.6, 0.5, True),
)
LONGEST = 2048


@dataclass(frozen=True)
class Shape:
    """Widths of a random model."""

    vocabulary: int = 256_000
    hidden: int = 256
    layers: int = 4
    inter: int = 1024
    heads: int = 4
    kv_heads: int = 1
    tower: int = 128
    tower_layers: int = 4
    image: int = 336
    patch: int = 14
    language: str = "gemma"
    #: Of one head; 0 divides the hidden width by the number of heads, which Gemma-7B does not.
    head_width: int = 0


def model_recipe(shape: Shape) -> ModelRecipe:
    recipe = {
        "vision": {
            "from": {
                "model_type": "clip_vision_model",
                "hidden_size": shape.tower,
                "intermediate_size": 4 * shape.tower,
                "num_hidden_layers": shape.tower_layers,
                "num_attention_heads": max(1, shape.tower // 64),
                "image_size": shape.image,
                "patch_size": shape.patch,
            }
        },
        "language": {
            "from": {
                "model_type": shape.language,
                "vocab_size": shape.vocabulary,
                "hidden_size": shape.hidden,
                "intermediate_size": shape.inter,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": shape.kv_heads,
                "head_dim": shape.head_width or shape.hidden // shape.heads,
            },
            "tokenizer": {"vocab_size": 640},
            "template": "gemma",
        },
    }
    return ModelRecipe.model_validate(recipe)


def make_model(shape: Shape) -> VisionLanguageModel:
    return build(model_recipe(shape), seed=0, texts=lambda: CORPUS)


def example(vlm: VisionLanguageModel, draw: np.random.Generator, text: int, labels: int, image: bool) -> Example:
    """Random ids below the tokenizer's size: their values do not change the cost."""
    room = LONGEST - vlm.image_tokens * image
    text = max(2, min(text, room))
    labels = max(1, min(labels, text - 1))
    ids = [2] + [vlm.model.config.image_token_id] * (vlm.image_tokens if image else 0)
    ids += draw.integers(10, 600, size=text - 1).tolist()
    supervised = [False] * (len(ids) - labels) + [True] * labels
    return Example(Sample("s", (), "p" if image else None), (Tokens(ids, supervised),))


def captions(vlm: VisionLanguageModel, count: int, seed: int = 0) -> list[Example]:
    """Stage 1: an image and a caption of about 20 tokens, all of it labelled, without a question (LLaVA's `plain`)."""
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(np.log(20), 0.4, count), 5, 77).astype(int)
    return [example(vlm, draw, int(n) + 2, int(n), True) for n in lengths]


def instructions(vlm: VisionLanguageModel, count: int, seed: int = 0) -> list[Example]:
    """Stage 2: lengths in the proportions of `MIX`."""
    draw = np.random.default_rng(seed)
    weights = np.array([part[1] for part in MIX], float)
    made = []
    for kind in draw.choice(len(MIX), size=count, p=weights / weights.sum()):
        _, _, median, spread, labelled, image = MIX[kind]
        text = int(draw.lognormal(np.log(median), spread))
        made.append(example(vlm, draw, text, int(text * labelled), image))
    return made


class Way:
    """One method of taking a training step; `step` returns the loss."""

    def __init__(self, vlm: VisionLanguageModel, train: Sequence[ModuleName], *, fused: bool) -> None:
        self.vlm = vlm
        vlm.model.train()
        stage = StageRecipe(name="s", train=tuple(train), data="d", batch=1, lr=1e-4)
        trained = choose_trainable(vlm, stage, ConnectorRecipe())
        if fused:
            self.optimizer: torch.optim.Optimizer = make_optimizer(trained.values(), OptimizerRecipe(), 1e-4)
        else:
            self.optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.0)
        self.trained = list(trained.values())
        self.bf16 = vlm.device.type == "cuda"

    def step(self, examples: Sequence[Example], pixels: torch.Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.backward(examples, pixels)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss

    def rest(self) -> None:
        """Free the gradients while the other methods run."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, examples: Sequence[Example], pixels: torch.Tensor) -> float:
        raise NotImplementedError


class Olivine(Way):
    """Packed sequences, loss at labelled positions only, each image through the tower once."""

    def __init__(self, vlm: VisionLanguageModel, train: Sequence[ModuleName], *, sequence_tokens: int = 4096) -> None:
        super().__init__(vlm, train, fused=True)
        self.objective = LanguageObjective(vlm)
        self.sequence_tokens = sequence_tokens

    def backward(self, examples: Sequence[Example], pixels: torch.Tensor) -> float:
        pixel_rows = {
            index: position for position, index in enumerate(i for i, e in enumerate(examples) if e.sample.image)
        }
        sequences = tuple(
            pack([examples[i] for i in numbers], [pixel_rows[i] for i in numbers if i in pixel_rows])
            for numbers in balance([e.length for e in examples], self.sequence_tokens)
        )
        batch = Batch(sequences, pixels[: len(pixel_rows)] if pixel_rows else None, None, (), len(sequences), (), {})
        measured = self.objective.measure(batch, backward=True)
        return measured.mean


class Plain(Way):
    """`LlavaForConditionalGeneration` with a padded batch and its own `labels` loss."""

    def __init__(self, vlm: VisionLanguageModel, train: Sequence[ModuleName]) -> None:
        super().__init__(vlm, train, fused=False)

    def backward(self, examples: Sequence[Example], pixels: torch.Tensor) -> float:
        inputs, labels = self.padded(examples, pixels)
        out: Any = self.vlm.model(**inputs, labels=labels, use_cache=False)
        out.loss.backward()
        return float(out.loss.item())

    def padded(self, examples: Sequence[Example], pixels: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
        longest = max(e.length for e in examples)
        ids = torch.zeros(len(examples), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for row, e in enumerate(examples):
            tokens = e.parts[0]
            ids[row, : e.length], mask[row, : e.length] = torch.tensor(tokens.ids), 1
            labels[row, : e.length] = torch.where(torch.tensor(tokens.supervised), torch.tensor(tokens.ids), IGNORED)
        images = sum(e.sample.image is not None for e in examples)
        device = self.vlm.device
        inputs = {
            "input_ids": ids.to(device),
            "attention_mask": mask.to(device),
            "pixel_values": pixels[:images].to(device) if images else None,
        }
        return inputs, labels.to(device)


class FusedLoss(Plain):
    """The same padded batch, with PyTorch's own fused head and loss, which never holds all logits (torch 2.13 on).

    Its own choice of chunks is for bf16 on GPUs: in fp32 on a CPU, with 256,000 words, it takes two rows at a time and
    minutes per step. There it gets chunks of 256 rows.
    """

    def backward(self, examples: Sequence[Example], pixels: torch.Tensor) -> float:
        inputs, labels = self.padded(examples, pixels)
        hidden = self.vlm.model.model(**inputs, use_cache=False).last_hidden_state
        loss = F.linear_cross_entropy(
            hidden[:, :-1].flatten(0, 1),
            self.vlm.model.lm_head.weight.to(hidden.dtype),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED,
            options=self.options(),
        )
        loss.backward()
        return float(loss.item())

    def options(self) -> Any:
        if self.bf16:
            return nn.LinearCrossEntropyOptions()
        return nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)


WAYS: dict[str, type[Any]] = {"olivine": Olivine, "plain": Plain}
if hasattr(nn, "LinearCrossEntropyOptions"):
    WAYS["fused"] = FusedLoss
TRAINED: dict[str, tuple[ModuleName, ...]] = {"stage 1": ("connector",), "stage 2": ("connector", "language")}


def make_way(name: str, shape: Shape, stage: str) -> Way:
    vlm = make_model(shape)
    vlm.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return WAYS[name](vlm, TRAINED[stage])


def every_way(shape: Shape, stage: str) -> dict[str, Way]:
    """All methods, from the same weights."""
    first = make_way("olivine", shape, stage)
    copies = {name: copy.deepcopy(first.vlm) for name in WAYS if name != "olivine"}
    return {"olivine": first, **{name: WAYS[name](vlm, TRAINED[stage]) for name, vlm in copies.items()}}


def make_batches(vlm: VisionLanguageModel, stage: str, batch: int, count: int) -> list[list[Example]]:
    made = (captions if stage == "stage 1" else instructions)(vlm, batch * count)
    return [made[start : start + batch] for start in range(0, batch * count, batch)]


def make_pixels(shape: Shape, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, shape.image, shape.image, generator=torch.Generator().manual_seed(0))
