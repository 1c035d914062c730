"""MM-Vet: open questions that need several capabilities at once; a judge model grades each answer in tenths.

The judge's transport, cache and retries are in `judge`; MM-Vet v2 is not here.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from olivine.errors import DataError, RequestError, RunError
from olivine.evaluation.answers import match_answers
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.declaration import Declaration, Metric
from olivine.evaluation.benchmarks.parquet import ParquetLayout, ParquetRow
from olivine.evaluation.benchmarks.parquet import read_rows as read_parquet
from olivine.evaluation.benchmarks.parsing import answers_from, find_file, read_rows, require_keys
from olivine.evaluation.judge import Judge, JudgeReply, JudgeRequest, read_wording
from olivine.evaluation.rule_judge import RuleJudge
from olivine.files import read_json
from olivine.records import Answer, Item, ItemState, Question, Score

#: The official protocol in our own words: an instruction, a table's header, worked rows.
JUDGE_PROMPT = """\
You grade answers to questions about an image that you cannot see. Each row of the table below holds a question, the \
reference answer, a model's answer, and the grade of the model's answer. Grades are tenths: 0.0 if the answer is wrong \
altogether, 1.0 if it is right altogether, and 0.1 to 0.9 if it is right in part. Parts of a reference that are joined \
by <AND> are all needed for 1.0; of parts that are joined by <OR> any one is enough. Judge what is said, not how it is \
worded or how long it is. Finish the last row by writing its grade, a number and nothing else.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
Which two colours has the flag? | red <AND> white | It is green. | 0.0
Which two colours has the flag? | red <AND> white | red | 0.5
Which two colours has the flag? | red <AND> white | The flag is red and blue. | 0.5
Which two colours has the flag? | red <AND> white | White, with a red stripe. | 1.0
What does the shop sell? | bread <OR> bakery goods | They seem to sell fresh bread. | 1.0
Why is the man laughing? | His dog has put on his glasses and looks as if it were reading the newspaper, which is what \
he was about to do himself. | There is a dog that amuses him. | 0.3
Why is the man laughing? | His dog has put on his glasses and looks as if it were reading the newspaper, which is what \
he was about to do himself. | The dog wears his glasses and seems to read his newspaper, as if it had taken his place. \
| 1.0
"""

_REMINDER = "\nPredict the correctness of the answer (digit): "
#: The official tool asks five times more, but does not read the fifth reply, so we do not ask for it.
_RE_ASKS = 4
_MORE_HEAT = 0.5
#: Grades in the official tool's own layout: `{"v1_0": {"model": [...], "content": [...], "score": [...]}}`.
Grades = dict[str, dict[str, list[Any]]]


#: What a question without an answer gets, where such are not refused.
_UNGRADED: dict[str, list[Any]] = {"model": [""], "content": [""], "score": [0.0]}


class MMVet(Benchmark):
    """MM-Vet (`yuweihao/MM-Vet:mm-vet_evaluator.py`).

    Metrics, in percent to one decimal as the tool rounds, means over the judge's runs: `total`, `std` (population
    standard deviation of the runs' totals), `capability/rec|ocr|know|gen|spat|math` (a question counts in each that it
    needs), `integration/A+B...` (questions that need exactly those, named in the order above), and `run/N`, each
    run's total, where there are several. One cluster is one image; an item's correctness is its mean grade.

    Grades come from `grades`, or else from `judge`. The protocol is the official one (temperature 0, three tokens, the
    first word of the reply as a number in [0, 1]; otherwise up to five re-asks that grow warmer by a half each, then
    0), but for the wording before the row. Figures by different judges do not compare, nor do those by one judge under
    different wordings: `judged_by` says which they were.

    Variants: `official`, and `rule`, which a `RuleJudge` always gives: the share of the reference's
    elements that the answer says. It is no official figure, and `judged_by` says so.

    With a judge, a question without an answer is an error, as in the official tool. Stored grades must be of all
    questions and of no others; then answers are not looked at.

    Args:
        grades: a stored grades file, replayed without any judge.
        judge: who grades, where there is no such file; a `RuleJudge` grades once, regardless of `runs`.
        judge_prompt: a file with another wording of everything before the graded row.
        judge_runs: how often each answer is graded (the paper: 5).
        subset: a JSON list of ids (the official bard_set.json); other questions are neither asked nor scored.
    """

    name = "mmvet"
    declares = Declaration(
        title="MM-Vet",
        metrics=(
            Metric("total", "total", unit="of 100", mean_of_items=True, reported=True),
            Metric("std", "standard deviation over the judge's runs", unit="of 100", range=(0.0, 50.0)),
            Metric("capability/*", "questions that need a capability", unit="of 100"),
            Metric("integration/*", "questions that need exactly these capabilities", unit="of 100"),
            Metric("run/*", "total of one of the judge's runs", unit="of 100"),
        ),
        cluster="image",
        reply="free text",
        kind="capabilities",
        files=("mm-vet.json, or its folder",),
        answers=("the official object `{ID: text}`", "stored grades (`grades`), which need no judge"),
        missing={"official": "refused", "rule": "refused"},
    )
    variants = ("official", "rule")
    max_new_tokens = 1024
    parquet = ParquetLayout(splits=("test",), image=lambda row: _image_name(row.values))

    def __init__(
        self,
        *,
        grades: Path | None = None,
        judge: Judge | RuleJudge | None = None,
        judge_prompt: Path | None = None,
        judge_runs: int = 1,
        subset: Path | None = None,
    ) -> None:
        if judge_runs < 1:
            raise RequestError(f"{self.name}: --judge-runs {judge_runs}; expected at least 1.")
        self._grades = grades
        self._judge = judge
        self._prompt = JUDGE_PROMPT if judge_prompt is None else read_wording(judge_prompt)
        self._runs = judge_runs
        self._subset = subset

    @classmethod
    def asking_nobody(cls) -> Self:
        """Return the benchmark with answers graded by rule."""
        return cls(judge=RuleJudge())

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read mm-vet.json, the folder that holds it, or `lmms-lab/MMVet`. The prompt is the bare question."""
        self.choose_prompt(prompt)
        shards = self.shards(path)
        if shards:
            file, rows = path, {row.values["question_id"]: _official_row(row) for row in read_parquet(shards)}
        else:
            file = find_file(path, ("mm-vet.json",), "MM-Vet questions")
            rows = read_json(file)
        if not isinstance(rows, dict):
            raise DataError(f"{file}: a JSON {type(rows).__name__}; expected one object keyed by question id.")
        requested = rows.keys() if self._subset is None else _read_subset(self._subset, rows)
        return [_question(f"{file}: question {key!r}", key, row) for key, row in rows.items() if key in requested]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read official results, an object `{"v1_0": "text"}`, or LLaVA's answer lines.

        LLaVA numbers its answers; 0 is v1_0 (its `scripts/convert_mmvet_for_eval.py`).
        """
        rows = read_rows(path)
        if isinstance(rows, dict) and "question_id" not in rows:
            return answers_from(({"id": key, "text": text} for key, text in rows.items()), "id", "text", str(path))
        known = {question.id for question in questions}
        return [
            Answer(f"v1_{a.question_id}", a.text, a.state, a.error) if f"v1_{a.question_id}" in known else a
            for a in super().read_answers(path, questions)
        ]

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Mean grade, in total, per capability and per integration.

        Raises:
            RequestError: there are neither grades nor a judge.
            DataError: grades are not of these questions, or (with a judge) questions have no answer.
            RunError: the judge could not be asked.
        """
        selected = self._selected(variant)
        if self._grades is None:
            _, missing = self.matched(questions, answers, selected)
            grades = self.grade(questions, answers)
        else:
            _, missing = match_answers(questions, answers, what=self.name)
            grades = _read_grades(self._grades, questions, others_allowed=self._subset is not None)
        # A file that was broken off in its second run still holds a whole first one.
        runs = min(len(grade["score"]) for grade in grades.values())
        unanswered = frozenset(missing) if self._grades is None else frozenset[str]()
        items = [
            Item(
                question.id,
                question.cluster,
                float(np.mean(grades[question.id]["score"][:runs])),
                ItemState.MISSING if question.id in unanswered else ItemState.READ,
            )
            for question in questions
        ]
        return self.result(selected, _metrics(questions, grades, runs), items, missing)

    def grade(self, questions: Sequence[Question], answers: Sequence[Answer]) -> Grades:
        """Have the judge grade every answer, in as many runs as asked for; the result can be stored and replayed.

        Raises:
            RequestError, DataError, RunError: as `score`.
        """
        judge = self._judge
        if judge is None:
            raise RequestError(
                f"{self.name}: answers are graded by a judge. Name one (--judge-url, --judge-model), or give the "
                "grades that one gave (--grades FILE). --judge-model rule needs no endpoint, but is not the official "
                "judge."
            )
        texts, missing = match_answers(questions, answers, what=self.name)
        answered = [question for question in questions if question.id in texts]
        if isinstance(judge, RuleJudge):
            by_rule = {q.id: _columns(*judge.grade(q.references[0], texts[q.id])) for q in answered}
            return by_rule | dict.fromkeys(missing, _UNGRADED)
        asked = [(question, run) for run in range(self._runs) for question in answered]
        rated = judge.each(lambda pair: _grade(judge, self._prompt, pair[0], texts[pair[0].id], pair[1]), asked)
        grades: Grades = {question.id: {"model": [], "content": [], "score": []} for question in questions}
        for (question, _), (reply, grade) in zip(asked, rated, strict=True):
            for name, value in (("model", reply.model), ("content", reply.text), ("score", grade)):
                grades[question.id][name].append(value)
        for key in missing:
            grades[key] = {name: values * self._runs for name, values in _UNGRADED.items()}
        return grades

    def judged_by(self, variant: str) -> dict[str, str]:  # noqa: ARG002 - there is but one
        """Return what scores must state about the grader: the judge and its prompt's hash, or the file of grades."""
        if self._grades is not None:
            return {"grades": self._grades.name}
        if isinstance(self._judge, RuleJudge):
            return self._judge.about()
        return {} if self._judge is None else self._judge.about(self._prompt)

    def _selected(self, variant: str | None) -> str:
        """Return the scoring variant, which must match the kind of judge."""
        ruled = isinstance(self._judge, RuleJudge) and self._grades is None
        selected = self.choose_variant(variant or ("rule" if ruled else None))
        if (selected == "rule") != ruled:
            raise RequestError(
                f"{self.name}: variant {selected!r} does not go with this judge. 'rule' goes with --judge-model rule, "
                "'official' with a model or the grades that one gave."
            )
        return selected


