"""MMMU: college examination questions in thirty subjects, multiple-choice and open.

Only the first image of a question is asked, as the official LLaVA run does; MMMU-Pro is not implemented.
"""

import ast
import random
import re
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
    answers_from,
    by_detail,
    fraction,
    item_of,
    read_rows,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.unwrapped import unwrapped
from olivine.files import read_json
from olivine.records import Answer, Item, Question, Score
from olivine.wording import OPTION_LETTER, SHORT_ANSWER

_DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
_DOMAIN_OF = {subject: domain for domain, subjects in _DOMAINS.items() for subject in subjects}

#: Words that the result of an open answer tends to follow; in its last line also `=`.
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


class MMMU(Benchmark):
    """MMMU (`MMMU-Benchmark/MMMU:mmmu/utils/eval_utils.py`).

    Metrics, as fractions (the tool prints three decimals): `accuracy`, `domain/NAME`, `subject/NAME`. One cluster is
    one question. The official tool scores only the given answers: an unanswered question is excluded from the metrics
    and the items, and reported as missing.

    A multiple-choice answer names the options `(X)` in it, or else the X between spaces, or else, in more than five
    words, the options whose text it holds; the last one named counts, and if none is, one is drawn at random (seed 42,
    subjects in alphabetical order, as there). Where the options are not known (answer_dict_val.json) the answer must
    be the letter. An open answer is right if the tail after a word like "is" or "answer" holds a gold text, or a
    number in it equals a gold number to two decimals.

    Variants: `official`; `lenient`, ours: the option that the answer chooses in any words, as `lenient_option` says.
    Nothing is drawn at random: an answer that chooses none is wrong, and so is a missing one. Open answers are stripped
    of what surrounds them, then read as the official tool does.
    """

    name = "mmmu"
    declares = Declaration(
        title="MMMU",
        metrics=(
            Metric("accuracy", "accuracy", scale=100.0, mean_of_items=True, reported=True),
            Metric("domain/*", "accuracy by domain", scale=100.0),
            Metric("subject/*", "accuracy by subject", scale=100.0),
        ),
        cluster="question",
        reply="choice",
        files=("questions with the published columns as JSON or JSON lines", "answer_dict_val.json (scoring only)"),
        answers=("`{ID: answer}`", "rows with `id`, `response`", "a folder of `SUBJECT/output.json`"),
        missing={"official": "excluded"},
    )
    variants = ("official", LENIENT)
    where_texts_are = "answer_dict_val.json and the shipped outputs do not hold them: give the published questions."

    parquet = ParquetLayout(
        splits=("validation", "dev", "test"),
        image=lambda row: f"{row.values['id']}_1.png",
        every_config=True,
        column="image_1",
    )

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read questions with the published columns as JSON or JSON lines, answer_dict_val.json, or a folder of
        outputs (`SUBJECT/output.json`, as the official repository ships), or `MMMU/MMMU` with any of its subjects.

        The first image is the text of `image_1` if it is one, else `ID_1.png`; none where an option is an image.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return [_question(row.values, row.where) for row in read_parquet(shards)]
        if path.is_dir():
            return [_question(row, f"{file}") for file in _outputs(path) for row in read_json(file)]
        rows = read_rows(path)
        if isinstance(rows, Mapping):
            rows = [
                {"id": key, "question": "", "options": [], **_gold_entry(row, path, key)} for key, row in rows.items()
            ]
        return [_question(row, f"{path}: question {number}") for number, row in enumerate(rows, start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official outputs (`{ID: answer}`, or rows with `id` and `response`, or a folder of such), or LLaVA's."""
        if path.is_dir():
            rows: Any = [row for file in _outputs(path) for row in read_json(file)]
        else:
            rows = read_rows(path)
        if isinstance(rows, Mapping):
            rows = [{"id": key, "response": text} for key, text in rows.items()]
        if rows_have(rows, "id", "response"):
            return answers_from(rows, "id", "response", str(path))
        return super().read_answers(path, questions)

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total, per domain and per subject."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        if not texts:
            raise DataError(f"{self.name}: no answer to any of the {len(questions)} questions. Is this the right file?")
        rng = random.Random(42)  # noqa: S311
        excluded = self.missing_rule(selected) == "excluded"
        scored = [q for q in questions if q.id in texts or not excluded]
        scored.sort(key=lambda question: question.details["subject"])
        items = [
            _lenient_item(question, texts) if selected == LENIENT else _item(question, texts, rng)
            for question in scored
        ]
        metrics = {"accuracy": fraction([item.correct for item in items])}
        for name in ("domain", "subject"):
            metrics |= by_detail(name, scored, items, fraction)
        return self.result(selected, metrics, items, missing)


def _outputs(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*/output.json"))
    if not files:
        raise DataError(f"{folder}: no SUBJECT/output.json in it. Expected the official repository's example outputs.")
    return files


def _gold_entry(row: Any, path: Path, key: str) -> dict[str, Any]:
    require_keys(row, ("question_type", "ground_truth"), f"{path}: {key}")
    return {"question_type": row["question_type"], "answer": row["ground_truth"]}


def _question(row: Any, where: str) -> Question:
    require_keys(row, ("id", "question_type", "answer"), where)
    key = str(row["id"])
    # The published columns hold lists as their Python text.
    options = list(row["index2ans"].values()) if "index2ans" in row else _as_list(row.get("options", []))
    gold = _as_list(row["answer"]) if row["question_type"] != "multiple-choice" else [row["answer"]]
    subject = "_".join(key.split("_")[1:-1])
    text = re.sub(r"\s*<image \d+>\s*", " ", row.get("question", "")).strip()
    lettered = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    closing = f"\n{lettered}\n{OPTION_LETTER}" if options else f"\n{SHORT_ANSWER}"
    options_are_images = any("<image " in option or "<img=" in option for option in options)
    named = row.get("image_1")
    return Question(
        id=key,
        prompt=text + closing if text else "",
        image=None if options_are_images else (named if isinstance(named, str) else f"{key}_1.png"),
        cluster=key,
        references=tuple(str(answer) for answer in gold),
        details={
            "type": row["question_type"],
            "options": dict(zip(LETTERS, options, strict=False)),
            "subject": subject,
            "domain": _DOMAIN_OF.get(subject),
        },
    )


def _as_list(value: Any) -> list[str]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return [value]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _item(question: Question, texts: Mapping[str, str], rng: random.Random) -> Item:
    text = texts.get(question.id, "")
    read = bool(text.strip())
    correct = False
    if question.details["type"] != "multiple-choice":
        correct = _is_open_right(text, question)
    elif not question.details["options"]:
        correct, read = text in question.references, text in tuple(LETTERS)
    elif question.id in texts:
        letter = _choice(text, question.details["options"])
        read = letter is not None
        correct = (letter or rng.choice(list(question.details["options"]))) in question.references
    return item_of(question, texts, float(correct and question.id in texts), read=read)


def _lenient_item(question: Question, texts: Mapping[str, str]) -> Item:
    text = texts.get(question.id, "")
    if question.details["type"] == "multiple-choice":
        letter = option(text, question.details["options"] or dict.fromkeys(LETTERS[:10], ""))
        return item_of(question, texts, float(letter in question.references), read=letter is not None)
    said = unwrapped(text)
    return item_of(question, texts, float(bool(said) and _is_open_right(said, question)), read=bool(said))


def _is_open_right(text: str, question: Question) -> bool:
    gold = [norm for answer in question.references for norm in _normalised(answer)]
    for said in _open_answers(text):
        if said in gold if isinstance(said, float) else any(isinstance(g, str) and g in said for g in gold):
            return True
    return False


def _choice(text: str, options: Mapping[str, str]) -> str | None:
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    found = {letter: text.rfind(f"({letter})") for letter in options}
    if max(found.values()) < 0:
        found = {letter: text.rfind(f" {letter} ") for letter in options}
    if max(found.values()) < 0 and len(text.split()) > 5:
        found = {letter: text.lower().rfind(option.lower()) for letter, option in options.items()}
    if max(found.values()) < 0:
        return None
    return max(found, key=lambda letter: found[letter])


def _open_answers(text: str) -> set[str | float]:
    """Return the possible results of an open answer: texts after an indicator and their numbers, normalised."""
    tails = _tails(text)
    return {norm for said in [*tails, *(n for tail in tails for n in _numbers(tail))] for norm in _normalised(said)}


def _tails(text: str) -> list[str]:
    text = text.strip().strip(".").lower()
    # The tool also splits sentences before a capital, but has lower-cased the text by then.
    lines = text.split("\n")
    tails = []
    for number, line in enumerate(lines, start=1):
        shortest = ""
        for indicator in (*_INDICATORS, "=") if number == len(lines) else _INDICATORS:
            tail = line.split(indicator)[-1].strip()
            if indicator in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in tuple(":,.!?;'"):
            tails.append(shortest)
    return tails or [text]


def _numbers(text: str) -> list[str]:
    """Return numbers with thousands separators, in scientific notation, and plain ones."""
    grouped = re.findall(r"-?\b\d{1,3}(?:,\d{3})+\b", text)
    scientific = re.findall(r"-?\d+(?:\.\d+)?[eE][+-]?\d+", text)
    plain = re.findall(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])", text)
    return [*grouped, *scientific, *plain]


def _normalised(text: str) -> list[str | float]:
    """Return a number rounded to two decimals, or lower-cased text; a single letter only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
