"""Answers on disk while an evaluation runs: appended as they arrive, resumed after a kill, put in order at the end.

Each process writes its own file. What decides whether earlier answers may be kept is in `request`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.distributed import Processes
from olivine.errors import DataError, RequestError
from olivine.evaluation.answers import read_answers, to_row
from olivine.evaluation.request import differences
from olivine.files import append_json_line, read_json, write_json, write_json_lines
from olivine.records import Answer, AnswerState, Question

ANSWERS, REQUEST = "answers.jsonl", "request.json"
_OF_RANKS = "answers.rank*.jsonl"


class AnswerLog:
    """The answers of one evaluation in its folder.

    `answers.jsonl` holds the known answers when a run starts, and all answers in question order when it ends; in
    between, each of several processes writes `answers.rankN.jsonl`. A killed run leaves both, and the next one reads
    both, with any number of processes.
    """

    def __init__(self, folder: Path, questions: Sequence[Question], model_id: str) -> None:
        self._folder = folder
        self._questions = {question.id: question for question in questions}
        self._model_id = model_id

    def begin(
        self, request: Mapping[str, Any], images_of: Mapping[str, Sequence[str]], *, replace: bool = False
    ) -> dict[str, Answer]:
        """Return earlier answers to the same request, without those that failed; prepare the folder for new ones.

        One process calls this, before any of them appends.

        Args:
            request: what decides the answers.
            images_of: the images that each question is asked with, by question id.
            replace: remove answers to another request instead of refusing them.

        Raises:
            RequestError: the folder holds answers to another request.
        """
        before = self._request()
        differing: list[str] = []
        kept: dict[str, Answer] = {}
        if before is not None:
            kept = self._earlier()
            differing = differences(before, request, {image for name in kept for image in images_of.get(name, ())})
        if differing and not replace and self._has_answers():
            raise self._other_answers(before, request, differing)
        kept = {} if differing else kept
        # Answers before request: a kill between the two must not leave old answers under the new request.
        self._write(kept.values())
        write_json(self._folder / REQUEST, request)
        return kept

    def append(self, answer: Answer, processes: Processes) -> None:
        """Add an answer to this process's file."""
        name = ANSWERS if processes.world_size == 1 else _OF_RANKS.replace("*", str(processes.rank))
        append_json_line(self._folder / name, self._row(answer))

    def finish(self, ordered: Iterable[Answer]) -> None:
        """Write all answers in the order given and remove the files of single processes; one process calls this."""
        self._write(ordered)

    def _write(self, answers: Iterable[Answer]) -> None:
        write_json_lines(self._folder / ANSWERS, [self._row(answer) for answer in answers])
        for file in self._folder.glob(_OF_RANKS):
            file.unlink()

    def _request(self) -> Any:
        """Return the request of the existing answers; {} if it cannot be read, None if there are no answers."""
        path = self._folder / REQUEST
        if not path.is_file():
            return {} if self._has_answers() else None
        try:
            return read_json(path)
        except DataError:
            return {}

    def _has_answers(self) -> bool:
        files = [self._folder / ANSWERS, *self._folder.glob(_OF_RANKS)]
        return any(file.is_file() and file.stat().st_size for file in files)

    def _other_answers(self, before: Any, request: Mapping[str, Any], differing: Sequence[str]) -> RequestError:
        known = before.get("model_id") if isinstance(before, Mapping) else None
        return RequestError(
            f"{self._folder}: holds answers of {known or self._model_in_answers() or 'an unknown model'}, given to a "
            f"different request than this one (of {request['model_id']}); different: {', '.join(differing)}. They were "
            "not changed. Give another --output, or --replace to remove them and answer again."
        )

    def _model_in_answers(self) -> str | None:
        try:
            with (self._folder / ANSWERS).open(encoding="utf-8", errors="replace") as file:
                return str(json.loads(file.readline(1 << 20))["model_id"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _earlier(self) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        for file in [self._folder / ANSWERS, *sorted(self._folder.glob(_OF_RANKS))]:
            for answer in read_answers(file, allow_cut_end=True) if file.is_file() else []:
                if answer.state is not AnswerState.FAILED and answer.question_id in self._questions:
                    answers.setdefault(answer.question_id, answer)
        return answers

    def _row(self, answer: Answer) -> dict[str, Any]:
        return to_row(answer, self._questions[answer.question_id], self._model_id)
