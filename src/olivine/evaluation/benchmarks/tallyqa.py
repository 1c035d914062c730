"""TallyQA: how many ...? Counting questions, simple and complex.

HowMany-QA's own scoring (a VQA score) is not here, nor Prismatic's: it compares probabilities, which is no answer.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.parsing import (
    LETTERS,
    answers_from,
    find_file,
    item_of,
    named_option,
    percent,
    read_rows,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.unwrapped import unwrapped
from olivine.evaluation.benchmarks.vqa_normaliser import normalise
from olivine.files import read_json
from olivine.records import Answer, Item, Question, Score
from olivine.wording import SHORT_ANSWER, with_options

#: Prismatic's sixteen options, A to P.
_COUNTS = [str(count) for count in range(16)]


class TallyQA(Benchmark):
    """TallyQA (`manoja328/tallyqacode:eval_extra.py` and `utils.py`).

    Metrics: `simple/accuracy` and `complex/accuracy` in percent, `simple/rmse` and `complex/rmse` in objects, and
    `accuracy` over all questions (which the tool does not print, but papers do). Complex are the questions that were
    written for TallyQA (`data_source` amt), simple those of the others that are marked so; one that is neither is in
    `accuracy` alone. One cluster is one image.

    Variants, the ways to read a number:

    - `official`: the answer is all digits, or else it counts as 0 (as the tool reads other models' answers).
    - `number`: the first word that is a whole number in digits, or none, zero to ten, after VQA's normaliser;
      without one the answer is wrong, and 0 for the error.
    - `lenient`, ours: the same, without what surrounds the answer, as `unwrapped` says.

    Under the prompt `prismatic` the answer is an option's letter in both. The tool stops at a question without an
    answer, and so does `official`; under the others it is wrong.
    """

    name = "tallyqa"
    declares = Declaration(
        title="TallyQA",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("*/accuracy", "accuracy on simple, on complex questions"),
            Metric(
                "*/rmse",
                "root mean squared error on simple, on complex questions",
                unit="objects",
                range=(0.0, None),
                lower_is_better=True,
            ),
        ),
        cluster="image",
        reply="number",
        files=("test.json, or its folder",),
        answers=("a list of `question_id`, `answer`",),
        missing={"official": "refused"},
    )
    variants = ("official", "number", LENIENT)
    prompts = ("llava-1.5", "prismatic")

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read test.json, or the folder that holds it.

        `prismatic` lists the counts 0 to 15 as options A to P and asks for the letter.
        """
        selected = self.choose_prompt(prompt)
        file = find_file(path, ("test.json",), "TallyQA questions")
        rows = read_json(file)
        if not rows_have(rows, "question_id", "issimple"):
            raise DataError(f"{file}: expected a list of objects with question_id and issimple. Is this of TallyQA?")
        return [_question(f"{file}: question {n}", row, selected) for n, row in enumerate(rows, start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read a list of `{"question_id", "answer"}`, answers as text or whole numbers, or LLaVA's answer lines."""
        rows = read_rows(path)
        if not rows_have(rows, "question_id", "answer"):
            return super().read_answers(path, questions)
        return answers_from((_with_text(row) for row in rows), "question_id", "answer", str(path))

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy and root mean squared error, simple and complex."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        if selected == LENIENT:
            texts = {key: unwrapped(text) for key, text in texts.items()}
        counts = {question.id: _count(question, texts.get(question.id, ""), selected) for question in questions}
        items = []
        for question in questions:
            said = counts[question.id]
            zero = 0 if selected == "official" and not question.details["options"] else None
            right = (zero if said is None else said) == int(question.references[0])
            items.append(item_of(question, texts, float(right and question.id in texts), read=said is not None))
        metrics = {"accuracy": percent([item.correct for item in items])}
        for kind in ("simple", "complex"):
            of_kind = [(q, i) for q, i in zip(questions, items, strict=True) if q.details["kind"] == kind]
            if of_kind:
                metrics |= _figures(kind, of_kind, counts)
        return self.result(selected, metrics, items, missing)


def _question(where: str, row: Any, prompt: str) -> Question:
    require_keys(row, ("question_id", "question", "image", "answer", "issimple"), where)
    simple = "simple" if row["issimple"] else None
    # Prismatic takes issimple at its word; where a file has no sources, so must we.
    kind = ("complex" if row["data_source"] == "amt" else simple) if "data_source" in row else simple or "complex"
    options = prompt == "prismatic"
    return Question(
        id=str(row["question_id"]),
        prompt=with_options(row["question"], _COUNTS) if options else row["question"] + SHORT_ANSWER,
        image=row["image"],
        cluster=row["image"],
        references=(str(int(row["answer"])),),
        details={"kind": kind, "options": options},
    )


def _with_text(row: Any) -> Any:
    whole = isinstance(row, Mapping) and isinstance(row.get("answer"), int)
    return {**row, "answer": str(row["answer"])} if whole else row


def _count(question: Question, text: str, variant: str) -> int | None:
    if question.details["options"]:
        letter = named_option(text, _COUNTS)
        return None if letter is None else LETTERS.index(letter)
    if variant == "official":
        return _whole(text.strip())
    numbers = (_whole(word) for word in normalise(text).split())
    return next((number for number in numbers if number is not None), None)


def _whole(word: str) -> int | None:
    """Return the number that `word` is in digits; more than nine digits are not taken as a count."""
    return int(word) if re.fullmatch("[0-9]{1,9}", word) else None


def _figures(kind: str, scored: Sequence[tuple[Question, Item]], counts: Mapping[str, int | None]) -> dict[str, float]:
    errors = [(counts[question.id] or 0) - int(question.references[0]) for question, _ in scored]
    return {
        f"{kind}/accuracy": percent([item.correct for _, item in scored]),
        f"{kind}/rmse": math.sqrt(sum(error**2 for error in errors) / len(errors)),
    }
