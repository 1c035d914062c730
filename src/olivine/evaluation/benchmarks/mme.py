"""MME: two yes/no questions per image in fourteen sub-tasks, scored as the release's calculation.py does.

No image is opened here; the release's folders are only read for their question files.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from olivine.errors import DataError
from olivine.evaluation.answers import from_row
from olivine.evaluation.benchmarks.counted import CountedBenchmark, Counts, Graded
from olivine.evaluation.benchmarks.declaration import CORRECT, Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT, yes_no
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import (
    agrees,
    graded,
    read_lines,
    read_rows,
    require_keys,
    rows_have,
    vlmevalkit_yes_no,
)
from olivine.records import Answer, Question, Score
from olivine.wording import SHORT_ANSWER

_PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_INSTRUCTION = "Please answer yes or no."


class MME(CountedBenchmark):
    """MME (`BradyFU/Awesome-Multimodal-Large-Language-Models`, branch Evaluation, tools/eval_tool.zip).

    Metrics, in points: for each sub-task `TASK/acc` (share of questions right, of 100), `TASK/acc_plus` (share of
    images with both right, of 100), and `TASK`, their sum; `perception` (ten sub-tasks, of 2000) and `cognition`
    (four, of 800); where only N of their sub-tasks were read, the sum is `perception-N-of-10` or `cognition-N-of-4`
    instead, so that it is never taken for the official one; `total`, the sum of the sub-tasks read. The
    two lines of an image are adjacent in a sub-task's file; one cluster is such a pair.

    Variants:

    - `official`: the lower-cased response is yes or no, or else its first four characters hold `yes`, or else `no`,
      or else it is neither, which is wrong. Nothing is stripped; so `know` is a no and `Answer: yes` is neither.
    - `lmms-eval`: outer white space and all periods go first, and a lone `y` or `n` counts.
    - `vlmevalkit`: whole words anywhere, yes or no but not both, else wrong.
    - `lenient`, ours: yes or no as the answer says in whatever words, as `lenient.yes_no` reads it; else wrong.

    The official tool stops at an image without its two lines, and so does `official` at a missing answer; in the
    other variants that is wrong. Unknown and repeated answers are errors.
    """

    name = "mme"
    declares = Declaration(
        title="MME",
        metrics=(
            Metric("perception", "perception", unit="of 2000", range=(0.0, 2000.0), reported=True),
            Metric("cognition", "cognition", unit="of 800", range=(0.0, 800.0), reported=True),
            Metric("total", "all tasks", unit="points", range=(0.0, 2800.0), reported=True),
            CORRECT,
            Metric("perception-*-of-10", "sum of the perception sub-tasks read", unit="points", range=(0.0, 1800.0)),
            Metric("cognition-*-of-4", "sum of the cognition sub-tasks read", unit="points", range=(0.0, 600.0)),
            Metric("*/acc", "questions of a sub-task right"),
            Metric("*/acc_plus", "images of a sub-task with both questions right"),
            Metric("*", "sub-task", unit="of 200", range=(0.0, 200.0)),
        ),
        cluster="image with its two questions",
        reply="yes-no",
        kind="task",
        files=("the tool's folder of `TASK.txt` files, one of them, or the release's folder",),
        answers=("the tool's folder of result files: `image<TAB>question<TAB>gold<TAB>response`",),
        missing={"official": "refused"},
    )
    variants = ("official", "lmms-eval", "vlmevalkit", LENIENT)
    prompts = ("llava-1.5", "original")
    parquet = ParquetLayout(splits=("test",), image=lambda row: _image(row.values))

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read the tool's folder of `TASK.txt` files (or one of them), the release's folder, or `lmms-lab/MME`.

        A line is `image<TAB>question<TAB>Yes|No[<TAB>response]`; the release has `question<TAB>Yes|No`, one file a
        image. `original` asks the question unchanged; `llava-1.5` drops " Please answer yes or no." from it and
        asks for a word or phrase.
        """
        wording = _original if self.choose_prompt(prompt) == "original" else _llava
        shards, files = self.shards(path), _task_files(path)
        if shards:
            pairs = _pairs_of_parquet(read_parquet(shards))
        elif files:
            pairs = [pair for task, file in files.items() for pair in _pairs_of_tool(task, file)]
        else:
            pairs = [pair for folder in _task_folders(path) for pair in _pairs_of_release(folder, path)]
        return [
            Question(
                id=f"{cluster}/{number}",
                prompt=wording(question),
                image=image,
                cluster=cluster,
                references=(gold,),
                details={"task": cluster.split("/")[0], "question": question},
            )
            for cluster, image, lines in pairs
            for number, (question, gold) in enumerate(lines, start=1)
        ]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read the tool's folder of result files, or LLaVA's answer lines.

        LLaVA gives both questions of an image one id (`TASK/IMAGE`); they are distinguished by the prompt, as its
        own converter does.
        """
        known = {_join_key(q.details["task"], q.cluster, q.details["question"]): q.id for q in questions}
        files = _task_files(path)
        if files:
            asked = {question.details["task"] for question in questions}
            lines = [line for task, file in files.items() if task in asked for line in _responses(task, file, known)]
            return [from_row({"question_id": key, "text": text}) for key, text in lines]
        rows = read_rows(path)
        answers = super().read_answers(path, questions)
        ids = {question.id for question in questions}
        if not rows_have(rows, "prompt") or all(answer.question_id in ids for answer in answers):
            return answers
        return [
            Answer(
                _id_by_prompt(answer.question_id, row.get("prompt", ""), known, path),
                answer.text,
                answer.state,
                answer.error,
            )
            for answer, row in zip(answers, rows, strict=True)
        ]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Compute the sub-task scores and their sums."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        return self.graded_score(questions, texts, selected, missing)

    def grade(self, questions: Sequence[Question], texts: Mapping[str, str], variant: str) -> Graded:
        """Return whether each answer is right; count each pair's sub-task, right answers and questions."""
        parse = _PARSERS[variant]
        items = graded(questions, texts, lambda text, question: agrees(parse(text), question.references[0]))
        pairs: dict[tuple[str, str], list[float]] = {}
        for question, item in zip(questions, items, strict=True):
            pairs.setdefault((question.details["task"], item.cluster), []).append(item.correct)
        return Graded(items, [(c, (task, int(sum(pair)), len(pair))) for (task, c), pair in pairs.items()])

    def metrics(self, counts: Counts, variant: str) -> dict[str, float]:  # noqa: ARG002
        """Return the scores of sub-tasks and their sums."""
        return _points(cast("Mapping[tuple[str, int, int], int]", counts))


