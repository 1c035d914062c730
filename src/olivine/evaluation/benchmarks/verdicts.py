"""Benchmarks whose answers a judge may grade in a word: MMVP and HallusionBench.

What a verdict means is each benchmark's own rule; MM-Vet's grades, which are numbers with re-asks, are in its own file.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from olivine.errors import RequestError, RunError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.judge import Judge, JudgeRequest, read_wording
from olivine.records import Question

#: The variant that needs verdicts.
JUDGED = "judge"


class JudgedBenchmark(Benchmark):
    """A benchmark with a variant `judge`, the default where a judge is named; its other variants ask nobody.

    Args:
        verdicts: the judge's reply to each question, for `judge`, replayed without asking.
        judge: who is asked, where there are no verdicts.
        judge_prompt: a file with other instructions for the judge.
    """

    #: The instructions for the judge (its system message), in our own words; and the official grader's temperature.
    judge_wording: ClassVar[str]
    judge_temperature: ClassVar[float] = 0.0

    def __init__(
        self,
        verdicts: Mapping[str, str] | None = None,
        *,
        judge: Judge | None = None,
        judge_prompt: Path | None = None,
    ) -> None:
        self._verdicts = verdicts
        self._judge = judge
        self._wording = self.judge_wording if judge_prompt is None else read_wording(judge_prompt)

    @abstractmethod
    def judge_input(self, question: Question, text: str) -> str:
        """Return what the judge sees of a question and its answer."""

    def choose_variant(self, variant: str | None) -> str:
        """`variant`, or the default: `judge` where there is one; raises as the base's."""
        return super().choose_variant(JUDGED if variant is None and self._judge is not None else variant)

    def judged_by(self, variant: str) -> dict[str, str]:
        """Return the judge and the hash of its instructions, under `judge`."""
        return self._judge.about(self._wording) if variant == JUDGED and self._judge is not None else {}

    def verdicts(self, questions: Sequence[Question], texts: Mapping[str, str]) -> Mapping[str, str]:
        """Return the verdict on each answer, by question id.

        Raises:
            RequestError: there is no judge, and a verdict is missing.
            RunError: the judge could not be asked.
        """
        answered = [question for question in questions if question.id in texts]
        if self._verdicts is None and self._judge is not None:
            judge = self._judge
            replies = judge.each(lambda question: self._ask(judge, question, texts[question.id]), answered)
            return {question.id: reply for question, reply in zip(answered, replies, strict=True)}
        given = self._verdicts or {}
        for question in answered:
            if question.id not in given:
                raise RequestError(
                    f"{self.name}: no judge's verdict on question {question.id!r}. The variant 'judge' needs one for "
                    "every answer: name a judge (--judge-url, --judge-model), or choose a --variant that needs none."
                )
        return given

    def _ask(self, judge: Judge, question: Question, text: str) -> str:
        prompt = self.judge_input(question, text)
        try:
            return judge.ask(JudgeRequest(prompt, system=self._wording, temperature=self.judge_temperature)).text
        except RunError as error:
            raise RunError(f"{self.name}: the answer to {question.id!r} could not be judged. {error}") from None
