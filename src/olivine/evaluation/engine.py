"""The answering engine: greedy answers, each image encoded once and each shared prefix run once.

Same tokens as `generate` gives one question at a time; which questions and where answers go is in `run`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from olivine.accelerators import image_threads
from olivine.data.encoding import TemplateEncoder
from olivine.data.images import ImageSource, image_source
from olivine.errors import DataError
from olivine.evaluation.budgets import budgets
from olivine.evaluation.decoding import Decoder, Prompts, ShrinkingDecoder, forward
from olivine.evaluation.opened_images import Pixels, reading
from olivine.evaluation.static_decoding import StaticDecoder, cuda_graph
from olivine.model.caching import run_by_position, run_cached
from olivine.model.position_attention import by_position
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Answer, AnswerState, Question


@dataclass(frozen=True, slots=True)
class _Group:
    """Questions about one image (or about none)."""

    image: str | None
    questions: tuple[Question, ...]
    continuations: tuple[list[int], ...]


class AnsweringEngine:
    """Answers questions greedily.

    Args:
        vlm: the model, in evaluation mode.
        max_new_tokens: longest answer.
        token_budget: tokens of prefix and question held in the cache at once; bounds memory, changes no answer.
            Default: by the free memory of a GPU, 16,384 on a CPU.
        prefill_budget: tokens run at once before the first answer token, a shared prefix counted once; changes no
            answer either. Default: as many as are held on a GPU, 5,000 on a CPU.
        image_readers: threads that open images ahead; 0 opens each when it is needed. Default: 0 on a CPU, where the
            model needs the cores, and this GPU's share of the cores beside one.
        decoder: what chooses tokens behind prompts; default by the device.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        max_new_tokens: int = 128,
        token_budget: int | None = None,
        prefill_budget: int | None = None,
        image_readers: int | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self._vlm = vlm
        self._encoder: TemplateEncoder = vlm.encoder()
        held, run = budgets(vlm)
        on_gpu = vlm.device.type == "cuda"
        self._budget = token_budget or held
        self._prefill = prefill_budget or (self._budget if on_gpu else run)
        self._readers = (image_threads() if on_gpu else 0) if image_readers is None else image_readers
        self._longest_answer = max_new_tokens
        self._decoder = decoder or decoder_for(vlm, vlm.stop_ids(self._encoder), max_new_tokens)

    def answer(self, questions: Sequence[Question], images: ImageSource | Path | None) -> Iterator[Answer]:
        """Answers as they come, grouped by image; `images` is where those are, or the root of their paths.

        An image that cannot be read fails its questions and no others; what breaks while a lot of questions is run
        (memory, say) fails that lot.
        """
        images = image_source(images) if images is not None else None
        with reading(images, self._vlm.transform.fitted_pixels, self._readers) as reader:
            for with_image in (True, False):
                selected = [question for question in questions if (question.image is not None) is with_image]
                prefix, _ = self._encoder.prompt("", with_image)
                for chunk, opened in reader.ahead(self._chunks(selected, prefix, with_image), _image_names):
                    yield from self._answered_or_failed(chunk, prefix, opened)

    def _chunks(self, questions: Sequence[Question], prefix: list[int], with_image: bool) -> Iterator[list[_Group]]:
        by_image: dict[str | None, list[Question]] = {}
        for question in questions:
            by_image.setdefault(question.image, []).append(question)
        chunk: list[_Group] = []
        held = run = 0
        for image, asked in by_image.items():
            continuations = [self._encoder.prompt(question.prompt, with_image)[1] for question in asked]
            longest = max(len(c) for c in continuations)
            per_question = len(prefix) + longest
            # One image's questions may alone exceed the budget: then they are asked in several lots.
            micro_batch = max(1, self._budget // per_question)
            for start in range(0, len(asked), micro_batch):
                group = _Group(
                    image, tuple(asked[start : start + micro_batch]), tuple(continuations[start : start + micro_batch])
                )
                to_hold = len(group.questions) * per_question
                to_run = len(prefix) + len(group.questions) * longest
                if chunk and (held + to_hold > self._budget or run + to_run > self._prefill):
                    yield chunk
                    chunk, held, run = [], 0, 0
                chunk.append(group)
                held, run = held + to_hold, run + to_run
        if chunk:
            yield chunk

    def _answered_or_failed(
        self, chunk: list[_Group], prefix: list[int], opened: Sequence[Callable[[], Pixels]]
    ) -> list[Answer]:
        try:
            return self._answer_chunk(chunk, prefix, opened)
        except (RuntimeError, MemoryError, OSError) as error:  # torch's own errors are all RuntimeErrors
            return [failed for group in chunk for failed in _failed(group, f"{type(error).__name__}: {error}")]

    @torch.inference_mode()
    def _answer_chunk(
        self, chunk: list[_Group], prefix: list[int], opened: Sequence[Callable[[], Pixels]]
    ) -> list[Answer]:
        answers: list[Answer] = []
        features: Tensor | None = None
        if chunk[0].image is not None:
            readable, answers = _read_all(chunk, opened)
            chunk = [group for group, _ in readable]
            if not chunk:
                return answers
            pixels = torch.from_numpy(np.stack([pixels for _, pixels in readable]))
            if self._vlm.device.type == "cuda":
                pixels = pixels.pin_memory()  # the copy to the device is then waited for by nobody
            features = self._vlm.project(self._vlm.patch_features(pixels))
        asked = [question for group in chunk for question in group.questions]
        # Not kept under a name: the decoder lets go of the cache as soon as it can.
        with nullcontext() if self._vlm.traits.plain else by_position(self._vlm.language):
            tokens = self._decode(self._run_prompts(prefix, features, chunk))
        for question, ids in zip(asked, tokens, strict=True):
            text = self._vlm.decode(ids).strip()
            answers.append(Answer(question.id, text, AnswerState.ANSWERED if text else AnswerState.EMPTY))
        return answers

    def _run_prompts(self, prefix: list[int], features: Tensor | None, chunk: Sequence[_Group]) -> Prompts:
        longest = max(len(text) for group in chunk for text in group.continuations)
        self._vlm.check_length(len(prefix) + longest + self._longest_answer)
        if not prefix or all(len(group.questions) == 1 for group in chunk):
            # No prefix is shared: one pass over whole prompts costs less than two.
            return self._prefill_prompts(prefix, features, [text for group in chunk for text in group.continuations])
        return self._prefill_shared(prefix, features, chunk)

    def _prefill_prompts(self, prefix: list[int], features: Tensor | None, texts: Sequence[list[int]]) -> Prompts:
        """Every question's whole prompt at once, padded behind: causal attention keeps padding from what is real."""
        ids, lengths = self._padded([[*prefix, *text] for text in texts])
        position = torch.arange(ids.shape[1], device=ids.device)
        mask = (position[None] < lengths[:, None]).long()
        hidden, cache = self._run_first(ids, features, mask)
        return Prompts(_at(hidden, lengths - 1), cache, mask, lengths)

    def _run_first(self, ids: Tensor, features: Tensor | None, mask: Tensor) -> tuple[Tensor, Any]:
        """Hidden states and cache of whole prompts, or prefixes, `[sequences, tokens]`, padded behind if at all."""
        embedded = self._vlm.embed(ids, features)
        if self._vlm.traits.plain:
            return run_cached(self._vlm.language, embedded)
        positions = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
        return run_by_position(self._vlm.language, embedded, mask, positions)

    def _prefill_shared(self, prefix: list[int], features: Tensor | None, chunk: Sequence[_Group]) -> Prompts:
        """Each image's prefix once, then the texts of all its questions behind it."""
        cache = self._prefill_prefix(prefix, features, len(chunk))
        owner = [number for number, group in enumerate(chunk) for _ in group.questions]
        cache.batch_select_indices(torch.tensor(owner, device=self._vlm.device))
        ids, lengths = self._padded([text for group in chunk for text in group.continuations])
        position = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([ids.new_ones(len(ids), len(prefix)), (position[None] < lengths[:, None]).long()], dim=1)
        positions = (len(prefix) + position)[None].expand(len(ids), -1)
        hidden = forward(self._vlm, ids, mask, positions, cache)
        return Prompts(_at(hidden, lengths - 1), cache, mask, len(prefix) + lengths)

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows as one `[rows, longest]`, padded behind with token 0, and their lengths; one copy each to the device."""
        lengths = [len(row) for row in rows]
        ids = torch.tensor([[*row, *[0] * (max(lengths) - len(row))] for row in rows])
        return ids.to(self._vlm.device, non_blocking=True), torch.tensor(lengths, device=self._vlm.device)

    def _prefill_prefix(self, prefix: list[int], features: Tensor | None, count: int) -> Any:
        ids = torch.tensor([prefix], device=self._vlm.device).expand(count, -1)
        return self._run_first(ids, features, torch.ones_like(ids))[1]

    def _decode(self, prompts: Prompts) -> list[list[int]]:
        """Greedy tokens behind each prompt, stop tokens left out."""
        return self._decoder(prompts)


def decoder_for(vlm: VisionLanguageModel, stop_ids: Sequence[int], max_new_tokens: int) -> Decoder:
    """Return the decoder for where a model is: fixed shapes on a GPU, a shrinking batch on a CPU."""
    if vlm.device.type == "cuda":
        return StaticDecoder(vlm, stop_ids, max_new_tokens, cuda_graph)
    return ShrinkingDecoder(vlm, stop_ids, max_new_tokens)


def _at(hidden: Tensor, token_positions: Tensor) -> Tensor:
    """`[rows, tokens, hidden]` at one place of each row: `[rows, hidden]`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), token_positions]


def _image_names(chunk: Sequence[_Group]) -> list[str]:
    return [group.image for group in chunk if group.image is not None]


def _read_all(
    chunk: Sequence[_Group], opened: Sequence[Callable[[], Pixels]]
) -> tuple[list[tuple[_Group, Pixels]], list[Answer]]:
    """(groups with their pixels, failed answers of groups whose image cannot be read)."""
    readable: list[tuple[_Group, Pixels]] = []
    failed: list[Answer] = []
    for group, pixels in zip(chunk, opened, strict=True):
        try:
            readable.append((group, pixels()))
        except DataError as error:
            failed += _failed(group, str(error))
    return readable, failed


def _failed(group: _Group, reason: str) -> list[Answer]:
    return [Answer(question.id, "", AnswerState.FAILED, reason.split("\n")[0]) for question in group.questions]
