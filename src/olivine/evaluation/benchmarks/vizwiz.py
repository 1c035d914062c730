"""VizWiz-VQA: what blind people asked about their photographs, ten human answers each, many unanswerable.

The normaliser and the soft score are in `vqa_normaliser`; caption measures of answers (BLEU and the like) are not here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    by_detail,
    find_file,
    is_reply,
    item_of,
    read_rows,
    require_human_answers,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.vqa_normaliser import (
    normalise_m4c,
    normalise_vizwiz,
    rounded_percent,
    soft_score,
)
from olivine.files import read_json
from olivine.records import Answer, AnswerState, Question, Score
from olivine.wording import SHORT_ANSWER

_INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


@dataclass(frozen=True, slots=True)
class Prediction(Answer):
    """An entry of an official results file, with its score in [0, 1] that the question can be answered, if any."""

    answerable: float | None = None


class VizWiz(Benchmark):
    """VizWiz-VQA (the VizWiz API's `vqaEval.py`; kept in `TRI-ML/vlm-evaluation:vlm_eval/util/evaluation/vizwiz`).

    Metrics, in percent to two decimals as the tool rounds: `accuracy`, `answer_type/TYPE`, and
    `unanswerable/average_precision` and `unanswerable/f1` from the results file's `answerable` scores or, where not
    every answer has one, from whether the answer is "unanswerable" (as Prismatic does). One cluster is one image; an
    item's correctness is its soft score.

    Variants:

    - `official`: the answer is normalised, the human answers are compared as they are, and there is no gate for
      identical ones. The tool's contraction table has typographic apostrophes, so "didnt" can never be right.
    - `llava`: before that the answer goes through LLaVA's `EvalAIAnswerProcessor`, as in its
      `scripts/convert_vizwiz_for_submission.py`.
    - `lmms-eval`: that processor on both sides, and nothing else.
    - `lenient`, ours: the same for the short answer in the reply, as the module `lenient` reads it.

    The official tool stops at an image without an answer, and so do `official` and `llava`; under the others it is
    wrong. Unknown and repeated answers are refused by all (the tool ignores the former and keeps the last).
    """

    name = "vizwiz"
    declares = Declaration(
        title="VizWiz",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("answer_type/*", "accuracy by answer type"),
            Metric("unanswerable/average_precision", "average precision of finding the unanswerable"),
            Metric("unanswerable/f1", "F1 of finding the unanswerable"),
        ),
        cluster="image",
        reply="short text",
        files=("val.json or another split's, or its folder",),
        answers=("the official list of `image`, `answer`, `answerable`",),
        missing={"official": "refused", "llava": "refused"},
    )
    variants = ("official", "llava", "lmms-eval", LENIENT)
    prompts = ("llava-1.5", "lmms-eval")
    parquet = ParquetLayout(splits=("val", "test"), image=lambda row: _image(row.values))

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read val.json (or another split's), or the folder that holds it, or `lmms-lab/VizWiz-VQA`.

        `lmms-eval` writes the question in lower case with a capital. A question's id is its image's name.
        """
        selected = self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return [_question(row.where, _official_row(row), selected) for row in read_parquet(shards)]
        file = find_file(path, ("val.json", "Annotations/val.json"), "VizWiz annotations")
        rows = read_json(file)
        if not rows_have(rows, "image", "question"):
            raise DataError(f"{file}: expected a list of objects with image and question. Is this file of VizWiz?")
        return [_question(f"{file}: question {n}", row, selected) for n, row in enumerate(rows, start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official results, a list of `{"image", "answer", "answerable"?}`, or LLaVA's answer lines.

        LLaVA's `question_id` may be the image's name with or without its suffix.
        """
        rows = read_rows(path)
        if rows_have(rows, "image", "answer"):
            return [_prediction(f"{path}: answer {n}", row) for n, row in enumerate(rows, start=1)]
        known = {question.id for question in questions}
        return [
            Answer(f"{a.question_id}.jpg", a.text, a.state, a.error)
            if a.question_id not in known and f"{a.question_id}.jpg" in known
            else a
            for a in super().read_answers(path, questions)
        ]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total and per answer type, and how well unanswerable questions are recognised."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        require_human_answers(self.name, questions)
        of_answer, of_human = _CONVERSIONS[selected]
        items = []
        for question in questions:
            humans = [of_human(reference) for reference in question.references]
            said = of_answer(texts.get(question.id, ""))
            correct = soft_score(said, humans) if question.id in texts else 0.0
            items.append(item_of(question, texts, correct, read=is_reply(said, humans)))
        metrics = {"accuracy": rounded_percent([item.correct for item in items])}
        metrics |= by_detail("answer_type", questions, items, rounded_percent)
        if not missing:
            metrics |= _unanswerability(questions, answers)
        return self.result(selected, metrics, items, missing)


def _as_is(text: str) -> str:
    return text


def _llava(text: str) -> str:
    return normalise_vizwiz(normalise_m4c(text))


def _lenient(text: str) -> str:
    return normalise_m4c(short_text(text))


#: What a variant does to the answer and to each human answer.
_CONVERSIONS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "official": (normalise_vizwiz, _as_is),
    "llava": (_llava, _as_is),
    "lmms-eval": (normalise_m4c, normalise_m4c),
    LENIENT: (_lenient, normalise_m4c),
}


def _official_row(row: ParquetRow) -> dict[str, Any]:
    """Return a row of the Hugging Face copy in the format of the annotations; the copy has bare human answers."""
    require_keys(row.values, ("question_id", "question"), row.where)
    humans = [{"answer": answer} for answer in row.values.get("answers") or ()]
    kind = row.values.get("category")
    return {"image": _image(row.values), "question": row.values["question"], "answers": humans, "answer_type": kind}


def _image(row: Mapping[str, Any]) -> str:
    return str(row["question_id"]).removesuffix(".jpg") + ".jpg"


def _question(where: str, row: Any, prompt: str) -> Question:
    require_keys(row, ("image", "question"), where)
    humans = row.get("answers", [])
    for human in humans:
        require_keys(human, ("answer",), f"{where}: a human answer")
    text = row["question"].capitalize() if prompt == "lmms-eval" else row["question"]
    return Question(
        id=row["image"],
        prompt=text + _INSUFFICIENT + SHORT_ANSWER,
        image=row["image"],
        cluster=row["image"],
        references=tuple(human["answer"] for human in humans),
        details={"answer_type": row.get("answer_type"), "answerable": row.get("answerable")},
    )


def _prediction(where: str, row: Any) -> Prediction:
    require_keys(row, ("image", "answer"), where)
    text, answerable = row["answer"], row.get("answerable")
    if not isinstance(text, str) or not isinstance(answerable, int | float | None):
        raise DataError(f"{where}: expected answer as text and answerable, if any, as a number.")
    state = AnswerState.ANSWERED if text.strip() else AnswerState.EMPTY
    return Prediction(row["image"], text, state, answerable=answerable)


def _unanswerability(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, float]:
    """Average precision and F1 of finding the unanswerable, where the annotations tell which they are."""
    if any(question.details["answerable"] is None for question in questions):
        return {}
    scores = {a.question_id: a.answerable for a in answers if isinstance(a, Prediction) and a.answerable is not None}
    if len(scores) < len(questions):
        scores = {a.question_id: float(normalise_vizwiz(a.text) != "unanswerable") for a in answers}
    gold = [not question.details["answerable"] for question in questions]
    said = [1.0 - scores[question.id] for question in questions]
    return {
        "unanswerable/average_precision": round(100 * _average_precision(gold, said), 2),
        "unanswerable/f1": round(100 * _f1(gold, [score > 0.5 for score in said]), 2),
    }


def _average_precision(gold: Sequence[bool], scores: Sequence[float]) -> float:
    """Precision at each distinct score, weighted by the recall gained there (scikit-learn's definition)."""
    positives = sum(gold)
    ranked = sorted(zip(scores, gold, strict=True), key=lambda pair: -pair[0])
    total = 0.0
    found = gained = 0
    for rank, (score, positive) in enumerate(ranked, start=1):
        found += positive
        gained += positive
        if rank == len(ranked) or ranked[rank][0] != score:
            total += gained * found / rank
            gained = 0
    return total / positives if positives else 0.0


def _f1(gold: Sequence[bool], said: Sequence[bool]) -> float:
    hits = sum(a and b for a, b in zip(gold, said, strict=True))
    return 2 * hits / (sum(gold) + sum(said)) if hits else 0.0
