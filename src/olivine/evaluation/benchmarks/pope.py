"""POPE: is the object in the image? Yes or no, in three settings of rising difficulty.

Building new POPE questions is not here, nor Prismatic's scoring: it compares probabilities, which is no answer.
"""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from olivine.errors import DataError
from olivine.evaluation.benchmarks.counted import CountedBenchmark, Counts, Graded
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, yes_no
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    answers_from,
    fraction,
    item_of,
    read_rows,
    require_keys,
    rows_have,
    vlmevalkit_yes_no,
)
from olivine.files import read_json_lines
from olivine.records import Answer, Item, Question, Score
from olivine.wording import SHORT_ANSWER

#: LLaVA's combined file numbers the questions of a setting from here on; our ids are the same.
_FIRST_ID = {"random": 10_000_000, "popular": 20_000_000, "adversarial": 0}


#: Variants whose overall figures are means over the settings; the others pool the answers.
_AVERAGED = ("official", LENIENT)


class POPE(CountedBenchmark):
    """POPE (`AoiDragon/POPE:evaluate.py`, with LLaVA's `llava/eval/eval_pope.py` for the three settings at once).

    Metrics, as fractions: `SETTING/f1`, `/accuracy`, `/precision`, `/recall`, `/yes_ratio` (share of answers taken as
    yes) for random, popular and adversarial, and `mean/...` over the settings read (the figure that LLaVA-1.5
    publishes as POPE is `mean/f1`). Where the official tool would divide by zero (never a yes), the figure is 0.

    Variants:

    - `official`: the text before the first period, commas removed, split at single spaces; no if it holds `No`,
      `not` or `no` exactly so, otherwise yes, also for empty text.
    - `lmms-eval`: yes or no only if that is the whole answer (case and outer white space aside); another answer is
      wrong, but no false negative; `yes_ratio` is taken from the labels, as there; `pooled/...` instead of the mean.
    - `vlmevalkit`: whole words, yes or no but not both, else not a yes, and wrong; percent; `pooled/...`.
    - `lenient`, ours: yes or no as the answer says in whatever words, as `lenient.yes_no` reads it; else not a yes, and
      wrong.

    The official tool pairs answers with labels by position and ignores the labels beyond the last answer. So an
    unanswered question is excluded from the official metrics and the items, and reported as missing (in the other
    variants it is wrong); unknown and repeated answers, which the tool would pair with other labels, are refused.

    Both published versions of the labels are read: the repository's (3 x 3,000) and the one that LLaVA pins (2,910
    in random, 246 questions that say `imange`). One cluster is one image.

    Args:
        questions: LLaVA's combined question file (`question_id, image, text, category` lines), through which its
            answers are joined to the labels by setting, image and question. Without it they are joined by LLaVA's
            numbering, and each answer's prompt is checked against its label's question.
    """

    name = "pope"
    declares = Declaration(
        title="POPE",
        metrics=(
            Metric("mean/accuracy", "accuracy", scale=100.0, reported=True, variants=_AVERAGED),
            Metric("mean/f1", "F1", scale=100.0, reported=True, variants=_AVERAGED),
            Metric(
                "pooled/accuracy",
                "accuracy",
                scale=100.0,
                mean_of_items=True,
                reported=True,
                variants=("lmms-eval",),
            ),
            Metric("pooled/f1", "F1", scale=100.0, reported=True, variants=("lmms-eval",)),
            Metric("pooled/accuracy", "accuracy", mean_of_items=True, reported=True, variants=("vlmevalkit",)),
            Metric("pooled/f1", "F1", reported=True, variants=("vlmevalkit",)),
            *(
                Metric(f"*/{name}", label, scale=scale, variants=variants)
                for variants, scale in (((*_AVERAGED, "lmms-eval"), 100.0), (("vlmevalkit",), 1.0))
                for name, label in (
                    ("accuracy", "accuracy of a setting, or of all"),
                    ("f1", "F1 of a setting, or of all"),
                    ("precision", "precision of a setting, or of all"),
                    ("recall", "recall of a setting, or of all"),
                    ("yes_ratio", "answers taken as yes"),
                )
                if (name, variants) != ("yes_ratio", ("vlmevalkit",))
            ),
        ),
        cluster="image",
        reply="yes-no",
        kind="setting",
        files=("one label file (`coco_pope_random.json`), or the folder of the three",),
        answers=("official lines of `question`, `answer` in label order, or a folder of such files",),
        missing={"official": "excluded"},
    )
    variants = ("official", "lmms-eval", "vlmevalkit", LENIENT)

    parquet = ParquetLayout(
        splits=("test", *_FIRST_ID),
        image=lambda row: f"{row.values['image_source']}.jpg",
        configs=("Full",),
        every_split=True,
    )

    def __init__(self, questions: Path | None = None) -> None:
        self._questions = questions

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read a label file (`coco_pope_random.json`), the folder of the three, or `lmms-lab/POPE`."""
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            return _from_parquet(read_parquet(shards))
        files = _label_files(path) if path.is_dir() else {_setting(path) or path.stem: path}
        return [question for setting, file in files.items() for question in _read_labels(setting, file)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official answers (`question`, `answer`, in label order) of one setting, or LLaVA's answer lines.

        A folder holds one official file for each setting, with the setting at the end of its name.
        """
        by_setting: dict[str, list[Question]] = {}
        for question in questions:
            by_setting.setdefault(question.details["setting"], []).append(question)
        if path.is_dir():
            files = _label_files(path)
            return [
                answer
                for setting, asked in by_setting.items()
                for answer in _in_label_order(_official_file(files, setting, path), asked)
            ]
        rows = read_rows(path)
        if rows_have(rows, "answer") and "text" not in rows[0]:
            if len(by_setting) != 1:
                raise DataError(
                    f"{path}: the official answers of one setting, but the labels are of {len(by_setting)}. "
                    "Give one label file, or the folder of all answer files."
                )
            return _in_label_order(path, questions)
        answers = super().read_answers(path, questions)
        if self._questions is not None:
            return _joined(answers, self._questions, questions, path)
        return _numbered(answers, rows, questions, path)

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """F1, accuracy, precision, recall and yes-ratio of each setting."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        if not texts:
            raise DataError(f"{self.name}: no answer to any of the {len(questions)} questions. Is this the right file?")
        return self.graded_score(questions, texts, selected, missing)

    def grade(self, questions: Sequence[Question], texts: Mapping[str, str], variant: str) -> Graded:
        """Return whether each answer is right; count setting, label and answer.

        The official tool skips questions without an answer.
        """
        items: list[Item] = []
        counted: list[tuple[str, Hashable]] = []
        for question in questions:
            if question.id not in texts and self.missing_rule(variant) == "excluded":
                continue
            gold, text = question.references[0], texts.get(question.id)
            said = None if text is None else _parsed(text, question, variant)
            # The official rule takes everything without a no for a yes.
            read = text is not None and (_said(text) if variant == "official" else said) is not None
            items.append(item_of(question, texts, float(gold == said), read=read))
            counted.append((question.cluster, (question.details["setting"], gold, said)))
        return Graded(tuple(items), counted)

    def metrics(self, counts: Counts, variant: str) -> dict[str, float]:
        """Return the figures of each setting and of all."""
        by_setting: dict[str, dict[tuple[str, str | None], int]] = {}
        for key, count in counts.items():
            setting, gold, said = cast("tuple[str, str, str | None]", key)
            by_setting.setdefault(setting, {})[gold, said] = count
        return _summary(by_setting, variant)


def _parsed(text: str, question: Question, variant: str) -> str | None:
    return yes_no(text, question.prompt.removesuffix(SHORT_ANSWER)) if variant == LENIENT else _PARSERS[variant](text)


def _setting(path: Path) -> str | None:
    """Return the setting that a file's name ends with, if any."""
    last = path.stem.rsplit("_", 1)[-1]
    return last if last in _FIRST_ID else None


