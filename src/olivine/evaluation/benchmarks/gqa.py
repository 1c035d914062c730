"""GQA: questions over scene graphs, scored as eval.py of the data set does (accuracy, consistency and the rest).

Grounding is not scored here: it needs attention maps, not answers.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivine.data.images import ImageSource
from olivine.errors import DataError
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text
from olivine.evaluation.benchmarks.parquet import ParquetImages, ParquetLayout, find_shards
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    Prediction,
    answers_from,
    by_group,
    is_reply,
    item_of,
    percent,
    read_rows,
    require_keys,
    rows_have,
)
from olivine.evaluation.benchmarks.vqa_normaliser import normalise
from olivine.files import read_json
from olivine.records import Answer, Question, Score
from olivine.wording import SHORT_ANSWER


class GQA(Benchmark):
    """GQA (eval.py in the data set's eval.zip; a faithful copy is `BAAI-DCAI/Bunny:eval/gqa/eval_gqa.py`).

    Metrics, in percent: `accuracy`, `binary` (structural type other than query), `open` (query), `structural/TYPE`,
    `semantic/TYPE`, `steps/N`, `words/N`; `validity` and `plausibility` where there is a choices file;
    `consistency` where the question file holds all the questions that its balanced ones entail, and all its
    questions are answered. `distribution` is the official chi-square, lower is better. Only balanced questions
    count, and only they are items; one cluster is one image.

    Variants differ in what happens to an answer before it is compared:

    - `official`: nothing happens to an entry of the official predictions file; a model's raw answer is converted as
      LLaVA does before it calls the official tool (trailing periods off, lower case).
    - `raw`: nothing ever happens. `llava`: LLaVA's conversion always happens.
    - `prismatic`: all ASCII punctuation is removed and the prediction lower-cased.
    - `lmms-eval`: the same on both sides. `vlmevalkit`: both sides are stripped and lower-cased.
    - `lenient`, ours: the short answer in the reply, or the yes or no that it says where the gold answer is one, as the
      module `lenient` reads it; both sides go through VQAv2's normaliser.

    The official tool stops at a balanced question without a prediction, and so do the first four variants; in the
    last three it counts as wrong. Answers to unknown questions, and two answers to one, are errors here, where the
    official tool ignores the former and keeps the last of the latter.

    Args:
        choices: the `*_choices.json` of the same tier; by default the one beside the question file, if any.
    """

    name = "gqa"
    declares = Declaration(
        title="GQA",
        metrics=(
            Metric("accuracy", "accuracy", mean_of_items=True, reported=True),
            Metric("binary", "accuracy on yes/no and either/or questions"),
            Metric("open", "accuracy on open questions"),
            Metric("validity", "answers in the question's scope"),
            Metric("plausibility", "answers that make sense"),
            Metric("consistency", "right answers to what a right answer entails"),
            Metric(
                "distribution",
                "distance of the answers' distribution from the true one",
                unit="chi-square / 100",
                range=(0.0, None),
                lower_is_better=True,
            ),
            Metric("structural/*", "accuracy by structural type"),
            Metric("semantic/*", "accuracy by semantic type"),
            Metric("steps/*", "accuracy by number of reasoning steps"),
            Metric("words/*", "accuracy by number of words"),
        ),
        cluster="image",
        reply="short text",
        kind="detailed",
        files=("`*_questions.json`, a folder of its chunks, or the official folder", "`*_choices.json` beside it"),
        answers=("the official list of `questionId`, `prediction`",),
        missing=dict.fromkeys(("official", "raw", "llava", "prismatic"), "refused"),
    )
    variants = ("official", "raw", "llava", "prismatic", "lmms-eval", "vlmevalkit", LENIENT)

    parquet = ParquetLayout(
        splits=("testdev", "val", "train", "test"),
        image=lambda row: f"{row.values['id']}.jpg",
        configs=("testdev_balanced_instructions", "testdev_all_instructions"),
    )

    def __init__(self, choices: Path | None = None) -> None:
        self._choices = choices

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read a questions file, a folder of its chunks, or the official folder (its testdev-balanced file).

        A Hugging Face copy (`lmms-lab/GQA`) is read from its instructions config
        (testdev_balanced_instructions, or the one named); images from the images config beside it.

        Questions without an answer (the test tiers) can be asked but not scored.

        Raises:
            DataError: not GQA's questions, or the choices lack one of them.
        """
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            file = next(iter(shards))
            rows = {row.values["id"]: _official_row(row.values) for row in read_parquet(shards)}
            choices = _read_choices(self._choices)
        else:
            file, rows = _read_questions(path)
            choices = _read_choices(self._choices or _choices_beside(file))
        return [_question(file, key, row, choices) for key, row in rows.items()]

    def images(self, path: Path) -> ImageSource | Path:
        """Return the folder `images`, or the images config that belongs to a Hugging Face copy's instructions."""
        shards = self.shards(path)
        if not shards:
            return super().images(path)
        file = next(iter(shards))
        instructions = next((p for p in file.parents if p.name.endswith("_instructions")), file.parent)
        images = instructions.with_name(instructions.name.replace("_instructions", "_images"))
        of_images = find_shards(images, self.parquet) if images != instructions else {}
        if not of_images:
            raise DataError(f"{instructions}: no images beside it. Expected {images.name} of the same copy.")
        return ParquetImages(of_images, self.parquet)

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read the official predictions, a list of `{"questionId", "prediction"}`, or LLaVA's answer lines."""
        rows = read_rows(path)
        if not rows_have(rows, "questionId"):
            return super().read_answers(path, questions)
        plain = answers_from(rows, "questionId", "prediction", str(path))
        return [Prediction(answer.question_id, answer.text, answer.state) for answer in plain]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute every official metric that the available files allow."""
        selected = self.choose_variant(variant)
        scored = [question for question in questions if question.details["balanced"]]
        texts, missing = self.matched(questions, answers, selected, scored)
        gold, said = _converted(questions, answers, texts, selected)
        if not scored:
            raise DataError(f"{self.name}: no question has isBalanced; only those are scored. Is this the right file?")
        right = {key: float(key in said and said[key] == answer) for key, answer in gold.items()}
        metrics = _accuracies(scored, right) | _choice_metrics(scored, said)
        if not missing:
            metrics |= _consistency(scored, right)
        metrics |= _distribution(scored, gold, said)
        items = [item_of(q, texts, right[q.id], read=is_reply(said.get(q.id, ""), (gold[q.id],))) for q in scored]
        return self.result(selected, metrics, items, missing)


def _official_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the Hugging Face copy in the official format; the copy has entailed ids as the text of a list."""
    entailed = row.get("entailed") or []
    return {
        **{name: value for name, value in row.items() if value is not None},
        "entailed": re.findall(r"\w+", entailed) if isinstance(entailed, str) else list(entailed),
        "groups": row.get("groups") or {},
    }


def _read_questions(path: Path) -> tuple[Path, dict[str, Any]]:
    chunks = sorted(path.glob(f"{path.name}_*.json")) if path.is_dir() else []
    if chunks:
        rows: dict[str, Any] = {}
        for chunk in chunks:
            rows |= _read_object(chunk)
        return path, rows
    file = _questions_in(path) if path.is_dir() else path
    return file, _read_object(file)


def _questions_in(folder: Path) -> Path:
    default = folder / "testdev_balanced_questions.json"
    files = [default] if default.is_file() else sorted(folder.glob("*_questions.json"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{folder}: expected {default.name}, or one *_questions.json; found {found}. Name the file.")
    return files[0]


def _choices_beside(questions: Path) -> Path | None:
    tier = questions.stem.removesuffix("_questions")
    names = (tier, tier.removesuffix("_balanced").removesuffix("_all"))
    files = [questions.with_name(f"{name}_choices.json") for name in names]
    return next((file for file in files if file.is_file()), None)


def _read_choices(path: Path | None) -> Mapping[str, Any] | None:
    return None if path is None else _read_object(path)


def _read_object(path: Path) -> dict[str, Any]:
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise DataError(f"{path}: a JSON {type(rows).__name__}; GQA's files are one object keyed by question id.")
    return rows


def _question(file: Path, key: str, row: Any, choices: Mapping[str, Any] | None) -> Question:
    where = f"{file}: question {key!r}"
    require_keys(row, ("question", "imageId"), where)
    details: dict[str, Any] = {"balanced": bool(row.get("isBalanced", True))}
    if "answer" in row:
        require_keys(row, ("types",), where)
        require_keys(row["types"], ("structural", "semantic", "detailed"), f"{where}: types")
        details |= {
            **row["types"],
            "group": row.get("groups", {}).get("global"),
            "entailed": [other for other in row.get("entailed", []) if other != key],
            "steps": _steps(row.get("semantic", [])),
            "words": len(row["question"].split()),
        }
        if choices is not None:
            require_keys(choices, (key,), f"{file}: the choices file")
            require_keys(choices[key], ("valid", "plausible"), f"{where}: its choices")
            details |= {name: frozenset(choices[key][name]) for name in ("valid", "plausible")}
    return Question(
        id=key,
        prompt=row["question"] + SHORT_ANSWER,
        image=f"{row['imageId']}.jpg",
        cluster=str(row["imageId"]),
        references=(row["answer"],) if "answer" in row else (),
        details=details,
    )


def _steps(operations: Sequence[Mapping[str, Any]]) -> int:
    """Count the reasoning steps; the closing step that only asks (exist, query name, choose name) is not counted."""
    texts = [f"{operation['operation']}: {operation['argument']}" for operation in operations]
    return sum(not any(asks in text for asks in ("exist", "query: name", "choose name")) for text in texts)


def _llava(text: str) -> str:
    return text.rstrip(".").lower()


def _as_is(text: str) -> str:
    return text


def _unpunctuated(text: str) -> str:
    return re.sub(f"[{re.escape(string.punctuation)}]", "", text).lower()


def _stripped(text: str) -> str:
    return text.strip().lower()


#: What a variant does to the prediction and to the gold answer.
_CONVERSIONS: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "official": (_llava, _as_is),
    "raw": (_as_is, _as_is),
    "llava": (_llava, _as_is),
    "prismatic": (_unpunctuated, _as_is),
    "lmms-eval": (_unpunctuated, _unpunctuated),
    "vlmevalkit": (_stripped, _stripped),
}


def _converted(
    questions: Sequence[Question], answers: Sequence[Answer], texts: Mapping[str, str], variant: str
) -> tuple[dict[str, str], dict[str, str]]:
    unscorable = [question.id for question in questions if not question.references]
    if unscorable:
        raise DataError(f"gqa: question {unscorable[0]!r} has no gold answer (a test tier?); it cannot be scored here.")
    if variant == LENIENT:
        gold = {question.id: normalise(question.references[0]) for question in questions}
        asked = {question.id: question.prompt.removesuffix(SHORT_ANSWER) for question in questions}
        return gold, {
            key: short_text(text, yes_or_no=gold[key] in ("yes", "no"), question=asked[key])
            for key, text in texts.items()
        }
    of_prediction, of_gold = _CONVERSIONS[variant]
    final = {a.question_id for a in answers if isinstance(a, Prediction)} if variant == "official" else frozenset()
    said = {key: text if key in final else of_prediction(text) for key, text in texts.items()}
    return {question.id: of_gold(question.references[0]) for question in questions}, said


def _accuracies(scored: Sequence[Question], right: Mapping[str, float]) -> dict[str, float]:
    queries = [right[q.id] for q in scored if q.details["structural"] == "query"]
    others = [right[q.id] for q in scored if q.details["structural"] != "query"]
    metrics = {
        "accuracy": percent([right[q.id] for q in scored]),
        "binary": percent(others),
        "open": percent(queries),
    }
    for name in ("structural", "semantic", "steps", "words"):
        metrics |= by_group(name, ((q.details[name], right[q.id]) for q in scored))
    return metrics


def _choice_metrics(scored: Sequence[Question], said: Mapping[str, str]) -> dict[str, float]:
    if "valid" not in scored[0].details:
        return {}
    return {
        metric: percent([float(said.get(q.id) in _possible(q, kind)) for q in scored])
        for metric, kind in (("validity", "valid"), ("plausibility", "plausible"))
    }


def _possible(question: Question, kind: str) -> frozenset[str]:
    """Return the choices file's answers, or the only three valid ones for "what do they have in common"."""
    common = "Common" in question.details["detailed"]
    return frozenset({"color", "material", "shape"}) if common else question.details[kind]


def _consistency(scored: Sequence[Question], right: Mapping[str, float]) -> dict[str, float]:
    """Return how often answers entailed by a correct answer are correct, averaged over correct answers with such."""
    linked = [(q, q.details["entailed"]) for q in scored if q.details["entailed"]]
    if not linked or any(other not in right for _, entailed in linked for other in entailed):
        return {}
    shares = [sum(right[o] for o in entailed) / len(entailed) for q, entailed in linked if right[q.id]]
    return {"consistency": percent(shares)}


def _distribution(scored: Sequence[Question], gold: Mapping[str, str], said: Mapping[str, str]) -> dict[str, float]:
    """Return the chi-square of predicted against gold answer counts per global group, weighted by group size, over 100.

    Only gold answers of the group are summed over, as in the official tool.
    """
    expected: dict[str, Counter[str]] = defaultdict(Counter)
    observed: dict[str, Counter[str]] = defaultdict(Counter)
    for question in scored:
        group = question.details["group"]
        if group is not None:
            expected[group][gold[question.id]] += 1
            if question.id in said:
                observed[group][said[question.id]] += 1
    total = sum(counts.total() for counts in expected.values())
    if not total:
        return {}
    weighted = sum(
        counts.total() * sum((observed[group][answer] - count) ** 2 / count for answer, count in counts.items())
        for group, counts in expected.items()
    )
    return {"distribution": weighted / total / 100}