def _columns(reply: JudgeReply, grade: float) -> dict[str, list[Any]]:
    return {"model": [reply.model], "content": [reply.text], "score": [grade]}


def _read_subset(path: Path, known: Mapping[str, Any]) -> frozenset[str]:
    ids = read_json(path)
    if not isinstance(ids, list) or not set(ids) <= known.keys():
        raise DataError(f"{path}: expected a JSON list of MM-Vet ids like v1_0.")
    return frozenset(ids)


def _official_row(row: ParquetRow) -> dict[str, Any]:
    """Return a row of the Hugging Face copy in the official format; the copy joins capabilities with commas."""
    require_keys(row.values, ("question", "answer", "capability"), row.where)
    capabilities = [name.strip() for name in row.values["capability"].split(",")]
    return {**row.values, "imagename": _image_name(row.values), "capability": capabilities}


def _image_name(row: Mapping[str, Any]) -> str:
    """Return the image's original name if the copy kept it, since some questions share an image."""
    return (row.get("image") or {}).get("path") or f"{row['question_id']}.png"


def _question(where: str, key: str, row: Any) -> Question:
    require_keys(row, ("imagename", "question", "answer", "capability"), where)
    return Question(
        id=key,
        prompt=row["question"],
        image=row["imagename"],
        cluster=row["imagename"],
        references=(row["answer"],),
        details={"capabilities": frozenset(row["capability"])},
    )


