"""Verdicts: what a judge says of each answer in a word, asked for by MMVP and HallusionBench.

What a verdict means is each benchmark's own rule; MM-Vet's grades, which are numbers with re-asks, are in its own file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from olivine.errors import RequestError, RunError
from olivine.evaluate.judge import Judge, JudgeRequest, read_wording
from olivine.records import Question

#: The variant that needs verdicts.
JUDGED = "judge"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Where a benchmark's verdicts come from: given outright, or asked of a judge.

    Attributes:
        given: the judge's reply to each question, for replay.
        judge: who is asked where nothing is given.
        wording: what the judge is told first (its system message).
        temperature: as the benchmark's official grader has it.
    """

    given: Mapping[str, str] | None
    judge: Judge | None
    wording: str
    temperature: float

    @staticmethod
    def of(
        given: Mapping[str, str] | None, judge: Judge | None, own: str, wording: Path | None, temperature: float
    ) -> "Verdicts":
        """With the wording in the file `wording`, or else the benchmark's `own`."""
        return Verdicts(given, judge, own if wording is None else read_wording(wording), temperature)

    def default_variant(self, variant: str | None) -> str | None:
        """`variant`, or the judged one where a judge was named and no variant."""
        return JUDGED if variant is None and self.judge is not None else variant

    def about(self, variant: str) -> dict[str, str]:
        """What scores under `variant` must say about who judged: nothing where nobody did."""
        return self.judge.about(self.wording) if variant == JUDGED and self.judge is not None else {}

    def on(
        self, name: str, questions: Sequence[Question], texts: Mapping[str, str], shown: Callable[[Question, str], str]
    ) -> Mapping[str, str]:
        """The verdict on each answer, by question id; `shown` is what the judge sees of a question and its answer.

        Raises:
            RequestError: there is no judge, and a verdict is missing.
            RunError: the judge could not be asked.
        """
        answered = [question for question in questions if question.id in texts]
        judge = self.judge
        if self.given is None and judge is not None:

            def ask(question: Question) -> str:
                prompt = shown(question, texts[question.id])
                request = JudgeRequest(prompt, system=self.wording, temperature=self.temperature)
                try:
                    return judge.ask(request).text
                except RunError as error:
                    raise RunError(f"{name}: the answer to {question.id!r} could not be judged. {error}") from None

            replies = judge.each(ask, answered)
            return {question.id: reply for question, reply in zip(answered, replies, strict=True)}
        given = self.given or {}
        for question in answered:
            if question.id not in given:
                raise RequestError(
                    f"{name}: no judge's verdict on question {question.id!r}. The variant 'judge' needs one for every "
                    "answer: name a judge (--judge-url, --judge-model), or choose another --variant, which needs none."
                )
        return given
