"""Answers on disk while an evaluation runs: appended as they come, taken up after a kill, put in order at the end.

One file for one process, a file for each of several. What decides that answers may be kept is in `run`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.evaluate.answers import read_answers, to_row
from olivine.evaluate.processes import Processes
from olivine.files import append_json_line, read_json, write_json, write_json_lines
from olivine.records import Answer, AnswerState, Question

ANSWERS, REQUEST = "answers.jsonl", "request.json"
_OF_RANKS = "answers.rank*.jsonl"


class AnswerLog:
    """The answers of one evaluation in its folder.

    `answers.jsonl` holds what is known when a run begins, and everything in question order when it ends; between the
    two, several processes write `answers.rankN.jsonl` each. A killed run leaves both, and the next one takes up both,
    with whatever number of processes.
    """

    def __init__(self, folder: Path, questions: Sequence[Question], model_id: str) -> None:
        self._folder = folder
        self._questions = {question.id: question for question in questions}
        self._model_id = model_id

    def begin(self, request: Mapping[str, Any]) -> dict[str, Answer]:
        """Earlier answers to the same request, without those that failed; the folder is put in order for new ones.

        One process calls this, before any appends.
        """
        kept = self._earlier() if self._is_of(request) else {}
        # Answers before request: a kill between the two must not leave old answers under the new request.
        self._write(kept.values())
        write_json(self._folder / REQUEST, request)
        return kept

    def append(self, answer: Answer, processes: Processes) -> None:
        """Add an answer to this process's file."""
        name = ANSWERS if processes.size == 1 else _OF_RANKS.replace("*", str(processes.rank))
        append_json_line(self._folder / name, self._row(answer))

    def finish(self, ordered: Iterable[Answer]) -> None:
        """Write all answers in the order given, and remove the processes' own files; one process calls this."""
        self._write(ordered)

    def _write(self, answers: Iterable[Answer]) -> None:
        write_json_lines(self._folder / ANSWERS, [self._row(answer) for answer in answers])
        for file in self._folder.glob(_OF_RANKS):
            file.unlink()

    def _is_of(self, request: Mapping[str, Any]) -> bool:
        return (self._folder / REQUEST).is_file() and read_json(self._folder / REQUEST) == request

    def _earlier(self) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for file in [self._folder / ANSWERS, *sorted(self._folder.glob(_OF_RANKS))]:
            for answer in read_answers(file, allow_cut_end=True) if file.is_file() else []:
                if answer.state is not AnswerState.FAILED and answer.question_id in self._questions:
                    answers.setdefault(answer.question_id, answer)
        return answers

    def _row(self, answer: Answer) -> dict[str, Any]:
        return to_row(answer, self._questions[answer.question_id], self._model_id)
