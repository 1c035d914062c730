"""The answering engine: greedy answers, each picture encoded once and each shared prefix run once.

Same tokens as `generate` gives one question at a time; which questions and where answers go is in `run`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from olivine.data.encoding import TemplateEncoder
from olivine.data.images import Pictures, pictures_in
from olivine.errors import DataError
from olivine.model.vlm import VisionLanguageModel
from olivine.records import Answer, AnswerState, Question

#: About eight of LLaVA's prompts. Larger activations are fetched from and given back to the system at every operation
#: by a CPU's allocator: a tenth of the time of prompts that share nothing (docs/decisions.md).
CPU_PREFILL = 5_000


@dataclass(frozen=True, slots=True)
class _Group:
    """Questions about one picture (or about none)."""

    image: str | None
    questions: tuple[Question, ...]
    continuations: tuple[list[int], ...]


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts that have been run, one a row.

    `last` is `[rows, hidden]` at their last tokens, `mask` `[rows, cached tokens]` what in the cache is no padding,
    `lengths` `[rows]` how many tokens that is: the next one's position.
    """

    last: Tensor
    cache: Any
    mask: Tensor
    lengths: Tensor


class AnsweringEngine:
    """Answers questions greedily.

    Args:
        vlm: the model, in evaluation mode.
        max_new_tokens: longest answer.
        token_budget: tokens of prefix and question held in the cache at once; bounds memory, changes no answer.
        prefill_budget: tokens run at once before the first answer token, a shared prefix counted once; changes no
            answer either. Default: without a bound on a GPU, `CPU_PREFILL` elsewhere.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        max_new_tokens: int = 128,
        token_budget: int = 16_384,
        prefill_budget: int | None = None,
    ) -> None:
        self._vlm = vlm
        self._encoder: TemplateEncoder = vlm.encoder()
        self._max_new_tokens = max_new_tokens
        self._budget = token_budget
        self._prefill = prefill_budget or (token_budget if vlm.device.type == "cuda" else CPU_PREFILL)
        self._stop_ids = torch.tensor(self._encoder.stop_ids, device=vlm.device)

    def answer(self, questions: Sequence[Question], images: Pictures | Path | None) -> Iterator[Answer]:
        """Answers as they come, grouped by picture; `images` is where those are, or the root of their paths.

        A picture that cannot be read fails its questions and no others; what breaks while a lot of questions is run
        (memory, say) fails that lot.
        """
        pictures = pictures_in(images) if images is not None else None
        for with_image in (True, False):
            chosen = [question for question in questions if (question.image is not None) is with_image]
            prefix, _ = self._encoder.prompt("", with_image)
            for chunk in self._chunks(chosen, prefix, with_image):
                yield from self._answered_or_failed(chunk, prefix, pictures)

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
            # One picture's questions may alone exceed the budget: then they are asked in several lots.
            lot = max(1, self._budget // per_question)
            for start in range(0, len(asked), lot):
                group = _Group(image, tuple(asked[start : start + lot]), tuple(continuations[start : start + lot]))
                to_hold = len(group.questions) * per_question
                to_run = len(prefix) + len(group.questions) * longest
                if chunk and (held + to_hold > self._budget or run + to_run > self._prefill):
                    yield chunk
                    chunk, held, run = [], 0, 0
                chunk.append(group)
                held, run = held + to_hold, run + to_run
        if chunk:
            yield chunk

    def _answered_or_failed(self, chunk: list[_Group], prefix: list[int], pictures: Pictures | None) -> list[Answer]:
        try:
            return self._answer_chunk(chunk, prefix, pictures)
        except (RuntimeError, MemoryError, OSError) as error:  # torch's own errors are all RuntimeErrors
            return [failed for group in chunk for failed in _failed(group, f"{type(error).__name__}: {error}")]

    @torch.inference_mode()
    def _answer_chunk(self, chunk: list[_Group], prefix: list[int], pictures: Pictures | None) -> list[Answer]:
        answers: list[Answer] = []
        features: Tensor | None = None
        if chunk[0].image is not None:
            readable, answers = _open_all(chunk, pictures, self._vlm.transform)
            chunk = [group for group, _ in readable]
            if not chunk:
                return answers
            pixels = torch.from_numpy(np.stack([pixels for _, pixels in readable]))
            features = self._vlm.project(self._vlm.patch_features(pixels))
        asked = [question for group in chunk for question in group.questions]
        if len(asked) == len(chunk):  # no prefix is shared: one pass over whole prompts costs less than two
            prompts = self._prefill_prompts(prefix, features, [group.continuations[0] for group in chunk])
        else:
            prompts = self._prefill_shared(prefix, features, chunk)
        for question, ids in zip(asked, self._decode(prompts), strict=True):
            text = self._vlm.decode(ids).strip()
            answers.append(Answer(question.id, text, AnswerState.ANSWERED if text else AnswerState.EMPTY))
        return answers

    def _prefill_prompts(self, prefix: list[int], features: Tensor | None, texts: Sequence[list[int]]) -> "_Prompts":
        """Every question's whole prompt at once, padded behind: causal attention keeps padding from what is real."""
        ids, lengths = self._padded([[*prefix, *text] for text in texts])
        outputs = self._vlm.language(inputs_embeds=self._vlm.embed(ids, features), use_cache=True)
        place = torch.arange(ids.shape[1], device=ids.device)
        mask = (place[None] < lengths[:, None]).long()
        return _Prompts(_at(outputs.last_hidden_state, lengths - 1), outputs.past_key_values, mask, lengths)

    def _prefill_shared(self, prefix: list[int], features: Tensor | None, chunk: Sequence[_Group]) -> "_Prompts":
        """Each picture's prefix once, then the texts of all its questions behind it."""
        cache = self._prefill_prefix(prefix, features, len(chunk))
        owner = [number for number, group in enumerate(chunk) for _ in group.questions]
        cache.batch_select_indices(torch.tensor(owner, device=self._vlm.device))
        ids, lengths = self._padded([text for group in chunk for text in group.continuations])
        place = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([ids.new_ones(len(ids), len(prefix)), (place[None] < lengths[:, None]).long()], dim=1)
        positions = (len(prefix) + place)[None].expand(len(ids), -1)
        hidden = self._forward(ids, mask, positions, cache)
        return _Prompts(_at(hidden, lengths - 1), cache, mask, len(prefix) + lengths)

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows as one `[rows, longest]`, padded behind with token 0, and their lengths."""
        lengths = torch.tensor([len(row) for row in rows], device=self._vlm.device)
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long, device=self._vlm.device)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row, device=self._vlm.device)
        return ids, lengths

    def _prefill_prefix(self, prefix: list[int], features: Tensor | None, count: int) -> Any:
        ids = torch.tensor([prefix], device=self._vlm.device).expand(count, -1)
        outputs = self._vlm.language(inputs_embeds=self._vlm.embed(ids, features), use_cache=True)
        return outputs.past_key_values

    def _decode(self, prompts: "_Prompts") -> list[list[int]]:
        """Greedy tokens behind each prompt, stop tokens left out; finished ones leave the batch.

        Padding lies between question and answer, hidden by the mask; positions count real tokens alone.
        """
        last, cache, mask, next_position = prompts.last, prompts.cache, prompts.mask, prompts.lengths
        answers: list[list[int]] = [[] for _ in last]
        active = torch.arange(len(last), device=last.device)
        for step in range(self._max_new_tokens):
            token = self._vlm.logits(last).float().argmax(dim=-1)
            going = ~torch.isin(token, self._stop_ids)
            for row, chosen in zip(active[going].tolist(), token[going].tolist(), strict=True):
                answers[row].append(chosen)
            if not going.any() or step + 1 == self._max_new_tokens:
                break
            if not going.all():
                keep = going.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                active, token, mask, next_position = active[keep], token[keep], mask[keep], next_position[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            last = self._forward(token[:, None], mask, next_position[:, None], cache)[:, -1]
            next_position = next_position + 1
        return answers

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        outputs = self._vlm.language(
            inputs_embeds=self._vlm.embed(ids, None),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        states: Tensor = outputs.last_hidden_state
        return states


def _at(hidden: Tensor, places: Tensor) -> Tensor:
    """`[rows, tokens, hidden]` at one place of each row: `[rows, hidden]`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), places]


def _open_all(
    chunk: Iterable[_Group], pictures: Pictures | None, transform: Callable[[Image.Image], Any]
) -> tuple[list[tuple[_Group, Any]], list[Answer]]:
    """(groups with their pixels, failed answers of groups whose picture cannot be read)."""
    readable: list[tuple[_Group, Any]] = []
    failed: list[Answer] = []
    for group in chunk:
        assert group.image is not None, "asked for pictures of questions without"
        try:
            if pictures is None:
                raise DataError(f"image {group.image!r}: no image root was given (--images DIR).")
            readable.append((group, transform(pictures.open(group.image))))
        except DataError as error:
            failed += _failed(group, str(error))
    return readable, failed


def _failed(group: _Group, reason: str) -> list[Answer]:
    return [Answer(question.id, "", AnswerState.FAILED, reason.split("\n")[0]) for question in group.questions]
