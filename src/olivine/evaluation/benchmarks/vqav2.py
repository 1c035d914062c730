"""VQAv2: open questions about COCO images, ten human answers each, scored as either official release does.

The normaliser and the soft score are in `vqa_normaliser`; no submission file is written here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    Prediction,
    answers_from,
    by_detail,
    is_reply,
    item_of,
    read_rows,
    require_human_answers,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.vqa_normaliser import (
    flatten,
    normalise,
    normalise_m4c,
    rounded_percent,
    soft_score,
    strip_punctuation,
)
from olivine.files import read_json
from olivine.records import Answer, Question, Score
from olivine.wording import SHORT_ANSWER

#: Splits of the Hugging Face copy as the official files name them.
_SUBTYPES = {"validation": "val2014", "testdev": "test-dev2015", "test": "test2015"}


class VQAv2(Benchmark):
    """VQAv2 (`GT-Vision-Lab/VQA:PythonEvaluationTools/vqaEvaluation/vqaEval.py`).

    Metrics, in percent to two decimals as the tool rounds: `accuracy`, `answer_type/TYPE`, `question_type/TYPE`. One
    cluster is one image; an item's correctness is its soft score.

    Variants:

    - `2021`: the tool since March 2021 (a013f00). Where all ten human answers are identical, nothing is normalised on
      either side: the answer must equal them letter for letter. Elsewhere both sides are normalised. An entry of an
      official results file is taken unchanged; a model's raw answers first go through LLaVA's `EvalAIAnswerProcessor`,
      as in its `scripts/convert_vqav2_for_submission.py`, without which "Yes" would lose to ten times "yes".
    - `2017`: the release of that year (a4f1afd), which LAVIS copied. The answer is always normalised; human answers
      lose their punctuation, and that only where they are not all identical; their numbers and articles stay.
    - `normalised`: both sides are always normalised, as peers do.
    - `lenient`, ours: the same for the short answer in the reply, as the module `lenient` reads it.

    2021 and 2017 refuse a file that does not answer every question, as the tool asserts; under `normalised` and
    `lenient` a missing answer is wrong. Answers to unknown questions, and two to one question, are refused by all (the
    tool asserts against the former and keeps the last of the latter).

    Args:
        questions: the questions file, by default the one beside the annotations, named as the official files are.
            Only asking needs it: without it answers can be scored, and the questions have an empty prompt.
    """

    name = "vqav2"
    declares = Declaration(
        title="VQAv2",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("answer_type/*", "accuracy by answer type"),
            Metric("question_type/*", "accuracy by question type"),
        ),
        cluster="image",
        reply="short text",
        kind="question_type",
        files=("the annotations, the questions (the other beside them), or their folder",),
        answers=("the official list of `question_id`, `answer`",),
        missing={"2021": "refused", "2017": "refused"},
    )
    variants = ("2021", "2017", "normalised", LENIENT)
    where_texts_are = (
        "Annotations alone do not hold them: put the questions file (v2_OpenEnded_mscoco_val2014_questions.json) "
        "beside the annotations, or name it (--questions FILE)."
    )

    parquet = ParquetLayout(
        splits=("validation", "testdev", "test"),
        image=lambda row: _image({"data_subtype": _SUBTYPES[row.split]}, row.values["image_id"]),
    )

    def __init__(self, questions: Path | None = None) -> None:
        self._questions = questions

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read an annotations file, a questions file (then the annotations beside it, if any), or their folder.

        In a folder the files of val2014 are read; of a Hugging Face copy (`lmms-lab/VQAv2`) its validation
        split. Questions without annotations (test2015, test-dev2015) can be asked but not scored.

        Raises:
            DataError: neither file is VQAv2's, or the two are not of the same questions.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return _from_parquet(read_parquet(shards))
        path = _file_in(path) if path.is_dir() else path
        header = _read_header(path)
        if "annotations" in header:
            asked = self._questions or path.with_name(_questions_name(path.name))
            texts = (
                _texts(asked, _read_header(asked)) if self._questions or (asked != path and asked.is_file()) else None
            )
            return _annotated(path, header, texts)
        beside = path.with_name(_annotations_name(path.name))
        if beside != path and beside.is_file():
            return _annotated(beside, _read_header(beside), _texts(path, header))
        return _unannotated(path, header)

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read the official results, a list of `{"question_id", "answer"}`, or LLaVA's answer lines."""
        rows = read_rows(path)
        if not rows_have(rows, "question_id", "answer"):
            return super().read_answers(path, questions)
        plain = answers_from(rows, "question_id", "answer", str(path))
        return [Prediction(answer.question_id, answer.text, answer.state) for answer in plain]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute accuracy over all questions, per answer type and per question type."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        require_human_answers(self.name, questions)
        final = {answer.question_id for answer in answers if isinstance(answer, Prediction)}
        items = []
        for question in questions:
            text = texts.get(question.id)
            if text is not None and selected == LENIENT:
                text = short_text(text, yes_or_no=set(question.references) <= {"yes", "no"}, question=question.prompt)
            correct = 0.0 if text is None else _soft(question, text, selected, final=question.id in final)
            read = is_reply(normalise(text or ""), question.references)
            items.append(item_of(question, texts, correct, read=read))
        metrics = {"accuracy": rounded_percent([item.correct for item in items])}
        for name in ("answer_type", "question_type"):
            metrics |= by_detail(name, questions, items, rounded_percent)
        return self.result(selected, metrics, items, missing)


