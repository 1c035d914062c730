"""What a benchmark is: how its files are read, its questions asked, its answers scored.

One benchmark, one file beside this one; the registry is in the package's `__init__`. No model is touched here.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

from olivine.data.images import ImageSource
from olivine.errors import DataError, RequestError
from olivine.evaluation.answers import match_answers, read_answers
from olivine.evaluation.benchmarks.declaration import Declaration
from olivine.evaluation.benchmarks.parquet import ParquetImages, ParquetLayout, find_shards
from olivine.records import Answer, Item, MissingRule, Question, Score

#: What to do with questions without an answer: as the variant's rule says, count them as wrong, or refuse.
MissingChoice = Literal["official", "wrong", "refuse"]


class Benchmark(ABC):
    """One benchmark. Subclasses state their names and scoring source in their docstrings.

    `variants` and `prompts` list what can be requested by name; the first of each is the default, and the first
    variant is the official scoring.
    """

    name: ClassVar[str]
    #: What everything outside its file needs to know; a benchmark made from a file sets its own on the instance.
    declares: Declaration
    variants: ClassVar[tuple[str, ...]] = ("official",)
    prompts: ClassVar[tuple[str, ...]] = ("llava-1.5",)
    #: Longest answer in tokens (LLaVA-1.5's evaluation scripts: 128 for short answers, 1024 for open ones).
    max_new_tokens: ClassVar[int] = 128
    #: What to tell a user whose files hold no text to ask: which file to give.
    where_texts_are: ClassVar[str] = "Give the file that holds the questions."

    #: What to do with questions that have no answer, if not what the variant's own rule says.
    missing: MissingChoice = "official"

    #: The layout of its Hugging Face copy, if it can be read from one.
    parquet: ClassVar[ParquetLayout | None] = None

    @abstractmethod
    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read the official files at `path` (a file or folder, as the benchmark publishes them).

        Raises:
            DataError: a file is missing or is not of this benchmark; the message names file and item.
        """

    @abstractmethod
    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Score answers exactly as the official tool does (or a named variant of it).

        A failed answer is never scored as wrong: callers retry or report it first.

        Raises:
            RequestError: unknown variant.
            DataError: the answers do not fit the questions in a way the official tool refuses.
        """

    def score_without(
        self,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        variant: str | None,
        groups: Sequence[Collection[str]],
    ) -> list[dict[str, float]]:
        """Return the metrics with each group of clusters omitted in turn, by rescoring the rest."""
        found = []
        for group in groups:
            kept = [question for question in questions if question.cluster not in group]
            ids = {question.id for question in kept}
            score = self.score(kept, [answer for answer in answers if answer.question_id in ids], variant)
            found.append(dict(score.metrics))
        return found

    def missing_rule(self, variant: str) -> MissingRule:
        """Return what happens to questions without an answer under a variant and the choice `missing`."""
        if self.missing == "official":
            return self.declares.missing.get(variant, "wrong")
        return "refused" if self.missing == "refuse" else "wrong"

    def matched(
        self,
        questions: Sequence[Question],
        answers: Sequence[Answer],
        variant: str,
        required: Sequence[Question] | None = None,
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return each answer's text by question id, and the ids of unanswered questions, in question order.

        Args:
            questions: all questions.
            answers: the answers.
            variant: the scoring variant.
            required: the questions that a rule which refuses missing answers is about; all by default.

        Raises:
            DataError: an answer fits no question, or missing answers are refused.
        """
        texts, missing = match_answers(questions, answers, what=self.name)
        required = questions if required is None else required
        unanswered = [question.id for question in required if question.id not in texts]
        if unanswered and self.missing_rule(variant) == "refused":
            who = "--missing refuse" if self.missing == "refuse" else f"The rule of the variant {variant!r}"
            raise DataError(
                f"{self.name}: {len(unanswered)} of {len(required)} questions have no answer (first: "
                f"{unanswered[0]!r}). {who} refuses that: answer them all, or count them as wrong (--missing wrong)."
            )
        return texts, missing

    def result(
        self, variant: str, metrics: Mapping[str, float], items: Sequence[Item], missing: tuple[str, ...]
    ) -> Score:
        """Return the score under a variant, which says what happened to missing answers."""
        return Score(self.name, variant, metrics, tuple(items), missing, self.missing_rule(variant))

    @classmethod
    def asking_nobody(cls) -> Self:
        """Return the benchmark made so that its default scoring needs no judge's endpoint."""
        return cls()

    def images(self, path: Path) -> ImageSource | Path:
        """Return the images that belong to the files at `path` (or their root), unless the user gives another root."""
        shards = self.shards(path)
        if self.parquet is not None and shards:
            return ParquetImages(shards, self.parquet)
        folder = path if path.is_dir() else path.parent
        return folder / "images" if (folder / "images").is_dir() else folder

    def shards(self, path: Path) -> dict[Path, str]:
        """Return the parquet files of a Hugging Face copy at `path` with their splits; empty if it is not one.

        Raises:
            DataError: as `find_shards`.
        """
        return {} if self.parquet is None else find_shards(path, self.parquet)

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:  # noqa: ARG002
        """Read answers in LLaVA's answer JSON lines; benchmarks with another official format recognise it too."""
        return read_answers(path)

    def judged_by(self, variant: str) -> dict[str, str]:  # noqa: ARG002
        """Return what scores under `variant` must state about the judge, if there was one."""
        return {}

    def choose_variant(self, variant: str | None) -> str:
        """Return `variant`, or the default.

        Raises:
            RequestError: this benchmark has no variant of that name.
        """
        return self._choose("variant", variant, self.variants)

    def choose_prompt(self, prompt: str | None) -> str:
        """Return `prompt`, or the default.

        Raises:
            RequestError: this benchmark has no prompt wording of that name.
        """
        return self._choose("prompt", prompt, self.prompts)

    def _choose(self, what: str, requested: str | None, known: tuple[str, ...]) -> str:
        if requested is None:
            return known[0]
        if requested not in known:
            raise RequestError(f"{self.name}: no {what} {requested!r}. Valid: {', '.join(known)}.")
        return requested
