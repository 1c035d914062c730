"""SEED-Bench (first version): four-choice questions on images and on short videos' frames.

Its official protocol ranks the choices by likelihood; that is no answer and not here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.parquet import ParquetLayout
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    LETTERS,
    agrees,
    answers_from,
    by_detail,
    find_file,
    graded,
    percent,
    read_rows,
    require_keys,
    rows_have,
)
from olivine.files import read_json
from olivine.records import Answer, Question, Score
from olivine.wording import with_options

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


class SEEDBench(Benchmark):
    """SEED-Bench with generated answers.

    Metrics, in percent: `accuracy` (all questions), `data/image`, `data/video`, `type/NAME`. One cluster is one image
    or video. A missing answer is wrong.

    Variants: `llava`, the answer equals the letter exactly (scripts/convert_seed_for_submission.py of LLaVA);
    `lmms-eval`, its first character does, outer white space aside (lmms_eval/tasks/seedbench/utils.py);
    `lenient`, ours: the option that the answer chooses in whatever words, as `lenient_option` says.
    """

    name = "seed"
    declares = Declaration(
        title="SEED-Bench",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("data/*", "accuracy on images, on videos"),
            Metric("type/*", "accuracy by question type"),
        ),
        cluster="image or video",
        reply="choice",
        files=("SEED-Bench.json, or its folder",),
        answers=("the leaderboard's lines of `question_id`, `prediction`",),
    )
    variants = ("llava", "lmms-eval", LENIENT)

    parquet = ParquetLayout(splits=("test",), image=lambda row: _image(row.values))

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read SEED-Bench.json, the folder that holds it, or `lmms-lab/SEED-Bench`.

        The last names question types by number alone, and so do the metrics then.

        Images are `SEED-Bench-image/DATA_ID`; a video's middle frame `SEED-Bench-video-image/QUESTION_ID.png`.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            rows = read_parquet(shards)
            numbers = {row.values.get("question_type_id"): str(row.values.get("question_type_id")) for row in rows}
            return [_question(row.values, numbers, row.where) for row in rows]
        file = find_file(path, ("SEED-Bench.json",), "SEED-Bench questions")
        content = read_json(file)
        require_keys(content, ("question_type", "questions"), f"{file}")
        names = {number: name for name, number in content["question_type"].items()}
        return [_question(row, names, f"{file}: question {n}") for n, row in enumerate(content["questions"], start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read the leaderboard's lines (`question_id`, `prediction`), or LLaVA's answer lines."""
        rows = read_rows(path)
        if rows_have(rows, "prediction"):
            return answers_from(rows, "question_id", "prediction", str(path))
        return super().read_answers(path, questions)

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total, for images and videos, and per type."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        if selected == "lmms-eval":
            texts = {key: text.strip()[:1] for key, text in texts.items()}
        if selected == LENIENT:
            choices = {question.id: question.details["choices"] for question in questions}
            texts = {key: option(text, choices[key]) or "" for key, text in texts.items()}
        items = graded(questions, texts, lambda text, question: agrees(text, question.references[0], "ABCD"))
        metrics = {"accuracy": percent([item.correct for item in items])}
        for name in ("data", "type"):
            metrics |= by_detail(name, questions, items)
        return self.result(selected, metrics, items, missing)


def _image(row: Mapping[str, Any]) -> str:
    is_video = row["data_type"] == "video"
    return f"SEED-Bench-video-image/{row['question_id']}.png" if is_video else f"SEED-Bench-image/{row['data_id']}"


def _question(row: Any, names: Mapping[Any, str], where: str) -> Question:
    require_keys(
        row, ("question_id", "question", "answer", "data_id", "data_type", "question_type_id", *_CHOICES), where
    )
    if row["question_type_id"] not in names:
        raise DataError(f"{where}: question type {row['question_type_id']!r} has no name in question_type.")
    return Question(
        id=str(row["question_id"]),
        prompt=with_options(row["question"], [row[choice] for choice in _CHOICES]),
        image=_image(row),
        cluster=str(row["data_id"]),
        references=(row["answer"],),
        details={
            "data": row["data_type"],
            "type": names[row["question_type_id"]],
            "choices": {letter: row[choice] for letter, choice in zip(LETTERS, _CHOICES, strict=False)},
        },
    )
