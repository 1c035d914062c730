"""AI2D: multiple-choice questions on school diagrams.

The diagrams' annotations are not read here. Scores on the published copies with and without letters drawn into the
images differ by points; the image root decides which one is used.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    LETTERS,
    agrees,
    by_detail,
    graded,
    named_option,
    percent,
    read_lines,
    require_keys,
    vlmevalkit_option,
)
from olivine.files import read_json
from olivine.records import Answer, Question, Score
from olivine.wording import with_options


class AI2D(Benchmark):
    """AI2D (plain four-choice accuracy; the data set has no scoring tool of its own).

    Metrics, in percent: `accuracy` over the questions read, and `split/test`, `split/val` where the list of test
    diagrams is available. One cluster is one diagram. A missing answer is wrong.

    Variants: `letter`, our rule (the answer names the option's letter or is its text); `lmms-eval`, a letter and
    period at the start, or else the whole answer, equals the letter; `vlmevalkit`, exactly one letter, or else one
    option's text, occurs in the answer; `lenient`, ours, the option that the answer chooses in whatever words, as
    `lenient_option` says.

    Args:
        split: `test` (the diagrams of ai2d_test_ids.csv, if it is beside the folders), `val` (the rest) or `all`.
    """

    name = "ai2d"
    declares = Declaration(
        title="AI2D",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("split/*", "accuracy by split"),
        ),
        cluster="diagram",
        reply="choice",
        files=("the archive's folder: `questions/*.json`, `images/`, `ai2d_test_ids.csv`",),
    )
    variants = ("letter", "lmms-eval", "vlmevalkit", LENIENT)

    parquet = ParquetLayout(splits=("test",), image=lambda row: f"{row.index}.png")

    def __init__(self, split: str = "test") -> None:
        self._split = split

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read the folder that holds `questions/*.json` (and `images/`, `ai2d_test_ids.csv`), or `lmms-lab/ai2d`.

        The latter has the test questions without ids or diagrams' names: a row's number is its id and its cluster.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return [_of_row(row) for row in read_parquet(shards)]
        files = sorted((path / "questions").glob("*.json"))
        if not files:
            raise DataError(f"{path}: no questions/*.json in it. Expected the folder of AI2D's archive.")
        test = _test_ids(path / "ai2d_test_ids.csv")
        questions = []
        for file in files:
            split = None if test is None else ("test" if file.name.split(".")[0] in test else "val")
            if split is None or self._split in ("all", split):
                questions += _questions(file, split)
        if not questions:
            raise DataError(f"{path}: no question of the split {self._split!r} (test, val or all).")
        return questions

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total and per split."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        parse = _PARSERS[selected]
        items = graded(questions, texts, lambda text, q: _agrees(parse, text, q))
        metrics = {"accuracy": percent([item.correct for item in items])} | by_detail("split", questions, items)
        return self.result(selected, metrics, items, missing)


def _agrees(parse: Callable[[str, Sequence[str]], str | None], text: str, question: Question) -> bool | None:
    choices: Sequence[str] = question.details["choices"]
    return agrees(parse(text, choices), question.references[0], LETTERS[: len(choices)])


def _test_ids(path: Path) -> frozenset[str] | None:
    return frozenset(line.strip() for line in read_lines(path)) if path.is_file() else None


def _questions(file: Path, split: str | None) -> list[Question]:
    content = read_json(file)
    require_keys(content, ("imageName", "questions"), f"{file}")
    return [_question(text, row, content["imageName"], split, file) for text, row in content["questions"].items()]


def _question(text: str, row: Mapping[str, Any], image: str, split: str | None, file: Path) -> Question:
    require_keys(row, ("questionId", "answerTexts", "correctAnswer"), f"{file}: question {text!r}")
    choices = list(row["answerTexts"])
    if not 0 <= row["correctAnswer"] < len(choices) <= len(LETTERS):
        raise DataError(f"{file}: question {text!r}: answer {row['correctAnswer']} of {len(choices)} choices.")
    return Question(
        id=row["questionId"],
        prompt=with_options(text, choices),
        image=f"images/{image}",
        cluster=image,
        references=(LETTERS[row["correctAnswer"]],),
        details={"choices": choices, "split": split},
    )


def _of_row(row: ParquetRow) -> Question:
    require_keys(row.values, ("question", "options", "answer"), row.where)
    choices, answer = list(row.values["options"]), str(row.values["answer"])
    if not answer.isdecimal() or not int(answer) < len(choices) <= len(LETTERS):
        raise DataError(f"{row.where}: answer {answer!r} of {len(choices)} choices.")
    return Question(
        id=str(row.index),
        prompt=with_options(row.values["question"], choices),
        image=f"{row.index}.png",
        cluster=str(row.index),
        references=(LETTERS[int(answer)],),
        details={"choices": choices, "split": "test"},
    )


def _lmms_eval(text: str, choices: Sequence[str]) -> str:  # noqa: ARG001
    found = re.match(r"\s*([A-Z])\.", text)
    return found[1] if found else text


def _vlmevalkit(text: str, choices: Sequence[str]) -> str | None:
    return vlmevalkit_option(text, dict(zip(LETTERS, choices, strict=False)))


_PARSERS: dict[str, Callable[[str, Sequence[str]], str | None]] = {
    "letter": named_option,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
    LENIENT: lambda text, choices: option(text, dict(zip(LETTERS, choices, strict=False))),
}
