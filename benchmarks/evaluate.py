"""Answering speed: the engine against transformers' `generate`, one at a time and in padded batches, same answers.

    python benchmarks/evaluate.py [--quick] [--json] [--out benchmarks/results/evaluate-cpu.json]

Two loads on one random model with 576 image tokens: GQA-shaped (31 questions an image, about 30 text tokens, 3 answer
tokens) and one question per image. The three methods alternate, round after round; ratios are medians over rounds.
Then, in bf16, the flip rate: the share of answers (16 tokens) that another batch composition changes. In fp32 it is 0.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from report import arguments, show

from olivine.data.images import open_image
from olivine.evaluation.engine import AnsweringEngine
from olivine.model.build import build
from olivine.model.vlm import VisionLanguageModel
from olivine.recipe import ModelRecipe
from olivine.records import Question
from olivine.testing import CORPUS, write_images

NEW_TOKENS = 3
#: Longer answers than those timed: one flipped token changes all that follow.
FLIP_TOKENS = 16
WORDS = ["is", "there", "a", "red", "circle", "in", "the", "image", "what", "color", "is", "the", "shape", "of"]


def make_model(hidden: int, layers: int) -> VisionLanguageModel:
    """Random weights in the shapes that matter: 24 x 24 patches, multi-query attention, tied embeddings."""
    recipe = {
        "vision": {
            "from": {
                "model_type": "clip_vision_model",
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 336,
                "patch_size": 14,
            }
        },
        "language": {
            "from": {
                "model_type": "gemma",
                "vocab_size": 8192,
                "hidden_size": hidden,
                "intermediate_size": 4 * hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": 4,
                "num_key_value_heads": 1,
                "head_dim": hidden // 4,
                "initializer_range": 0.2,
            },
            "tokenizer": {"vocab_size": 640},
        },
    }
    vlm = build(ModelRecipe.model_validate(recipe), seed=0, texts=lambda: CORPUS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vlm.model.to(device)
    return vlm


def make_questions(images: list[str], per_image: int) -> list[Question]:
    """About thirty text tokens each, template included."""
    questions = []
    for number in range(len(images) * per_image):
        text = " ".join(WORDS[(number * 5 + k * (1 + number % 3)) % len(WORDS)] for k in range(12 + number % 5)) + "?"
        image = images[number // per_image]
        questions.append(Question(str(number), text, image, image))
    return questions


class Ways:
    """Three methods to answer the same questions; each returns the new token ids by question."""

    def __init__(self, vlm: VisionLanguageModel, images: Path) -> None:
        self.vlm, self.images = vlm, images
        self.encoder = vlm.encoder()

    def engine(self, questions: list[Question]) -> dict[str, str]:
        engine = AnsweringEngine(self.vlm, max_new_tokens=NEW_TOKENS, token_budget=31 * 700)
        return {answer.question_id: answer.text for answer in engine.answer(questions, self.images)}

    def one_at_a_time(self, questions: list[Question]) -> dict[str, str]:
        return self.batched(questions, size=1)

    def padded(self, questions: list[Question]) -> dict[str, str]:
        return self.batched(questions, size=8)

    @torch.inference_mode()
    def batched(self, questions: list[Question], size: int) -> dict[str, str]:
        """`generate` as it is usually called: left-padded, every question with its own image."""
        answers = {}
        for start in range(0, len(questions), size):
            some = questions[start : start + size]
            prompts = [[*prefix, *text] for prefix, text in (self.encoder.prompt(q.prompt, True) for q in some)]
            longest = max(map(len, prompts))
            pad = self.vlm.tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.vlm.device)
            mask = torch.tensor(
                [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.vlm.device
            )
            pixels = [torch.from_numpy(self.vlm.transform(open_image(self.images / q.image))) for q in some]
            out = self.vlm.model.generate(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=torch.stack(pixels).to(self.vlm.device),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
            for question, row in zip(some, out[:, longest:].tolist(), strict=True):
                answers[question.id] = self.vlm.decode(row).strip()
        return answers


def timed(way: Callable[[list[Question]], dict[str, str]], questions: list[Question]) -> tuple[float, dict[str, str]]:
    began = time.perf_counter()
    answers = way(questions)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, answers


def token_bound(vlm: VisionLanguageModel, questions: list[Question]) -> float:
    """How many times fewer tokens the language model has to run when each image's prefix is run once."""
    encoder = vlm.encoder()
    prefix, _ = encoder.prompt("", True)
    texts = [len(encoder.prompt(question.prompt, True)[1]) for question in questions]
    images = len({question.image for question in questions})
    apart = sum(len(prefix) + text + NEW_TOKENS - 1 for text in texts)
    shared = images * len(prefix) + sum(text + NEW_TOKENS - 1 for text in texts)
    return apart / shared


