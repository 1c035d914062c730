"""A model made ready to be explained: it answers, and its answers' tokens become cases.

What is done with cases is in `methods`, `faithfulness` and `image_share`.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from olivine.errors import RequestError
from olivine.evaluation.decoding import Prompts, ShrinkingDecoder
from olivine.explanation.case import BUDGET, Case
from olivine.explanation.token_grid import token_grid
from olivine.model.activation_memory import saved_bytes_per_token
from olivine.model.caching import run_by_position, run_cached
from olivine.model.position_attention import by_position
from olivine.model.vlm import VisionLanguageModel

#: What stands for a removed image token: the mean of the image's own tokens, the connector's output for an image of
#: the tower's mean colour, or zeros.
Baseline = Literal["mean", "blank", "zero"]
BASELINES: tuple[Baseline, ...] = ("mean", "blank", "zero")


#: What sequences may save for the backward pass at once, in bytes.
BACKWARD_BYTES = 2 * 2**30


def saved_bytes(vlm: VisionLanguageModel) -> float:
    """Return the bytes that the language model's blocks save per token until the backward pass."""
    config = vlm.language.config
    half = next(vlm.language.parameters()).dtype == torch.bfloat16
    return config.num_hidden_layers * saved_bytes_per_token(config, trains=False, bf16=half)


def backward_budget(vlm: VisionLanguageModel) -> int:
    """Return how many tokens may run forward and backward at once."""
    return min(BUDGET, int(BACKWARD_BYTES / saved_bytes(vlm)))


@dataclass(frozen=True, slots=True)
class Word:
    """A word of an answer: its text, and its tokens' positions in the answer."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about an image, with the model's answer.

    Attributes:
        prompt: the question's token ids, image placeholders included.
        blind: the same question's without an image.
        answer: the answer's token ids, without what ends it.
        features: `[image tokens, hidden]` of the image.
        key: decides what is random about it.
    """

    prompt: tuple[int, ...]
    blind: tuple[int, ...]
    answer: tuple[int, ...]
    features: Tensor
    key: str