def _read_grades(path: Path, questions: Sequence[Question], *, others_allowed: bool) -> Grades:
    rows = read_json(path)
    known = {question.id for question in questions}
    if not isinstance(rows, dict):
        raise DataError(f"{path}: a JSON {type(rows).__name__}; expected MM-Vet's grades, an object keyed by id.")
    unknown = [key for key in rows if key not in known]
    if unknown and not others_allowed:
        raise DataError(
            f"{path}: grade of {unknown[0]!r}, which is no question. Do the grades belong to these questions?"
        )
    ungraded = [question.id for question in questions if question.id not in rows]
    if ungraded:
        raise DataError(f"{path}: {len(ungraded)} questions have no grade (first: {ungraded[0]!r}). Grade them first.")
    for key in known:
        require_keys(rows[key], ("score",), f"{path}: grade of {key!r}")
        scores = rows[key]["score"]
        if not isinstance(scores, list) or not scores or not all(_is_grade(score) for score in scores):
            raise DataError(f"{path}: grade of {key!r}: score {scores!r}; expected a list of numbers in [0, 1].")
    return {key: row for key, row in rows.items() if key in known}


def _is_grade(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _grade(judge: Judge, prompt: str, question: Question, text: str, run: int) -> tuple[JudgeReply, float]:
    """Return the last reply and its grade, which is 0 if no reply was a number in [0, 1]."""
    truth = question.references[0].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    row = " | ".join((question.prompt, truth, text, ""))
    asked = prompt.rstrip("\n") + "\n\n" + row
    request = JudgeRequest(asked, max_tokens=3, run=run)
    try:
        reply = judge.ask(request)
        for attempt in range(_RE_ASKS):
            grade = _number(reply.text)
            if grade is not None:
                return reply, grade
            heat = attempt * _MORE_HEAT
            reply = judge.ask(JudgeRequest(asked + _REMINDER, None, heat, 3, run, attempt + 1))
    except RunError as error:
        raise RunError(f"mmvet: question {question.id!r} could not be graded. {error}") from None
    return reply, _number(reply.text) or 0.0


def _number(reply: str) -> float | None:
    try:
        number = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None


def _metrics(questions: Sequence[Question], grades: Grades, runs: int) -> dict[str, float]:
    needed: dict[str, frozenset[str]] = {question.id: question.details["capabilities"] for question in questions}
    counts = Counter(name for names in needed.values() for name in names)
    order = sorted(counts, key=lambda name: (-counts[name], name))
    groups: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for key, grade in grades.items():  # in the file's order, as the tool adds them up
        names = [name for name in order if name in needed[key]]
        for group in ("total", *(f"capability/{name}" for name in names), "integration/" + "+".join(names)):
            groups[group].append(np.array(grade["score"][:runs], dtype=float))
    percents = {group: np.asarray(sum(rows)) / len(rows) * 100 for group, rows in groups.items()}
    metrics = {"total": _rounded(percents["total"].mean()), "std": _rounded(percents["total"].std())}
    for kind in ("capability/", "integration/"):
        members = sorted((group for group in groups if group.startswith(kind)), key=lambda group: -len(groups[group]))
        metrics |= {group: _rounded(percents[group].mean()) for group in members}
    if runs > 1:
        metrics |= {f"run/{number}": _rounded(total) for number, total in enumerate(percents["total"], start=1)}
    return metrics


def _rounded(value: Any) -> float:
    """Round to one decimal as numpy does and the tool prints: 0.15 gives 0.2, though in binary it is nearer to 0.1."""
    return float(np.round(value, 1))