def _label_files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")]):
        setting = _setting(file)
        if setting in files:
            raise DataError(
                f"{folder}: two files for {setting}: {files[setting].name}, {file.name}. Give one folder each."
            )
        if setting:
            files[setting] = file
    if not files:
        raise DataError(f"{folder}: no POPE files. Expected names like coco_pope_random.json.")
    return {setting: files[setting] for setting in _FIRST_ID if setting in files}


def _read_labels(setting: str, file: Path) -> list[Question]:
    rows = read_json_lines(file)
    return [_label(setting, row, f"{file}: line {number}") for number, row in enumerate(rows, start=1)]


def _label(setting: str, row: Mapping[str, Any], where: str) -> Question:
    require_keys(row, ("question_id", "image", "text", "label"), where)
    if row["label"] not in ("yes", "no"):
        raise DataError(f"{where}: label {row['label']!r}; expected yes or no.")
    return Question(
        id=_numbered_in(setting, str(row["question_id"])),
        prompt=row["text"] + SHORT_ANSWER,
        image=row["image"],
        cluster=row["image"],
        references=(row["label"],),
        details={"setting": setting, "question": row["text"]},
    )


def _from_parquet(rows: Sequence[ParquetRow]) -> list[Question]:
    """Labels out of the Hugging Face copy, settings in the official order."""
    by_setting: dict[str, list[Question]] = {setting: [] for setting in _FIRST_ID}
    for row in rows:
        require_keys(row.values, ("question_id", "image_source", "question", "answer", "category"), row.where)
        setting = row.values["category"]
        if setting not in by_setting:
            raise DataError(f"{row.where}: category {setting!r}; expected {', '.join(by_setting)}.")
        label = {"image": f"{row.values['image_source']}.jpg", "text": row.values["question"]}
        label |= {"question_id": row.values["question_id"], "label": row.values["answer"].strip().lower()}
        by_setting[setting].append(_label(setting, label, row.where))
    return [question for questions in by_setting.values() for question in questions]