#: A cluster, its image's path, and its lines: question and gold.
_Pair = tuple[str, str, list[tuple[str, str]]]


def _task_files(path: Path) -> dict[str, Path]:
    files = [path] if path.suffix == ".txt" else [path / f"{task}.txt" for task in (*_PERCEPTION, *_COGNITION)]
    return {file.stem: file for file in files if file.is_file()}


def _task_folders(path: Path) -> list[Path]:
    folders = [path / task for task in (*_PERCEPTION, *_COGNITION) if (path / task).is_dir()]
    if not folders:
        raise DataError(
            f"{path}: no MME files. Expected a folder of existence.txt, count.txt and so on, or the release's folder "
            "of the same names."
        )
    return folders


def _pairs_of_tool(task: str, file: Path) -> list[_Pair]:
    rows = [_cells(line, (3, 4), f"{file}: line {number}") for number, line in enumerate(read_lines(file), start=1)]
    if len(rows) % 2:
        raise DataError(f"{file}: {len(rows)} lines; expected two for each image. Is the file cut short?")
    pairs: list[_Pair] = []
    seen: Counter[str] = Counter()
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        if first[0] != second[0]:
            raise DataError(f"{file}: lines of {first[0]} and {second[0]} make a pair; expected two lines per image.")
        lines = [(row[1], _gold(row[2], str(file))) for row in (first, second)]
        image = f"{task}/{first[0]}"
        seen[image] += 1
        pairs.append((image if seen[image] == 1 else f"{image}#{seen[image]}", image, lines))
    return pairs


def _pairs_of_release(folder: Path, root: Path) -> list[_Pair]:
    texts = folder / "questions_answers_YN" if (folder / "images").is_dir() else folder
    images = folder / "images" if (folder / "images").is_dir() else folder
    pairs = []
    for file in sorted(texts.glob("*.txt")):
        lines = [_cells(line.strip(), (2,), str(file)) for line in read_lines(file)]
        if len(lines) != 2:
            raise DataError(f"{file}: {len(lines)} lines; expected two questions per image.")
        found = [image for image in sorted(images.glob(f"{file.stem}.*")) if image.suffix != ".txt"]
        image = found[0] if found else images / f"{file.stem}.jpg"
        relative = image.relative_to(root).as_posix()
        pairs.append((f"{folder.name}/{image.name}", relative, [(q, _gold(gold, str(file))) for q, gold in lines]))
    return pairs