def _file_in(folder: Path) -> Path:
    for pattern in ("*val2014_annotations.json", "*_annotations.json", "*val2014_questions.json", "*_questions.json"):
        files = sorted(folder.glob(pattern))
        if len(files) == 1:
            return files[0]
    raise DataError(f"{folder}: expected v2_mscoco_val2014_annotations.json, or one *_annotations.json. Name the file.")


def _questions_name(annotations: str) -> str:
    return annotations.replace("mscoco_", "OpenEnded_mscoco_").replace("annotations", "questions")


def _annotations_name(questions: str) -> str:
    return questions.replace("OpenEnded_", "").replace("questions", "annotations")


def _read_header(path: Path) -> Mapping[str, Any]:
    header = read_json(path)
    if not isinstance(header, dict) or not {"annotations", "questions"} & header.keys():
        raise DataError(f"{path}: expected an object with annotations or questions. Is this file of VQAv2?")
    return header


def _texts(path: Path, header: Mapping[str, Any]) -> dict[int, str]:
    require_keys(header, ("questions",), str(path))
    texts = {}
    for number, row in enumerate(header["questions"], start=1):
        require_keys(row, ("question_id", "question"), f"{path}: question {number}")
        texts[row["question_id"]] = row["question"]
    return texts


def _annotated(path: Path, header: Mapping[str, Any], texts: Mapping[int, str] | None) -> list[Question]:
    questions = []
    for number, row in enumerate(header["annotations"], start=1):
        where = f"{path}: annotation {number}"
        require_keys(row, ("question_id", "image_id", "question_type", "answer_type", "answers"), where)
        if texts is not None and row["question_id"] not in texts:
            raise DataError(f"{where}: question {row['question_id']} is not in the questions file. Of another split?")
        humans = row["answers"]
        if not rows_have(humans, "answer") or any("answer" not in human for human in humans):
            raise DataError(f"{where}: expected ten human answers, each an object with answer.")
        questions.append(
            Question(
                id=str(row["question_id"]),
                prompt="" if texts is None else texts[row["question_id"]] + SHORT_ANSWER,
                image=_image(header, row["image_id"]),
                cluster=str(row["image_id"]),
                references=tuple(human["answer"] for human in humans),
                details={**{name: row[name] for name in ("question_type", "answer_type")}, "apart": _apart(humans)},
            )
        )
    return questions


def _from_parquet(rows: Sequence[ParquetRow]) -> list[Question]:
    file, subtype = rows[0].file, _SUBTYPES[rows[0].split]
    values = [row.values for row in rows]
    if not values[0].get("answers"):
        return _unannotated(file, {"data_subtype": subtype, "questions": values})
    texts = _texts(file, {"questions": values})
    return _annotated(file, {"data_subtype": subtype, "annotations": values}, texts)


def _apart(humans: Sequence[Mapping[str, Any]]) -> tuple[tuple[Any, Any], ...] | None:
    """Return what else distinguishes the human answers; `None` where ids do, as in all official files."""
    rows = tuple((human.get("answer_confidence"), human.get("answer_id")) for human in humans)
    return None if len({number for _, number in rows}) == len(rows) else rows


def _unannotated(path: Path, header: Mapping[str, Any]) -> list[Question]:
    questions = []
    for number, row in enumerate(header["questions"], start=1):
        require_keys(row, ("question_id", "image_id", "question"), f"{path}: question {number}")
        image = _image(header, row["image_id"])
        questions.append(
            Question(str(row["question_id"]), row["question"] + SHORT_ANSWER, image, cluster=str(row["image_id"]))
        )
    return questions


def _image(header: Mapping[str, Any], image_id: int) -> str:
    split = str(header.get("data_subtype", "val2014")).replace("test-dev", "test")
    return f"COCO_{split}_{image_id:012d}.jpg"


def _soft(question: Question, text: str, variant: str, *, final: bool) -> float:
    """Return the soft score of one answer. Human answers are rebuilt each time, since the tool overwrites its own."""
    said, humans = _compared(text, question.references, variant, final=final)
    apart = question.details["apart"]
    return soft_score(said, humans, apart and list(zip(humans, apart, strict=True)))


def _compared(text: str, references: Sequence[str], variant: str, *, final: bool) -> tuple[str, list[str]]:
    """Return both sides as the variant compares them."""
    if variant in ("normalised", LENIENT):
        return normalise(text), [normalise(reference) for reference in references]
    if variant == "2017":
        unanimous = len(set(references)) == 1
        return normalise(text), list(references) if unanimous else [strip_punctuation(r) for r in references]
    said = flatten(text if final else normalise_m4c(text))
    answers = [flatten(reference) for reference in references]
    if len(set(answers)) == 1:
        return said, answers
    return normalise(said), [normalise(answer) for answer in answers]