def _question_of(prompt: str) -> str:
    """Return the question in a prompt, without the instruction, correcting a word that LLaVA's version misspells."""
    return prompt.split("\n")[0].strip().replace("imange", "image")


def _official_file(files: Mapping[str, Path], setting: str, folder: Path) -> Path:
    if setting not in files:
        raise DataError(f"{folder}: no answers to {setting}. Expected a file whose name ends with _{setting}.")
    return files[setting]


def _in_label_order(path: Path, questions: Sequence[Question]) -> list[Answer]:
    rows = read_rows(path)
    if len(rows) != len(questions):
        raise DataError(
            f"{path}: {len(rows)} answers to {len(questions)} labels. The official format pairs them by position: "
            "one answer a label, in order."
        )
    answers = answers_from(
        ({"id": q.id, **row} for q, row in zip(questions, rows, strict=True)), "id", "answer", str(path)
    )
    for number, (question, row) in enumerate(zip(questions, rows, strict=True), start=1):
        if _question_of(question.details["question"]) not in _question_of(row.get("question", question.prompt)):
            raise DataError(
                f"{path}: answer {number} is to {row['question']!r}, but label {number} asks "
                f"{question.details['question']!r}. Are these answers in the order of these labels?"
            )
    return answers


def _joined(answers: Sequence[Answer], combined: Path, questions: Sequence[Question], path: Path) -> list[Answer]:
    """LLaVA's answers, joined to the labels through its combined question file."""
    asked: dict[str, tuple[str, str, str]] = {}
    for number, row in enumerate(read_json_lines(combined), start=1):
        require_keys(row, ("question_id", "image", "text", "category"), f"{combined}: line {number}")
        asked[str(row["question_id"])] = (row["category"], row["image"], _question_of(row["text"]))
    ids = {(q.details["setting"], q.image, _question_of(q.prompt)): q.id for q in questions}
    settings = {q.details["setting"] for q in questions}
    joined = []
    for answer in answers:
        if answer.question_id not in asked:
            raise DataError(f"{path}: answer to {answer.question_id!r}, which {combined} does not ask.")
        key = asked[answer.question_id]
        if key[0] not in settings:
            continue  # one label file of the three was given
        if key not in ids:
            raise DataError(f"{path}: answer to {answer.question_id!r} ({key[2]!r} about {key[1]}): no such label.")
        joined.append(Answer(ids[key], answer.text, answer.state, answer.error))
    return joined