def measure(
    ways: Ways, questions: list[Question], rounds: int, label: str
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Alternate the three methods; return rows with seconds a question, and the engine's median advantage over each."""
    names = {"engine": ways.engine, "one at a time": ways.one_at_a_time, "padded batch of 8": ways.padded}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    said: dict[str, dict[str, str]] = {}
    for round_number in range(rounds + 1):
        for name, way in names.items():
            taken, said[name] = timed(way, questions)
            if round_number:  # the first round warms up
                seconds[name].append(taken)
    same = {name: sum(said[name][q.id] == said["engine"][q.id] for q in questions) for name in names}
    rows = [
        {
            "load": label,
            "way": name,
            "ms_a_question": round(1000 * statistics.median(taken) / len(questions), 2),
            "questions": len(questions),
            "same_answers_as_engine": same[name],
        }
        for name, taken in seconds.items()
    ]
    engine = seconds["engine"]
    ratios = {
        f"{label}: {name} / engine": round(statistics.median(a / b for a, b in zip(taken, engine, strict=True)), 2)
        for name, taken in seconds.items()
        if name != "engine"
    }
    return rows, ratios


def flips(
    vlm: VisionLanguageModel, questions: list[Question], images: Path, new_tokens: int = FLIP_TOKENS
) -> list[dict[str, Any]]:
    """Return how many answers differ from one question at a time, for each batch composition, in the model's own dtype.

    Compositions by token budget: about 7, about 32 questions in a batch, and all at once.
    """
    encoder = vlm.encoder()
    longest = max(sum(map(len, encoder.prompt(q.prompt, q.image is not None))) for q in questions)

    def said(budget: int) -> dict[str, str]:
        engine = AnsweringEngine(vlm, max_new_tokens=new_tokens, token_budget=budget)
        return {answer.question_id: answer.text for answer in engine.answer(questions, images)}

    alone = said(1)
    rows = []
    for together in (7, 32, len(questions)):
        other = said(together * longest)
        flipped = sum(other[key] != text for key, text in alone.items())
        rows.append(
            {
                "load": f"{next(vlm.model.parameters()).dtype}".removeprefix("torch."),
                "way": f"in batches of {together}",
                "questions": len(questions),
                "answers_other_than_alone": flipped,
                "flip_rate": round(flipped / len(questions), 4),
            }
        )
    return rows


def main() -> None:
    requested = arguments(__doc__).parse_args()
    hidden, layers, rounds, images = (64, 2, 1, 2) if requested.quick else (256, 8, 3, 4)
    vlm = make_model(hidden, layers)
    with tempfile.TemporaryDirectory() as folder:
        names = write_images(Path(folder), 16 if not requested.quick else 4, side=336)
        ways = Ways(vlm, Path(folder))
        gqa = make_questions(names[:images], 31)
        single = make_questions(names, 1)
        gqa_rows, gqa_ratios = measure(ways, gqa, rounds, "31 questions an image")
        single_rows, single_ratios = measure(ways, single, rounds, "1 question an image")
        vlm.cast(torch.bfloat16)
        flip_rows = flips(vlm, gqa, Path(folder))
    bound = token_bound(vlm, gqa)
    reached = gqa_ratios["31 questions an image: one at a time / engine"] / bound
    ratios = {
        **gqa_ratios,
        **single_ratios,
        "what token counts allow over one at a time": round(bound, 2),
        "share of that reached": round(reached, 2),
        "bf16 flip rate": max(row["flip_rate"] for row in flip_rows),
    }
    model = {"hidden": hidden, "layers": layers, "image_tokens": vlm.image_tokens}
    show(requested, ratios, gqa_rows + single_rows + flip_rows, model=model)


if __name__ == "__main__":
    main()
