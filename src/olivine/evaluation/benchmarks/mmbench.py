"""MMBench: every question asked once for each rotation of its options; right only if right every time.

The judge for answers that no rule can parse is not implemented: such answers are wrong. The TSV contains the images;
`parsing.unpack_images` extracts them.
"""

from collections.abc import Callable, Mapping, Sequence
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
    agrees,
    answers_from,
    by_detail,
    graded,
    percent,
    read_lines,
    read_table,
    require_keys,
    vlmevalkit_option,
)
from olivine.records import Answer, Item, Question, Score
from olivine.wording import with_options

#: Rows whose indices agree modulo this are rotations of one question; the one below it is the question itself.
_ROTATION = 1_000_000

_LETTERS = "ABCD"

#: What the older evaluator accepts around a lone letter, in its order.
_AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


class MMBench(Benchmark):
    """MMBench (`open-compass/VLMEvalKit:vlmeval/dataset/utils/multiple_choice.py`, its exact matching).

    Metrics, in percent: `accuracy` (CircularEval: questions right in all their rotations), `vanilla` (questions
    right as first asked), `split/NAME`, `category/NAME`, `l2-category/NAME` of the former. One cluster is one question
    with its rotations; items are single rows. A missing answer is wrong.

    Variants, the ways to read the answer:

    - `official`: marks become spaces; exactly one letter among the last words, or else exactly one option's text.
    - `original`: the older evaluator (kept in lmms-eval's mmbench_evals.py). Exactly one letter A to E occurs alone
      between spaces (but a lone `A` among more than three words is an article), or occurs so with one of twelve
      kinds of marks around it, or else exactly one option's text occurs.
    - `lenient`, ours: the option that the answer chooses in whatever words, as `lenient_option` says.
    """

    name = "mmbench"
    declares = Declaration(
        title="MMBench",
        metrics=(
            Metric("accuracy", "accuracy over all rotations", reported=True),
            Metric("vanilla", "accuracy on questions as first asked"),
            Metric("split/*", "accuracy over all rotations by split"),
            Metric("category/*", "accuracy over all rotations by category"),
            Metric("l2-category/*", "accuracy over all rotations by upper category"),
        ),
        cluster="question with its rotations",
        reply="choice",
        files=("the TSV with index, question, hint, A to D, answer",),
        answers=("a TSV or CSV with `index`, `prediction`",),
    )
    variants = ("official", "original", LENIENT)
    max_new_tokens = 1024
    parquet = ParquetLayout(
        splits=("dev", "test"), image=lambda row: f"{int(row.values['index']) % _ROTATION}.jpg", configs=("en",)
    )

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read an MMBench TSV (index, question, hint, A to D, answer, category, l2-category, split).

        Or `lmms-lab/MMBench`: the dev split of its config en, or of the one named.

        Images are `INDEX.jpg` of the question itself. A test file without answers can be asked but not scored.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return [_question(_as_text(row.values), row.where) for row in read_parquet(shards)]
        rows = read_table(path, "\t")
        return [_question(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read a table with the columns `index` and `prediction` (the upload as TSV or CSV), or LLaVA's lines."""
        header = next(iter(read_lines(path)), "")
        if "prediction" not in header or header.startswith("{"):
            return super().read_answers(path, questions)
        return answers_from(read_table(path, "\t" if "\t" in header else ","), "index", "prediction", str(path))

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute circular and vanilla accuracy."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        hidden = [question.id for question in questions if not question.references]
        if hidden:
            raise DataError(f"{self.name}: row {hidden[0]} has no answer (a test file?); it cannot be scored here.")
        parse = _PARSERS[selected]
        items = graded(questions, texts, lambda text, q: _agrees(parse, text, q))
        rotations: dict[str, list[float]] = {}
        for item in items:
            rotations.setdefault(item.cluster, []).append(item.correct)
        asked = [question for question in questions if question.id == question.cluster]
        circular = [Item(q.id, q.cluster, float(all(rotations[q.cluster]))) for q in asked]
        metrics = {
            "accuracy": percent([item.correct for item in circular]),
            "vanilla": percent([item.correct for item in items if item.question_id == item.cluster]),
        }
        for name in ("split", "category", "l2-category"):
            metrics |= by_detail(name, asked, circular)
        return self.result(selected, metrics, items, missing)


def _agrees(parse: Callable[[str, Mapping[str, str]], str | None], text: str, question: Question) -> bool | None:
    options: Mapping[str, str] = question.details["options"]
    return agrees(parse(text, options), question.references[0], options)


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in row.items()}


def _question(row: Mapping[str, str], where: str) -> Question:
    require_keys(row, ("index", "question", *_LETTERS[:2]), where)
    if not row["index"].isdecimal():
        raise DataError(f"{where}: index {row['index']!r}; expected a whole number.")
    options = {letter: row[letter] for letter in _LETTERS if row.get(letter, "") not in ("", "nan")}
    answer = row.get("answer", "")
    if answer and answer not in options:
        raise DataError(f"{where}: answer {answer!r}; expected one of {', '.join(options)}.")
    hint = row.get("hint", "")
    main = str(int(row["index"]) % _ROTATION)
    return Question(
        id=row["index"],
        prompt=with_options((f"{hint}\n" if hint not in ("", "nan") else "") + row["question"], list(options.values())),
        image=f"{main}.jpg",
        cluster=main,
        references=(answer,) if answer else (),
        details={
            "options": options,
            "split": row.get("split", ""),
            "category": row.get("category", ""),
            "l2-category": row.get("l2-category", row.get("L2-category", "")),
        },
    )


def _original(text: str, options: Mapping[str, str]) -> str | None:
    words = text.split()
    letters = [letter for letter in "ABCDE" if letter in words]
    if len(letters) == 1 and not (letters == ["A"] and len(words) > 3):
        return letters[0]
    for before, after in _AROUND:
        marked = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
        if len(marked) == 1:
            return marked[0]
    contained = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return contained[0] if len(contained) == 1 else None


_PARSERS: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {
    "official": vlmevalkit_option,
    "original": _original,
    LENIENT: option,
}
