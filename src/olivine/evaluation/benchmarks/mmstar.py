"""MMStar: 1,500 multiple-choice questions that need their image, six categories of three sub-categories.

The TSV itself contains the images; `parsing.unpack_images` extracts them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.parquet import ParquetLayout
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    agrees,
    by_detail,
    find_file,
    fraction,
    graded,
    read_rows,
    read_table,
    require_keys,
)
from olivine.records import Answer, Question, Score
from olivine.wording import OPTION_LETTER

#: Every question has four.
_OPTIONS = "ABCD"


class MMStar(Benchmark):
    """MMStar (`MMStar-Benchmark/MMStar:eval/vlmeval/evaluate/mmstar.py`).

    An answer is right if, in lower case and stripped, it begins with the letter, `(` and the letter, `option ` and
    the letter, or `the answer is ` and the letter (so `A man` is an A). Metrics, as fractions: `accuracy`,
    `category/NAME`, `l2_category/NAME`. One cluster is one question. A missing answer is wrong.

    Variants: `official`, the accuracy over all questions (the tool divides by 1,500 and each category by 250, which
    is what the whole set has); `lmms-eval`, the mean of the sub-categories' accuracies;
    `lenient`, ours: the option that the answer chooses in whatever words, as `lenient_option` says.
    """

    name = "mmstar"
    declares = Declaration(
        title="MMStar",
        metrics=(
            Metric(
                "accuracy", "accuracy", scale=100.0, mean_of_items=True, reported=True, variants=("official", LENIENT)
            ),
            Metric("accuracy", "mean accuracy of sub-categories", scale=100.0, reported=True, variants=("lmms-eval",)),
            Metric("category/*", "accuracy by category", scale=100.0),
            Metric("l2_category/*", "accuracy by sub-category", scale=100.0),
        ),
        cluster="question",
        reply="choice",
        files=("MMStar.tsv, its folder, or its columns as JSON lines",),
    )
    variants = ("official", "lmms-eval", LENIENT)
    prompts = ("llava-1.5", "original")
    parquet = ParquetLayout(splits=("val",), image=lambda row: f"{row.values['index']}.jpg")

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read MMStar.tsv, its columns as JSON lines, a folder with the former, or `Lin-Chen/MMStar`.

        The question contains the options; `llava-1.5` adds its closing instruction, `original` nothing. Images are
        `INDEX.jpg`.
        """
        wording = "" if self.choose_prompt(prompt) == "original" else OPTION_LETTER
        shards = self.shards(path)
        rows: Any
        if shards:
            file, rows = path, [row.values for row in read_parquet(shards)]
        else:
            file = find_file(path, ("MMStar.tsv",), "MMStar questions")
            rows = read_table(file, "\t") if file.suffix == ".tsv" else read_rows(file)
        questions = []
        for number, row in enumerate(rows, start=1):
            require_keys(row, ("index", "question", "answer", "category", "l2_category"), f"{file}: row {number}")
            key = str(row["index"])
            questions.append(
                Question(
                    id=key,
                    prompt=row["question"].strip() + wording,
                    image=f"{key}.jpg",
                    cluster=key,
                    references=(row["answer"],),
                    details={"category": row["category"], "l2_category": row["l2_category"]},
                )
            )
        return questions

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total, per category and per sub-category."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        items = graded(questions, texts, _is_leniently_right if selected == LENIENT else _is_right)
        groups = {name: by_detail(name, questions, items, fraction) for name in ("category", "l2_category")}
        micro, macro = fraction([item.correct for item in items]), fraction(list(groups["l2_category"].values()))
        metrics = {"accuracy": macro if selected == "lmms-eval" else micro}
        return self.result(selected, metrics | groups["category"] | groups["l2_category"], items, missing)


def _is_right(text: str, question: Question) -> bool | None:
    right = _names(text, question.references[0])
    return right if right or any(_names(text, letter) for letter in _OPTIONS) else None


def _is_leniently_right(text: str, question: Question) -> bool | None:
    return agrees(option(text, _options_in(question.prompt)), question.references[0].strip().upper())


def _options_in(prompt: str) -> dict[str, str]:
    """Return the options that a question lists ("Options: A: red, B: blue"), without texts where it lists none."""
    listed = re.split(r"(?:^|[\s,(])([A-D])[:.)]\s", prompt.removesuffix(OPTION_LETTER).partition("Options:")[2])
    found = {letter: text.strip(" ,\n") for letter, text in zip(listed[1::2], listed[2::2], strict=True)}
    return found or dict.fromkeys(_OPTIONS, "")


def _names(text: str, gold: str) -> bool:
    letter = gold.lower().strip()
    leads = ("", "(", "option ", "the answer is ")
    return text.lower().strip().replace("\n", " ").startswith(tuple(lead + letter for lead in leads))