def _numbered(
    answers: Sequence[Answer], rows: Sequence[Mapping[str, Any]], questions: Sequence[Question], path: Path
) -> list[Answer]:
    """Answers joined to the labels by LLaVA's numbering, or the label file's own where there is but one."""
    known = {question.id: question for question in questions}
    settings = {question.details["setting"] for question in questions}
    if len(settings) == 1 and not any(answer.question_id in known for answer in answers):
        (setting,) = settings
        answers = [Answer(_numbered_in(setting, a.question_id), a.text, a.state, a.error) for a in answers]
    missing = _FIRST_ID.keys() - settings if settings <= _FIRST_ID.keys() else frozenset[str]()
    others = {str(_FIRST_ID[setting] // 10_000_000) for setting in missing}
    kept = []
    for answer, row in zip(answers, rows, strict=True):
        question = known.get(answer.question_id)
        if question is None and answer.question_id.zfill(8)[:-7] in others:
            continue  # one label file of the three was given
        if question and "prompt" in row and _question_of(row["prompt"]) != _question_of(question.prompt):
            raise DataError(
                f"{path}: the answer to {answer.question_id} is to {_question_of(row['prompt'])!r}, but the label asks "
                f"{_question_of(question.prompt)!r}. Another version of the labels? Give LLaVA's question file."
            )
        kept.append(answer)
    return kept


def _numbered_in(setting: str, number: str) -> str:
    """Return the id of a setting's question, unique over the three settings."""
    return str(_FIRST_ID.get(setting, 0) + int(number)) if number.isdecimal() else f"{setting}/{number}"


def _official(text: str) -> str:
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"}.intersection(words) else "yes"


def _said(text: str) -> str | None:
    """Return the yes or no that the official rule looks for, None where it finds neither."""
    words = {word.lower() for word in re.findall(r"[A-Za-z']+", text)}
    return "no" if _official(text) == "no" else "yes" if "yes" in words else None


def _exact(text: str) -> str | None:
    plain = text.lower().strip()
    return plain if plain in ("yes", "no") else None


_PARSERS = {"official": _official, "lmms-eval": _exact, "vlmevalkit": vlmevalkit_yes_no}


def _figures(counts: Mapping[tuple[str, str | None], int], variant: str) -> dict[str, float]:
    """Return the metrics of counted (label, answer) pairs; an answer that is neither yes nor no is `None`."""
    hits, answered = counts.get(("yes", "yes"), 0), sum(counts.values())
    yeses = sum(count for (_, said), count in counts.items() if said == "yes")
    positives = sum(
        count
        for (gold, said), count in counts.items()
        if gold == "yes" and (said is not None or variant != "lmms-eval")
    )
    precision = hits / yeses if yeses else 0.0
    recall = hits / positives if positives else 0.0
    scale = 100 if variant == "vlmevalkit" else 1
    right = sum(count for (gold, said), count in counts.items() if gold == said)
    figures = {
        "f1": scale * (2 * precision * recall / (precision + recall) if hits else 0.0),
        "accuracy": scale * (right / answered if answered else 0.0),
        "precision": scale * precision,
        "recall": scale * recall,
    }
    if variant in _AVERAGED:
        figures["yes_ratio"] = yeses / answered if answered else 0.0
    if variant == "lmms-eval":
        labelled = sum(count for (gold, _), count in counts.items() if gold == "yes")
        figures["yes_ratio"] = labelled / answered if answered else 0.0
    return figures


def _summary(by_setting: Mapping[str, Mapping[tuple[str, str | None], int]], variant: str) -> dict[str, float]:
    figures = {setting: _figures(counts, variant) for setting, counts in by_setting.items()}
    if variant in _AVERAGED:
        names = next(iter(figures.values()), {})
        overall = {f"mean/{name}": fraction([each[name] for each in figures.values()]) for name in names}
    else:
        pooled: Counter[tuple[str, str | None]] = Counter()
        for counts in by_setting.values():
            pooled.update(counts)
        overall = {f"pooled/{name}": value for name, value in _figures(pooled, variant).items()} if pooled else {}
    return overall | {f"{setting}/{name}": value for setting, each in figures.items() for name, value in each.items()}