class Explainer:
    """Answers questions and makes cases of the answers' tokens.

    Args:
        vlm: the model; its weights take no gradients from then on.
        baseline: what stands for a removed image token.
        max_new_tokens: longest answer.

    Raises:
        RequestError: its image tokens have no place in the image.
    """

    def __init__(self, vlm: VisionLanguageModel, *, baseline: Baseline = "mean", max_new_tokens: int = 64) -> None:
        self.grid = token_grid(vlm)
        self.vlm, self.baseline = vlm, baseline
        vlm.model.requires_grad_(False)
        self._encoder = vlm.encoder()
        self._longest = max_new_tokens
        self._decoder = ShrinkingDecoder(vlm, vlm.stop_ids(self._encoder), max_new_tokens)
        self._blank: Tensor | None = None
        self._backward_budget = backward_budget(vlm)

    @torch.no_grad()
    def features(self, image: Image.Image) -> Tensor:
        """Return the connector's output for an image, `[image tokens, hidden]`."""
        pixels = torch.from_numpy(self.vlm.transform.fitted_pixels(image).copy())[None]
        return self.vlm.project(self.vlm.patch_features(pixels))[0]

    def blank_features(self) -> Tensor:
        """Return the connector's output for an image of the tower's mean colour."""
        if self._blank is None:
            colour = tuple(int(value * 255) for value in self.vlm.transform.mean)
            self._blank = self.features(Image.new("RGB", (self.vlm.transform.size,) * 2, colour))
        return self._blank

    def ask(self, question: str, features: Tensor, key: str) -> Asked:
        """Return a question with the model's greedy answer.

        Raises:
            RequestError: the answer is empty, so that there is nothing to explain.
            RunError: the prompt is longer than the model allows.
        """
        prompt, blind = (
            tuple(id_ for part in self._encoder.prompt(question, with_image) for id_ in part)
            for with_image in (True, False)
        )
        self.vlm.check_length(len(prompt) + self._longest)
        answer = tuple(self._answer(prompt, features))
        if not answer:
            raise RequestError(f"question {key!r}: the model answers nothing, so that there is nothing to explain.")
        return Asked(prompt, blind, answer, features, key)

    @torch.no_grad()
    def _answer(self, prompt: tuple[int, ...], features: Tensor) -> list[int]:
        ids = torch.tensor([prompt], device=self.vlm.device)
        mask, lengths = torch.ones_like(ids), torch.tensor([len(prompt)], device=ids.device)
        embedded = self.vlm.embed(ids, features[None])
        plain = self.vlm.traits.plain
        with nullcontext() if plain else by_position(self.vlm.language):
            if plain:
                hidden, cache = run_cached(self.vlm.language, embedded)
            else:
                positions = torch.arange(len(prompt), device=ids.device)[None]
                hidden, cache = run_by_position(self.vlm.language, embedded, mask, positions)
            return self._decoder(Prompts(hidden[:, -1], cache, mask, lengths))[0]

    def case(self, asked: Asked, tokens: tuple[int, ...] = (0,)) -> Case:
        """Return the case of some of an answer's tokens, by position: the first alone by default.

        Raises:
            RequestError: the answer has no such token.
        """
        missing = [token for token in tokens if not 0 <= token < len(asked.answer)]
        if missing:
            raise RequestError(
                f"--token: the answer {self.text(asked)!r} has {len(asked.answer)} tokens, counted from 0; "
                f"there is no token {missing[0]}."
            )
        last, start = max(tokens), len(asked.prompt)
        ids = torch.tensor([*asked.prompt, *asked.answer[:last]], device=self.vlm.device)
        positions = (ids[:start] == self.vlm.model.config.image_token_id).nonzero().squeeze(1)
        return Case(
            vlm=self.vlm,
            ids=ids,
            image_positions=positions,
            predicting=tuple(start - 1 + token for token in tokens),
            explained=tuple(asked.answer[token] for token in tokens),
            features=asked.features,
            baseline=self._baseline_of(asked.features),
            grid=self.grid,
            key=f"{asked.key} {tokens}",
            backward_budget=self._backward_budget,
        )

    def _baseline_of(self, features: Tensor) -> Tensor:
        if self.baseline == "blank":
            return self.blank_features()
        if self.baseline == "zero":
            return torch.zeros_like(features)
        placed = features[self.grid.extra :].float().mean(dim=0).to(features.dtype)
        return placed.expand_as(features)

    def blind_ids(self, asked: Asked, tokens: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        """Return the question's ids without an image, `[1, tokens]`, and the positions that predict these tokens."""
        ids = torch.tensor([[*asked.blind, *asked.answer[: max(tokens)]]], device=self.vlm.device)
        return ids, tuple(len(asked.blind) - 1 + token for token in tokens)

    def text(self, asked: Asked) -> str:
        """Return the answer as text."""
        return self.vlm.decode(asked.answer).strip()

    def words(self, asked: Asked) -> list[Word]:
        """Return the answer's words, each with its tokens; a token that continues a word belongs to it."""
        tokens: list[list[int]] = []
        starts: list[int] = []
        before = ""
        for number in range(len(asked.answer)):
            text = self.vlm.decode(asked.answer[: number + 1])
            # A token may complete a character, which changes the text before it: it belongs to the same word.
            word = before[starts[-1] :] if starts else ""
            between = word[-1:].isspace() or text[len(before) :][:1].isspace()
            if tokens and not (word.strip() and between and text.startswith(before)):
                tokens[-1].append(number)
            else:
                tokens.append([number])
                starts.append(len(before))
            before = text
        ends = [*starts[1:], len(before)]
        texts = [before[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        return [Word(text, tuple(of_word)) for text, of_word in zip(texts, tokens, strict=True)]