def _image(row: Mapping[str, str]) -> str:
    return f"{row['category']}/{row['question_id'].split('/')[-1]}"


def _pairs_of_parquet(rows: Sequence[ParquetRow]) -> list[_Pair]:
    lines: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        require_keys(row.values, ("question_id", "question", "answer", "category"), row.where)
        image = _image(row.values)
        lines.setdefault(image, []).append((row.values["question"], _gold(row.values["answer"], row.where)))
    for image, asked in lines.items():
        if len(asked) != 2:
            raise DataError(f"{rows[0].file}: {len(asked)} rows about {image}; expected two. Is the copy complete?")
    return [(image, image, asked) for image, asked in lines.items()]


def _cells(line: str, counts: Sequence[int], where: str) -> list[str]:
    cells = line.split("\t")
    if len(cells) not in counts:
        expected = " or ".join(str(count) for count in counts)
        raise DataError(f"{where}: {len(cells)} tab-separated cells; expected {expected}. Is this one of MME's files?")
    return cells


def _gold(text: str, where: str) -> str:
    if text.strip().lower() not in ("yes", "no"):
        raise DataError(f"{where}: gold answer {text!r}; expected Yes or No.")
    return text.strip().lower()


def _responses(task: str, file: Path, known: Mapping[tuple[str, str, str], str]) -> list[tuple[str, str]]:
    answers = []
    for number, line in enumerate(read_lines(file), start=1):
        image, question, _, response = _cells(line, (4,), f"{file}: line {number} (image, question, gold, response)")
        answers.append((_id_by_prompt(f"{task}/{image}", question, known, file), response))
    return answers


def _id_by_prompt(cluster: str, prompt: str, known: Mapping[tuple[str, str, str], str], path: Path) -> str:
    key = _join_key(cluster.split("/")[0], cluster, prompt)
    if key not in known:
        raise DataError(f"{path}: no question {key[2]!r} about {cluster}. Are these answers to these questions?")
    return known[key]


def _join_key(task: str, cluster: str, prompt: str) -> tuple[str, str, str]:
    """Return task, image without suffix (LLaVA's converter writes .txt), question without instructions and spacing."""
    bare = prompt.replace(SHORT_ANSWER.strip(), "").replace(_INSTRUCTION, "")
    return task, cluster.split("/")[-1].split(".")[0], re.sub(r"\s+", " ", bare).strip()


def _original(question: str) -> str:
    return question


def _llava(question: str) -> str:
    return question.replace(f" {_INSTRUCTION}", "").strip() + SHORT_ANSWER


def _official(response: str) -> str | None:
    # The tool's response still ends with its newline; that is no letter, so the rule is the same without it.
    start = response.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def _lmms_eval(response: str) -> str | None:
    plain = response.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(plain) or _official(plain)


_PARSERS: dict[str, Callable[[str], str | None]] = {
    "official": _official,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": vlmevalkit_yes_no,
    LENIENT: yes_no,
}


def _points(counts: Mapping[tuple[str, int, int], int]) -> dict[str, float]:
    """Return the metrics, given how many pairs of each task have how many right answers to how many questions."""
    by_task: dict[str, list[tuple[int, int, int]]] = {}
    for (task, right, asked), pairs in counts.items():
        by_task.setdefault(task, []).append((right, asked, pairs))
    metrics: dict[str, float] = {}
    for task, tallies in by_task.items():
        questions = sum(asked * pairs for _, asked, pairs in tallies)
        acc = 100 * (sum(right * pairs for right, _, pairs in tallies) / questions)
        both = sum(pairs for right, _, pairs in tallies if right == 2)
        acc_plus = 100 * (both / sum(pairs for *_, pairs in tallies))
        metrics |= {task: acc + acc_plus, f"{task}/acc": acc, f"{task}/acc_plus": acc_plus}
    totals = {}
    for name, tasks in (("perception", _PERCEPTION), ("cognition", _COGNITION)):
        read = [task for task in tasks if task in by_task]
        if read:
            part = "" if len(read) == len(tasks) else f"-{len(read)}-of-{len(tasks)}"
            totals[name + part] = sum(metrics[task] for task in read)
    return totals | {"total": sum(metrics[task] for task in by_task)} | metrics
