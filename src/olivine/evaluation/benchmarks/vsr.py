"""VSR: is a statement about the positions of two objects in an image true?

Probabilities of "True" and "False" (Prismatic's AUROC and AUPR) are not scored here: they are not answers.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, yes_no
from olivine.evaluation.benchmarks.parsing import (
    agrees,
    by_detail,
    find_file,
    fraction,
    graded,
    read_lines,
    require_keys,
    vlmevalkit_yes_no,
)
from olivine.files import read_json_lines
from olivine.records import Answer, Question, Score


class VSR(Benchmark):
    """Visual Spatial Reasoning (`cambridgeltl/visual-spatial-reasoning:analysis_scripts/eval_compute_acc_by_*.py`).

    Metrics, as fractions: `accuracy`, `relation/NAME`, and `category/NAME` where rel_meta_category_dict.txt of the
    official repository is available (relations outside it are in no category). One cluster is one image. Missing
    answers are wrong; the official predictions file must have one line a statement.

    Variants:

    - `official`: the predicted label 0 or 1; for a model's words, true or yes against false or no, whole words in
      any case, only one of the two kinds, else wrong.
    - `vlmevalkit`: whole words yes or no, but not both, else wrong.
    - `lenient`, ours: yes or no as the answer says in whatever words, as `lenient.yes_no` reads it; else wrong.

    Args:
        categories: that file; by default the one beside the split file, if any.
    """

    name = "vsr"
    declares = Declaration(
        title="VSR",
        metrics=(
            Metric("accuracy", "accuracy", scale=100.0, mean_of_items=True, reported=True),
            Metric("relation/*", "accuracy by relation", scale=100.0),
            Metric("category/*", "accuracy by category of relations", scale=100.0),
        ),
        cluster="image",
        reply="yes-no",
        files=("a split's JSON lines, or the folder with test.jsonl or zeroshot/test.jsonl",),
        answers=("the official predictions: a 0 or 1 a line",),
    )
    variants = ("official", "vlmevalkit", LENIENT)

    def __init__(self, categories: Path | None = None) -> None:
        self._categories = categories

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read a split file, or a folder with test.jsonl or zeroshot/test.jsonl (the split that papers report).

        The prompt is what Prismatic's evaluation asks LLaVA-1.5.
        """
        self.choose_prompt(prompt)
        file = find_file(path, ("test.jsonl", "zeroshot/test.jsonl"), "VSR split")
        beside = self._categories or file.with_name("rel_meta_category_dict.txt")
        categories = _read_categories(beside) if self._categories or beside.is_file() else {}
        questions = []
        for number, row in enumerate(read_json_lines(file)):
            require_keys(row, ("image", "caption", "label", "relation"), f"{file}: line {number + 1}")
            questions.append(
                Question(
                    id=str(number),
                    prompt=f'Based on the image, is this statement "True" or "False"? {row["caption"]}\n'
                    'Respond with "True" or "False" directly.',
                    image=row["image"],
                    cluster=row["image"],
                    references=(str(row["label"]),),
                    details={"relation": row["relation"], "category": categories.get(row["relation"])},
                )
            )
        return questions

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official predictions (a 0 or 1 a line, in the statements' order), or LLaVA's answer lines."""
        lines = [line.strip() for line in read_lines(path)]
        if not lines or not set(lines) <= {"0", "1"}:
            return super().read_answers(path, questions)
        if len(lines) != len(questions):
            raise DataError(f"{path}: {len(lines)} predictions for {len(questions)} statements; expected one a line.")
        return [Answer(question.id, line) for question, line in zip(questions, lines, strict=True)]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total, per relation and per category."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        parse = _PARSERS[selected]
        items = graded(questions, texts, lambda text, question: agrees(parse(text), question.references[0]))
        metrics = {"accuracy": fraction([item.correct for item in items])}
        for name in ("relation", "category"):
            metrics |= by_detail(name, questions, items, fraction)
        return self.result(selected, metrics, items, missing)


def _read_categories(path: Path) -> Mapping[str, str]:
    """Read relation to category from lines `Category: relation, relation`; the last line that names a relation wins."""
    categories: dict[str, str] = {}
    for line in read_lines(path):
        category, colon, relations = line.partition(":")
        if not colon:
            raise DataError(f"{path}: line {line!r}; expected 'Category: relation, relation'.")
        categories |= {relation.strip(): category.strip() for relation in relations.split(",")}
    return categories


def _official(text: str) -> str | None:
    words = set(re.findall(r"[a-z0-9]+", text.lower()))
    true, false = bool(words & {"true", "yes", "1"}), bool(words & {"false", "no", "0"})
    return str(int(true)) if true != false else None


def _vlmevalkit(text: str) -> str | None:
    return _label(vlmevalkit_yes_no(text))


def _lenient(text: str) -> str | None:
    return _label(yes_no(text))


def _label(said: str | None) -> str | None:
    return None if said is None else str(int(said == "yes"))


_PARSERS: dict[str, Callable[[str], str | None]] = {"official": _official, "vlmevalkit": _vlmevalkit, LENIENT: _lenient}
