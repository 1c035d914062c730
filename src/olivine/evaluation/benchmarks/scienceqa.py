"""ScienceQA: school questions with two to five choices, half of them with an image.

Its lectures and solutions (training targets) are not read here.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from olivine.errors import DataError
from olivine.evaluation.answers import from_row
from olivine.evaluation.benchmarks.counted import CountedBenchmark, Counts, Graded
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    LETTERS,
    agrees,
    find_file,
    graded,
    read_rows,
    require_keys,
    vlmevalkit_option,
)
from olivine.files import read_json
from olivine.records import Answer, Question, Score
from olivine.wording import OPTION_LETTER, with_options

#: The most choices a question has; LLaVA's parser knows these letters.
_OPTIONS = LETTERS[:5]
#: Kinds of official groups, in the order of the metrics.
_GROUPS = ("subject", "context", "grade", "topic")


class ScienceQA(CountedBenchmark):
    """ScienceQA (`lupantech/ScienceQA:tools/evaluate_acc.py` for the groups, LLaVA's `eval_science_qa.py` for text).

    Metrics, in percent: `accuracy` (the official average), `img` (questions with an image: ScienceQA-IMG), and
    where problems.json is available `subject/...`, `context/text|image|none` (a hint, an image, neither),
    `grade/1-6`, `grade/7-12` and `topic/...`. A group without questions is omitted (the official tool prints -1).
    One cluster is one question.

    Variants:

    - `official`: LLaVA's reading of the answer. It is a letter A to E; or begins with such a letter, a period and a
      space; or says "The answer is X" with any character after the X exactly once; or else has failed and is wrong.
      A letter beyond the question's choices is wrong.
    - `llava`: the same, but `img` leaves unanswered questions out, as LLaVA's tool does (it looks for the image's
      mark in the answer's own prompt).
    - `lmms-eval`: the answer is the letter, or begins with it and a period.
    - `vlmevalkit`: exactly one letter, or else one choice's text, occurs in the answer.
    - `lenient`, ours: the option that the answer chooses in whatever words, as `lenient_option` says.

    In LLaVA's answer lines a missing answer is wrong, as in its tool. An official results file must hold every
    question and no other, as the official tool asserts (4,241 for the test split).

    Args:
        split: of problems.json, as named there or in pid_splits.json (`minitest` and the like) beside it.
        problems: problems.json for the groups, where LLaVA's question file is read; by default the one beside it.
    """

    name = "scienceqa"
    declares = Declaration(
        title="ScienceQA",
        metrics=(
            Metric("img", "accuracy with image", reported=True),
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("subject/*", "accuracy by subject"),
            Metric("context/*", "accuracy by context"),
            Metric("grade/*", "accuracy by grade"),
            Metric("topic/*", "accuracy by topic"),
        ),
        cluster="question",
        reply="choice",
        missing={"llava": "partly excluded"},
        files=("problems.json, or its folder", "LLaVA's llava_test_CQM-A.json"),
        answers=('the official `{"results": {ID: index}}`',),
    )
    variants = ("official", "llava", "lmms-eval", "vlmevalkit", LENIENT)
    max_new_tokens = 1024

    parquet = ParquetLayout(
        splits=("test", "validation", "train"),
        image=lambda row: _image(row.split, str(row.index)) if row.values.get("image") is not None else None,
        configs=("ScienceQA-FULL", "ScienceQA-IMG"),
    )

    def __init__(self, split: str = "test", problems: Path | None = None) -> None:
        self._split = split
        self._problems = problems

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read problems.json, the folder that holds it, or LLaVA's list of conversations (llava_test_CQM-A.json).

        Of a Hugging Face copy (`lmms-lab/ScienceQA`) the test split of ScienceQA-FULL is read, or of the one
        configuration that is there; it has no ids, so a row's number is its id.

        Images are `SPLIT/ID/image.png` for the former, as LLaVA's file names them for the latter.

        Raises:
            DataError: the split has no problem, or the file is neither.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return [_from_problem(str(row.index), _official_row(row), row.where) for row in read_parquet(shards)]
        file = find_file(path, ("problems.json", "llava_test_CQM-A.json"), "ScienceQA problems")
        content = read_json(file)
        if isinstance(content, list):
            problems = self._problems_beside(file)
            return [_from_llava(row, f"{file}: item {number}", problems) for number, row in enumerate(content, start=1)]
        require_keys(content, (), f"{file}")
        ids = self._ids(file, content)
        if not ids:
            raise DataError(f"{file}: no problem of the split {self._split!r}.")
        return [_from_problem(key, content[key], f"{file}: problem {key!r}") for key in ids]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read an official results file (`{"results": {ID: index}}`), or LLaVA's answer lines.

        Raises:
            DataError: the results do not hold exactly the questions (the official tool asserts it).
        """
        rows = read_rows(path)
        if not isinstance(rows, dict) or "results" not in rows:
            return super().read_answers(path, questions)
        results = rows["results"]
        require_keys(results, (), f"{path}: results")
        asked = {question.id for question in questions}
        if results.keys() != asked:
            first = next(iter(asked.symmetric_difference(results)))
            raise DataError(
                f"{path}: {len(results)} results for {len(asked)} questions (only in one of them: {first!r}). "
                "The official tool wants one for every question of the split."
            )
        return [_answer_of_index(key, index, path) for key, index in results.items()]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in total and by the official groups."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        return self.graded_score(questions, texts, selected, missing)

    def grade(self, questions: Sequence[Question], texts: Mapping[str, str], variant: str) -> Graded:
        """Return whether each answer names the right option; count it for every group that the question belongs to."""
        parse = _PARSERS[variant]
        items = graded(questions, texts, lambda text, q: agrees(parse(text, q), q.references[0], _letters(q)))
        counted: list[tuple[str, Hashable]] = []
        for question, item in zip(questions, items, strict=True):
            groups = [("", "accuracy")]
            if question.image and (question.id in texts or self.missing_rule(variant) != "partly excluded"):
                groups.append(("", "img"))
            groups += [(kind, group) for kind, group in question.details["groups"] if kind in _GROUPS]
            counted += [(question.cluster, (*group, item.correct)) for group in groups]
        return Graded(items, counted)

    def metrics(self, counts: Counts, variant: str) -> dict[str, float]:  # noqa: ARG002
        """Return the accuracy in total, with an image, and by the official groups."""
        right: Counter[tuple[str, str]] = Counter()
        asked: Counter[tuple[str, str]] = Counter()
        for key, count in counts.items():
            kind, group, correct = cast("tuple[str, str, float]", key)
            right[kind, group] += int(correct) * count
            asked[kind, group] += count
        names = [("", "accuracy"), ("", "img")]
        names += [(kind, group) for kind in _GROUPS for of, group in sorted(asked) if of == kind]
        return {
            f"{kind}/{group}" if kind else group: 100 * (right[kind, group] / asked[kind, group])
            for kind, group in names
            if asked[kind, group]
        }

    def _problems_beside(self, file: Path) -> Mapping[str, Any]:
        beside = self._problems or file.with_name("problems.json")
        problems = read_json(beside) if self._problems or beside.is_file() else {}
        require_keys(problems, (), f"{beside}")
        return dict(problems)

    def _ids(self, file: Path, problems: Mapping[str, Any]) -> list[str]:
        splits = file.with_name("pid_splits.json")
        listed = read_json(splits).get(self._split) if splits.is_file() else None
        if listed is None:
            return [key for key, problem in problems.items() if problem.get("split") == self._split]
        unknown = [key for key in listed if key not in problems]
        if unknown:
            raise DataError(f"{splits}: problem {unknown[0]!r} of {self._split!r} is not in {file.name}.")
        return list(listed)


def _official_row(row: ParquetRow) -> dict[str, Any]:
    """Return a row of the Hugging Face copy in the format of problems.json."""
    has_image = row.values.get("image") is not None
    return {"hint": "", **row.values, "split": row.split, "image": "image.png" if has_image else None}


def _image(split: str, key: str, file: str = "image.png") -> str:
    return f"{split}/{key}/{file}"


def _from_problem(key: str, row: Any, where: str) -> Question:
    require_keys(row, ("question", "choices", "answer", "hint", "image", "split"), where)
    choices = row["choices"]
    if not isinstance(row["answer"], int) or not 0 <= row["answer"] < len(choices) <= len(_OPTIONS):
        raise DataError(
            f"{where}: answer {row['answer']!r} of {len(choices)} choices (2 to {len(_OPTIONS)} are known)."
        )
    context = f"Context: {row['hint']}\n" if row["hint"] else ""
    return Question(
        id=key,
        prompt=with_options(context + row["question"], choices),
        image=_image(row["split"], key, row["image"]) if row["image"] else None,
        cluster=key,
        references=(LETTERS[row["answer"]],),
        details={"choices": list(choices), "groups": _groups(row)},
    )


def _from_llava(row: Any, where: str, problems: Mapping[str, Any]) -> Question:
    require_keys(row, ("id", "conversations"), where)
    turns = {turn.get("from"): turn.get("value", "") for turn in row["conversations"]}
    require_keys(turns, ("human", "gpt"), f"{where}: conversations")
    key, text = str(row["id"]), turns["human"].replace("<image>", "").strip()
    gold = _llava_letter(turns["gpt"].strip())
    if gold is None:
        raise DataError(f"{where}: answer {turns['gpt']!r}; expected a letter A to {_OPTIONS[-1]}.")
    problem = problems.get(key)
    return Question(
        id=key,
        prompt=text + OPTION_LETTER,
        image=row.get("image"),
        cluster=key,
        references=(gold,),
        details={
            "choices": list(problem["choices"]) if problem else re.findall(r"^[A-E]\. (.*)$", text, re.MULTILINE),
            "groups": _groups(problem) if problem else (),
        },
    )


def _groups(problem: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the official groups that a problem belongs to, as (kind, name)."""
    contexts = [name for name, key in (("text", "hint"), ("image", "image")) if problem[key]] or ["none"]
    groups = [("context", name) for name in contexts]
    groups += [(kind, str(problem[kind])) for kind in ("subject", "topic") if problem.get(kind)]
    number = str(problem.get("grade", "")).removeprefix("grade")
    if number.isdecimal():
        groups.append(("grade", "1-6" if int(number) <= 6 else "7-12"))
    return groups


def _answer_of_index(key: str, index: Any, path: Path) -> Answer:
    try:
        number = int(index)
    except (TypeError, ValueError):
        raise DataError(f"{path}: result {index!r} of {key!r}; expected the index of a choice.") from None
    # Tools write -1 for an answer that names no choice.
    text = _OPTIONS[number] if 0 <= number < len(_OPTIONS) else ""
    return from_row({"question_id": key, "text": text})


def _letters(question: Question) -> str:
    return LETTERS[: len(question.details["choices"])]


def _llava_letter(text: str) -> str | None:
    if text in tuple(_OPTIONS):
        return text
    if text[:1] in tuple(_OPTIONS) and text[1:3] == ". ":
        return text[0]
    # The pattern's closing period matches any character, so a letter that ends the text is not found.
    said: list[str] = re.findall(r"The answer is ([A-Z]).", text)
    return said[0] if len(said) == 1 else None


def _llava(text: str, question: Question) -> str | None:  # noqa: ARG001
    return _llava_letter(text)


def _lmms_eval(text: str, question: Question) -> str | None:  # noqa: ARG001
    return text[:1] if len(text) == 1 or text[1:2] == "." else None


def _vlmevalkit(text: str, question: Question) -> str | None:
    return vlmevalkit_option(text, dict(zip(LETTERS, question.details["choices"], strict=False)))


_PARSERS: dict[str, Callable[[str, Question], str | None]] = {
    "official": _llava,
    "llava": _llava,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
    LENIENT: lambda text, question: option(text, dict(zip(LETTERS, question.details["choices"], strict=False))),
}
