"""Exact match over a question file: LLaVA's question JSON lines with an `answer` key, one or many right answers.

For data sets without a published scorer (easy-VQA); not one of the paper's benchmarks.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text
from olivine.evaluation.benchmarks.parsing import is_reply, item_of
from olivine.evaluation.benchmarks.types import require_types, shortened
from olivine.evaluation.benchmarks.vqa_normaliser import normalise
from olivine.files import read_json_lines
from olivine.records import Answer, Question, Score


class ExactMatch(Benchmark):
    """Share of answers that equal a reference, letter case, outer white space and final periods aside.

    The same conversion that LLaVA applies before GQA's exact match. One cluster is one image. The file's `category`
    (if any) gives `accuracy/CATEGORY` beside the total. An unanswered question counts as wrong.

    Variants, none of them another tool's: `official`, the rule above; `lenient`, the short answer in the reply, or the
    yes or no that it says where only these are right, both sides normalised, as the module `lenient` reads it (POPE's
    variant of that name reads a yes or no alike).
    """

    name = "exact-match"
    variants = ("official", LENIENT)
    declares = Declaration(
        title="exact match",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("accuracy/*", "accuracy by category"),
        ),
        cluster="image",
        reply="short text",
        files=(
            "LLaVA's question lines with an `answer` (a text or a list of texts), or a folder with questions.jsonl",
        ),
    )

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read lines of `{"question_id", "image", "text", "answer": str | [str], "category"?}`.

        `path` is the file, or a folder that holds it as `questions.jsonl`.
        """
        self.choose_prompt(prompt)
        path = path / "questions.jsonl" if path.is_dir() else path
        questions = []
        for number, row in enumerate(read_json_lines(path), start=1):
            missing = {"question_id", "text", "answer"} - row.keys()
            if missing:
                raise DataError(f"{path}: question {number} lacks {', '.join(sorted(missing))}.")
            where = f"{path}: question {number}"
            references = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
            if not isinstance(references, list) or not all(isinstance(reference, str) for reference in references):
                raise DataError(f"{where}: answer is {shortened(row['answer'])}; expected text, or a list of texts.")
            image = row.get("image")
            require_types(row, where, text=("text",), text_or_nothing=("image", "category"), ids=("question_id",))
            questions.append(
                Question(
                    id=str(row["question_id"]),
                    prompt=row["text"],
                    image=image,
                    cluster=image or str(row["question_id"]),
                    references=tuple(references),
                    details={"category": row["category"]} if "category" in row else {},
                )
            )
        return questions

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy in percent, in total and per category."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        by_category: dict[str, list[float]] = defaultdict(list)
        items = []
        for question in questions:
            text = texts.get(question.id, "")
            if selected == LENIENT:
                references = {normalise(reference) for reference in question.references}
                said = short_text(text, yes_or_no=references <= {"yes", "no"}, question=question.prompt)
            else:
                references = {_plain(reference) for reference in question.references}
                said = _plain(text)
            correct = float(question.id in texts and said in references)
            items.append(item_of(question, texts, correct, read=is_reply(said, references)))
            if "category" in question.details:
                by_category[question.details["category"]].append(correct)
        metrics = {"accuracy": _percent([item.correct for item in items])}
        metrics |= {f"accuracy/{name}": _percent(values) for name, values in sorted(by_category.items())}
        return self.result(selected, metrics, items, missing)


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0
