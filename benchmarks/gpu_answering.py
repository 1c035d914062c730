"""The answering engine against transformers' `generate` on the same model, questions and device."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from evaluate import make_questions

from olivine.evaluation.engine import AnsweringEngine
from olivine.model.generate import answer_one
from olivine.testing import write_images

CUDA = torch.cuda.is_available()


def answering(vlm: Any, images: Path, *, small: bool) -> Iterator[dict[str, Any]]:
    """Yield one row for the engine, first without and then with its CUDA graphs captured, and one for `generate`."""
    new_tokens = 6 if small else 32
    names = write_images(images, 3 if small else 16, side=336)
    questions = make_questions(names, 4 if small else 16)
    vlm.model.to("cuda" if CUDA else "cpu")
    vlm.cast(torch.bfloat16 if CUDA else torch.float32)
    vlm.model.eval()
    engine = AnsweringEngine(vlm, max_new_tokens=new_tokens, token_budget=16_384)
    said: dict[str, str] = {}
    for turn in ("first", "again"):
        began = _now()
        said = {answer.question_id: answer.text for answer in engine.answer(questions, images)}
        yield {"rung": "answering", "way": f"engine, {turn}", "ms_a_question": _each(began, questions)}
    some = questions[:: max(1, len(questions) // 16)]
    began = _now()
    alone = {q.id: answer_one(vlm, q.prompt, images / str(q.image), max_new_tokens=new_tokens) for q in some}
    same = sum(said[key] == text for key, text in alone.items())
    yield {
        "rung": "answering",
        "way": "generate, one at a time",
        "ms_a_question": _each(began, some),
        "questions": len(some),
        "same_as_engine": same,
    }


def _now() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def _each(began: float, questions: Any) -> float:
    return round(1e3 * (_now() - began) / len(questions), 2)
