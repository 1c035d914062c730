"""TextVQA: questions about writing in images, ten human answers each, asked with or without OCR hints.

The normaliser and the soft score are in `vqa_normaliser`; no OCR is run here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.data.images import ImageSource
from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    answers_from,
    by_group,
    is_reply,
    item_of,
    percent,
    read_rows,
    require_human_answers,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.vqa_normaliser import normalise_m4c, soft_score
from olivine.files import read_json, read_json_lines
from olivine.records import Answer, Question, Score
from olivine.wording import SHORT_ANSWER

_HINTS = "Reference OCR token: "


@dataclass(frozen=True, slots=True)
class Prediction(Answer):
    """An answer from a file: whether its prompt contained OCR hints, `None` where the file does not say."""

    hinted: bool | None = None


class TextVQA(Benchmark):
    """TextVQA (mmf's `TextVQAAccuracyEvaluator`, which LLaVA's `llava/eval/m4c_evaluator.py` is).

    Metrics, in percent: `accuracy`, and the same once more under a name that says what was asked:
    `accuracy/with-ocr`, `accuracy/without-ocr` or `accuracy/ocr-unknown` (an official results file does not say; a
    mixture gives several). Numbers with and without hints do not compare. One cluster is one image; an item's
    correctness is its soft score.

    The answer and the ten human answers are normalised as `normalise_m4c` does; other than ten human answers are
    refused, as the evaluator asserts. LLaVA's tool takes its mean over the answers it is given: a question without
    one is excluded from the metric and the items, and reported as missing. Answers to unknown questions are refused
    (there too), and so are two to one question (there both count).

    Variants: `official`; `lenient`, ours, reads the short answer in the reply as the module `lenient` does, and takes a
    missing answer for wrong.

    Args:
        ocr: TextVQA_Rosetta_OCR_v0.2_val.json, or LLaVA's question file (`llava_textvqa_val_v051_ocr.jsonl`), for the
            hints; by default the one beside the annotations, if any.
    """

    name = "textvqa"
    declares = Declaration(
        title="TextVQA",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("accuracy/*", "accuracy by whether OCR hints were given"),
        ),
        cluster="image",
        reply="short text",
        files=("TextVQA_0.5.1_val.json or another split's, or its folder",),
        answers=("the official list of `question_id`, `answer`",),
        missing={"official": "excluded"},
    )
    variants = ("official", LENIENT)
    prompts = ("llava-1.5", "no-ocr", "lmms-eval")

    parquet = ParquetLayout(splits=("validation", "test", "train"), image=lambda row: f"{row.values['image_id']}.jpg")

    def __init__(self, ocr: Path | None = None) -> None:
        self._ocr = ocr

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read TextVQA_0.5.1_val.json (or another split), the folder that holds it, or `lmms-lab/textvqa`.

        The last brings its OCR tokens along.

        `llava-1.5` puts OCR hints after the question. Where the default was not asked for by name and there are no
        hints to be had, the question is asked without, and the score says so. `no-ocr` never hints; `lmms-eval`
        does not either, and writes the question in lower case with a capital.

        Raises:
            DataError: not TextVQA's file, hints asked for by name that are nowhere, or a question without ten answers.
        """
        selected = self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return self._from_parquet(read_parquet(shards), selected)
        file = path / "TextVQA_0.5.1_val.json" if path.is_dir() else path
        rows = read_json(file)
        if not isinstance(rows, dict) or not isinstance(rows.get("data"), list):
            raise DataError(f"{file}: expected an object with a list data. Is this file of TextVQA?")
        hints = self._hints(file) if selected == "llava-1.5" else None
        if prompt == "llava-1.5" and hints is None:
            raise DataError(f"{file}: no OCR tokens for the prompt llava-1.5. Expected a Rosetta OCR file beside it.")
        return [_question(f"{file}: question {n}", row, selected, hints) for n, row in enumerate(rows["data"], start=1)]

    def images(self, path: Path) -> ImageSource | Path:
        """Return the folder of images: `train_images`, which holds the validation split's too, if it exists."""
        folder = (path if path.is_dir() else path.parent) / "train_images"
        return folder if folder.is_dir() else super().images(path)

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official results, a list of `{"question_id", "answer"}`, or LLaVA's answer lines.

        LLaVA numbers its answers by image: they are joined by image and the question in their prompt.

        Raises:
            DataError: an answer to an image or question that is not there.
        """
        rows = read_rows(path)
        if rows_have(rows, "question_id", "answer"):
            plain = answers_from(rows, "question_id", "answer", str(path))
            return [Prediction(a.question_id, a.text, a.state, a.error, hinted=None) for a in plain]
        known = {question.id for question in questions}
        unmatched: dict[tuple[str, str], list[str]] = {}
        for question in questions:
            unmatched.setdefault((question.cluster, question.details["question"].lower()), []).append(question.id)
        answers: list[Answer] = []
        for answer, row in zip(super().read_answers(path, questions), rows, strict=True):
            asked = row.get("prompt", "")
            key = answer.question_id
            if key not in known:
                same = unmatched.get((key, _question_in(asked)), [""])
                key = same.pop(0) if len(same) > 1 else same[0]
            if not key:
                raise DataError(
                    f"{path}: answer to {answer.question_id!r}, {asked[:80]!r}: no such image and question."
                )
            hinted = "OCR token" in asked if asked else None
            answers.append(Prediction(key, answer.text, answer.state, answer.error, hinted=hinted))
        return answers

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Mean soft score over the answered questions, and by what was asked."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        if not texts:
            raise DataError(f"{self.name}: no answers. Expected at least one; is the file empty?")
        require_human_answers(self.name, (question for question in questions if question.id in texts))
        hinted = {a.question_id: a.hinted for a in answers if isinstance(a, Prediction)}
        items = []
        labels = []
        for question in questions:
            if question.id in texts or self.missing_rule(selected) != "excluded":
                humans = [normalise_m4c(reference) for reference in question.references]
                text = texts.get(question.id, "")
                said = normalise_m4c(short_text(text) if selected == LENIENT else text)
                correct = soft_score(said, humans) if question.id in texts else 0.0
                items.append(item_of(question, texts, correct, read=is_reply(said, humans)))
                labels.append(_LABELS[hinted.get(question.id, question.details["hinted"])])
        soft = [item.correct for item in items]
        metrics = {"accuracy": percent(soft)} | by_group("accuracy", zip(labels, soft, strict=True))
        return self.result(selected, metrics, items, missing)

    def _from_parquet(self, rows: Sequence[ParquetRow], prompt: str) -> list[Question]:
        hints = None
        if prompt == "llava-1.5":
            own = {row.values["image_id"]: row.values.get("ocr_tokens") or () for row in rows}
            hints = _read_hints(self._ocr) if self._ocr else own
        return [_question(row.where, row.values, prompt, hints) for row in rows]

    def _hints(self, annotations: Path) -> dict[str, Sequence[str]] | None:
        if self._ocr:
            return _read_hints(self._ocr)
        files = [
            *sorted(annotations.parent.glob("*Rosetta_OCR*val*.json")),
            *sorted(annotations.parent.glob("*_ocr.jsonl")),
        ]
        return _read_hints(files[0]) if files else None


_LABELS = {True: "with-ocr", False: "without-ocr", None: "ocr-unknown"}


def _question(where: str, row: Any, prompt: str, hints: Mapping[str, Sequence[str]] | None) -> Question:
    require_keys(row, ("question_id", "image_id", "question"), where)
    references = tuple(row.get("answers", ()))
    if len(references) not in (0, 10):
        raise DataError(f"{where}: {len(references)} human answers; expected ten (or none, in the test split).")
    text = row["question"]
    hint = "" if hints is None else f"\n{_HINTS}{', '.join(hints.get(row['image_id'], ()))}"
    return Question(
        id=str(row["question_id"]),
        prompt=(text.capitalize() if prompt == "lmms-eval" else text + hint) + SHORT_ANSWER,
        image=f"{row['image_id']}.jpg",
        cluster=row["image_id"],
        references=references,
        details={"question": text, "hinted": hints is not None},
    )


def _read_hints(path: Path) -> dict[str, Sequence[str]]:
    """OCR tokens by image, out of the Rosetta file or LLaVA's prompts."""
    hints: dict[str, Sequence[str]] = {}
    if path.suffix == ".jsonl":
        for number, row in enumerate(read_json_lines(path), start=1):
            require_keys(row, ("question_id", "text"), f"{path}: line {number}")
            found = re.search(rf"^{_HINTS}(.*)$", row["text"], re.MULTILINE)
            hints[str(row["question_id"])] = [found[1]] if found else []
        return hints
    rows = read_json(path)
    require_keys(rows, ("data",), str(path))
    for number, row in enumerate(rows["data"], start=1):
        require_keys(row, ("image_id", "ocr_tokens"), f"{path}: image {number}")
        hints[row["image_id"]] = row["ocr_tokens"]
    return hints


def _question_in(prompt: str) -> str:
    """Return the question in one of LLaVA's prompts, in lower case: the line before the hints, or after them."""
    lines = prompt.split("\n")
    return (lines[1] if lines[0].startswith(_HINTS.strip()) and len(lines) > 1 else lines[0]).lower()
