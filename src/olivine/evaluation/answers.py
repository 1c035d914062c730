"""Answer files: read and write LLaVA's answer JSON lines, and match answers to questions.

Formats of a single benchmark are read in that benchmark's file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.files import read_json_lines
from olivine.records import Answer, AnswerState, Question


def read_answers(path: Path, *, allow_cut_end: bool = False) -> list[Answer]:
    """Read LLaVA's answer file: one object per line with `question_id` and `text` (other keys are ignored).

    Raises:
        DataError: the file is missing, or a line is truncated or lacks those keys.
    """
    answers = []
    for number, row in enumerate(read_json_lines(path, allow_cut_end=allow_cut_end), start=1):
        if "question_id" not in row or not isinstance(row.get("text"), str):
            raise DataError(
                f"{path}: answer {number} has the keys {', '.join(sorted(row)) or 'none'}; expected question_id and "
                "text (LLaVA's answer file). Is this the answers file of this benchmark?"
            )
        answers.append(from_row(row))
    return answers


def from_row(row: Mapping[str, Any]) -> Answer:
    """Return one line of an answers file as an `Answer`; lines of other tools have no state, which means answered."""
    text = row["text"]
    state = AnswerState(row.get("state", AnswerState.ANSWERED if text.strip() else AnswerState.EMPTY))
    return Answer(question_id=str(row["question_id"]), text=text, state=state, error=row.get("error"))


def to_row(answer: Answer, question: Question, model_id: str) -> dict[str, Any]:
    """Return one line of an answers file in LLaVA's format, with the answer's state added."""
    row = {
        "question_id": answer.question_id,
        "prompt": question.prompt,
        "text": answer.text,
        "answer_id": answer.question_id,
        "model_id": model_id,
        "metadata": {},
        "state": answer.state.value,
    }
    return row | ({"error": answer.error} if answer.error else {})


def match_answers(
    questions: Sequence[Question], answers: Sequence[Answer], *, what: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return each answer's text by question id, and the ids of unanswered questions in question order.

    Raises:
        DataError: an answer is to an unknown question, a question has two answers, or an answer failed.
    """
    known = {question.id for question in questions}
    ids = [answer.question_id for answer in answers]
    unknown = [i for i in ids if i not in known]
    if unknown:
        raise DataError(
            f"{what}: {len(unknown)} of {len(ids)} answers are to unknown questions (first: {unknown[0]!r}). "
            "Do the answers belong to this question file?"
        )
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{what}: {len(twice)} questions are answered more than once (first: {twice[0]!r}).")
    failed = [answer for answer in answers if answer.state is AnswerState.FAILED]
    if failed:
        raise DataError(
            f"{what}: {len(failed)} answers failed (first: {failed[0].question_id!r}: {failed[0].error}). "
            "A failed answer is not a wrong one: evaluate again to retry them."
        )
    texts = {answer.question_id: answer.text for answer in answers}
    return texts, tuple(question.id for question in questions if question.id not in texts)
