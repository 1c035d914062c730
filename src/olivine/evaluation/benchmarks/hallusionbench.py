"""HallusionBench: yes/no questions on figures and on their edited twins, with and without the figure.

How a judge is asked is in `verdicts`. Why an answer is wrong is not diagnosed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, yes_no
from olivine.evaluation.benchmarks.parsing import (
    answers_from,
    find_file,
    item_of,
    percent,
    read_rows,
    require_keys,
    rows_have,
    vlmevalkit_yes_no,
)
from olivine.evaluation.benchmarks.verdicts import JUDGED, JudgedBenchmark
from olivine.files import read_json
from olivine.records import Answer, Item, Question, Score
from olivine.wording import SHORT_ANSWER

#: The official grader's request in our own words.
JUDGE_PROMPT = """\
You check answers to questions about a figure that you cannot see. You are given a question, a reference answer, and a \
response. Compare the response with the reference in meaning, not in wording. Reply with one word and nothing else: \
correct if the response agrees with the reference, incorrect if it contradicts it, unclear if it does not decide the \
question, says that it cannot be answered, or is beside the point."""

_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")

#: How an answer is classified, with the official tool's numbers.
_WRONG, _RIGHT, _UNCLEAR = 0, 1, 2


class HallusionBench(JudgedBenchmark):
    """HallusionBench (`tianyi-lab/HallusionBench:evaluation.py, utils.py` for the groups).

    Metrics, in percent: `aAcc` (questions), `qAcc` (questions right over all their figures), `fAcc` (figures with all
    their questions right; questions without a figure are omitted), `easy` and `hard` (as qAcc, over questions
    about original and about edited figures), and the first three under `VD/` and `VS/`. One cluster is one set of
    figures. A missing answer is wrong.

    Variants:

    - `rule`: yes or no, whichever one of the two occurs as a word; otherwise unclear. Unclear is wrong, but right
      where a figure would have been needed and none is given (VS, figure 0), as in the official grouping.
    - `vlmevalkit` (`vlmeval/dataset/utils/yorn.py`): the same words over the questions with a figure only, unclear
      always wrong, and the groups of VD and VS that share a subcategory and number taken as one.
    - `judge`: the official grading, and the default where a judge is named. A verdict that holds "incorrect" is
      wrong, else one that holds "correct" is right, else the answer is unclear. Our own wording; temperature 0.
    - `lenient`, ours: as `rule`, but yes or no as the answer says in whatever words, as `lenient.yes_no` reads it.
    """

    name = "hallusionbench"
    declares = Declaration(
        title="HallusionBench",
        metrics=(
            Metric("aAcc", "questions right", mean_of_items=True, reported=True),
            Metric("qAcc", "questions right over all figures", reported=True),
            Metric("fAcc", "figures with all their questions right"),
            Metric("easy", "questions about original figures right over all figures"),
            Metric("hard", "questions about edited figures right over all figures"),
            Metric("V[DS]/*", "the same by category: depends on the figure (VD) or is supplemented by it (VS)"),
        ),
        cluster="set of figures",
        reply="yes-no",
        files=("HallusionBench.json, or its folder",),
        answers=("official result rows: the questions with `model_prediction`",),
    )
    variants = ("rule", "vlmevalkit", "judge", LENIENT)
    prompts = ("llava-1.5", "original")
    judge_wording = JUDGE_PROMPT

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read HallusionBench.json, or the folder that holds it. Images are named by the file's `filename`."""
        wording = "" if self.choose_prompt(prompt) == "original" else SHORT_ANSWER
        file = find_file(path, ("HallusionBench.json",), "HallusionBench questions")
        rows = read_json(file)
        if not isinstance(rows, list):
            raise DataError(f"{file}: a JSON {type(rows).__name__}; expected the list of HallusionBench.json.")
        return [_question(row, wording, f"{file}: item {number}") for number, row in enumerate(rows, start=1)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official result rows (the questions with `model_prediction`), or LLaVA's answer lines."""
        rows = read_rows(path)
        if not rows_have(rows, "model_prediction"):
            return super().read_answers(path, questions)
        for number, row in enumerate(rows, start=1):
            require_keys(row, _KEYS, f"{path}: row {number}")
        return answers_from(({**row, "id": _joined(row, _KEYS)} for row in rows), "id", "model_prediction", str(path))

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy over questions, over questions with all their figures, and over figures."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        verdicts = self.verdicts(questions, texts) if selected == JUDGED else None
        scored = [q for q in questions if q.image is not None or selected != "vlmevalkit"]
        items = []
        for question in scored:
            label = _label(question, texts[question.id], verdicts, selected) if question.id in texts else _WRONG
            spared = label == _UNCLEAR and question.details["unseen"] and selected != "vlmevalkit"
            read = label != _UNCLEAR or verdicts is not None
            items.append(item_of(question, texts, float(label == _RIGHT or spared), read=read))
        pairs = list(zip(scored, items, strict=True))
        metrics = _accuracies(pairs, across=selected == "vlmevalkit")
        for name, edited in (("easy", False), ("hard", True)):
            metrics[name] = _whole([pair for pair in pairs if pair[0].details["edited"] == edited], "question")
        for category in sorted({question.details["category"] for question in scored}):
            of_category = [pair for pair in pairs if pair[0].details["category"] == category]
            metrics |= {f"{category}/{name}": value for name, value in _accuracies(of_category).items()}
        return self.result(selected, metrics, items, missing)

    def judge_input(self, question: Question, text: str) -> str:
        """Return the question as published, the full reference answer, and the response."""
        asked, answer = question.details["asked"], question.details["answer"]
        return f"Question: {asked}\nReference answer: {answer}\nResponse: {text}\nVerdict:"


def _label(question: Question, text: str, verdicts: Mapping[str, str] | None, variant: str) -> int:
    if verdicts is None:
        said = yes_no(text, question.details["asked"]) if variant == LENIENT else vlmevalkit_yes_no(text)
        return _UNCLEAR if said is None else int(said == question.references[0])
    verdict = verdicts[question.id].lower()
    return _WRONG if "incorrect" in verdict else _RIGHT if "correct" in verdict else _UNCLEAR


def _joined(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return "_".join(str(row[key]) for key in keys)


def _question(row: Any, wording: str, where: str) -> Question:
    require_keys(row, (*_KEYS, "visual_input", "question", "gt_answer"), where)
    if str(row["gt_answer"]) not in ("0", "1"):
        raise DataError(f"{where}: gt_answer {row['gt_answer']!r}; expected 0 (no) or 1 (yes).")
    filename = row.get("filename")
    unseen = row["category"] == "VS" and str(row["figure_id"]) == "0"
    return Question(
        id=_joined(row, _KEYS),
        prompt=row["question"] + wording,
        image=filename.removeprefix("./") if filename else None,
        cluster=_joined(row, ("category", "subcategory", "set_id")),
        references=("yes" if str(row["gt_answer"]) == "1" else "no",),
        details={
            "asked": row["question"],
            "answer": row.get("gt_answer_details", ""),  # with `asked`, what the judge sees
            "category": row["category"],
            "question": _joined(row, ("category", "subcategory", "set_id", "question_id")),
            "figure": None if unseen else _joined(row, ("category", "subcategory", "set_id", "figure_id")),
            "unseen": unseen,
            "edited": str(row["visual_input"]) == "2",
        },
    )


def _whole(pairs: Sequence[tuple[Question, Item]], detail: str, *, across: bool = False) -> float:
    """Return the percentage of groups by `detail` that are all correct; `across` merges groups over categories."""
    groups: dict[str, list[float]] = {}
    for question, item in pairs:
        group = question.details[detail]
        if group is not None:
            groups.setdefault(group.partition("_")[2] if across else group, []).append(item.correct)
    return percent([float(all(group)) for group in groups.values()])


def _accuracies(pairs: Sequence[tuple[Question, Item]], *, across: bool = False) -> dict[str, float]:
    return {
        "aAcc": percent([item.correct for _, item in pairs]),
        "qAcc": _whole(pairs, "question", across=across),
        "fAcc": _whole(pairs, "figure", across=across),
    }
