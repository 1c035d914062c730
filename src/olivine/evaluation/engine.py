"""The answering engine: greedy answers, each image encoded once and each shared prefix run once.

Same tokens as `generate` gives one question at a time; which questions and where answers go is in `run`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from olivine.accelerators import image_threads
from olivine.data.encoding import TemplateEncoder
from olivine.data.image_marks import user_turn
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
    """Questions about the same images (one, several or none) behind the same prefix."""

    images: tuple[str, ...]
    questions: tuple[Question, ...]
    continuations: tuple[list[int], ...]


class AnsweringEngine:
    """Answers questions greedily.

    Questions share a prefix if they are about the same images and alike up to the last of them.

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
        """Yield answers as they come, grouped by images; `images` is where those are, or the root of their paths.

        An image that cannot be read fails its questions and no others; an error while a chunk of questions is run
        (out of memory, say) fails that chunk, as does a prompt with more or fewer marks than images.
        """
        images = image_source(images) if images is not None else None
        with reading(images, self._vlm.transform.fitted_pixels, self._readers) as reader:
            for with_image in (True, False):
                selected = [q for q in questions if not q.images and (q.image is not None) is with_image]
                prefix, _ = self._encoder.prompt("", with_image)
                chunks = self._chunks(self._about_one_image(selected, with_image), prefix)
                for chunk, opened in reader.ahead(chunks, _image_names):
                    yield from self._answered_or_failed(chunk, prefix, opened)
            shared, failed = self._about_several_images([question for question in questions if question.images])
            yield from failed
            for several, groups in shared.items():
                for chunk, opened in reader.ahead(self._chunks(groups, several), _image_names):
                    yield from self._answered_or_failed(chunk, list(several), opened)

    def _about_one_image(self, questions: Sequence[Question], with_image: bool) -> Iterator[_Group]:
        """Questions about one image each, or about none, by image."""
        by_image: dict[tuple[str, ...], list[Question]] = {}
        for question in questions:
            by_image.setdefault(question.all_images, []).append(question)
        for images, asked in by_image.items():
            continuations = tuple(self._encoder.prompt(question.prompt, with_image)[1] for question in asked)
            yield _Group(images, tuple(asked), continuations)

    def _about_several_images(
        self, questions: Sequence[Question]
    ) -> tuple[dict[tuple[int, ...], list[_Group]], list[Answer]]:
        """Return questions about several images by prefix and then by images, and failed answers to broken prompts.

        A prefix that only one question has becomes part of its continuation, after an empty prefix: such questions then
        run together, whatever precedes their images.
        """
        encoded: dict[tuple[tuple[int, ...], tuple[str, ...]], list[tuple[Question, list[int]]]] = {}
        failed = []
        for question in questions:
            try:
                prefix, text = self._encoder.prompt(user_turn(question.prompt, len(question.images)), False)
            except DataError as error:
                failed.append(Answer(question.id, "", AnswerState.FAILED, f"question {question.id!r}: {error}"))
                continue
            encoded.setdefault((tuple(prefix), question.images), []).append((question, text))
        groups: dict[tuple[int, ...], list[_Group]] = {}
        for (prefix_ids, images), asked in encoded.items():
            alone = len(asked) == 1
            behind = list(prefix_ids) if alone else []
            group = _Group(images, tuple(q for q, _ in asked), tuple([*behind, *text] for _, text in asked))
            groups.setdefault(() if alone else prefix_ids, []).append(group)
        return groups, failed

    def _chunks(self, groups: Iterable[_Group], prefix: Sequence[int]) -> Iterator[list[_Group]]:
        """Yield groups, as many at a time as the budgets allow; one that alone exceeds them is cut."""
        chunk: list[_Group] = []
        held = run = 0
        for whole in groups:
            asked, continuations = whole.questions, whole.continuations
            longest = max(len(c) for c in continuations)
            per_question = len(prefix) + longest
            # Questions about the same images may alone exceed the budget: then they are asked in several lots.
            micro_batch = max(1, self._budget // per_question)
            for start in range(0, len(asked), micro_batch):
                selected = slice(start, start + micro_batch)
                group = _Group(whole.images, asked[selected], continuations[selected])
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
        if chunk[0].images:
            chunk, fitted, answers = _read_all(chunk, opened)
            if not chunk:
                return answers
            features = self._features(chunk, fitted)
        asked = [question for group in chunk for question in group.questions]
        # Not kept under a name: the decoder lets go of the cache as soon as it can.
        with nullcontext() if self._vlm.traits.plain else by_position(self._vlm.language):
            tokens = self._decode(self._run_prompts(prefix, features, chunk))
        for question, ids in zip(asked, tokens, strict=True):
            text = self._vlm.decode(ids).strip()
            answers.append(Answer(question.id, text, AnswerState.ANSWERED if text else AnswerState.EMPTY))
        return answers

    def _features(self, chunk: Sequence[_Group], fitted: dict[str, Pixels]) -> Tensor:
        """`[images, patches, hidden]` in the order of placeholders; of several images a group, each is encoded once."""
        order = [name for group in chunk for name in group.images]
        several = any(len(group.images) > 1 for group in chunk)
        unique = list(dict.fromkeys(order)) if several else order
        pixels = torch.from_numpy(np.stack([fitted[name] for name in unique]))
        if self._vlm.device.type == "cuda":
            pixels = pixels.pin_memory()  # so that nothing waits for the copy to the device
        features = self._vlm.project(self._vlm.patch_features(pixels))
        if not several:
            return features
        position = {name: index for index, name in enumerate(unique)}
        return features[torch.tensor([position[name] for name in order], device=features.device)]

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
        """Greedy tokens behind each prompt, without stop tokens."""
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
    """Every image of a chunk once."""
    return list(dict.fromkeys(name for group in chunk for name in group.images))


def _read_all(
    chunk: Sequence[_Group], opened: Sequence[Callable[[], Pixels]]
) -> tuple[list[_Group], dict[str, Pixels], list[Answer]]:
    """Return (groups whose images can be read, pixels by name, failed answers of the other groups)."""
    fitted: dict[str, Pixels] = {}
    problems: dict[str, str] = {}
    for name, pixels in zip(_image_names(chunk), opened, strict=True):
        try:
            fitted[name] = pixels()
        except DataError as error:
            problems[name] = str(error)
    readable: list[_Group] = []
    failed: list[Answer] = []
    for group in chunk:
        problem = next((problems[name] for name in group.images if name in problems), None)
        if problem is None:
            readable.append(group)
        else:
            failed += _failed(group, problem)
    return readable, fitted, failed


def _failed(group: _Group, reason: str) -> list[Answer]:
    return [Answer(question.id, "", AnswerState.FAILED, reason.split("\n")[0]) for question in group.questions]
