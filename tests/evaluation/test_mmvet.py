"""MM-Vet: the judge's protocol reply by reply, and the official sums over stored grades."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import corrects, llava_lines

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.mmvet import JUDGE_PROMPT, MMVet
from olivine.evaluation.judge import Judge, JudgeReply, JudgeRequest
from olivine.files import write_json
from olivine.records import Answer, Question


class Scripted(Judge):
    """A judge that replies by script, then 1.0, and records its requests."""

    def __init__(self, *script: str) -> None:
        super().__init__("http://127.0.0.1", "gpt-4-0613", Path("unused"), concurrency=1)
        self.script = list(script)
        self.asked: list[JudgeRequest] = []

    def ask(self, request: JudgeRequest) -> JudgeReply:
        self.asked.append(request)
        return JudgeReply(self.script.pop(0) if self.script else "1.0", "gpt-4-0613")


def row(
    capability: Sequence[str] = ("ocr", "math"), image: str = "v1_0.png", answer: str = "-1<AND>-5<OR>both"
) -> dict[str, Any]:
    return {
        "imagename": image,
        "question": "What is x?",
        "answer": answer,
        "capability": list(capability),
        "imagesource": "web",
    }


def write(folder: Path, **rows: Mapping[str, Any]) -> Path:
    write_json(folder / "mm-vet.json", rows)
    return folder


def graded(folder: Path, judge: Judge, texts: Sequence[str] = ("x = 1",), **more: Any) -> Any:
    benchmark = MMVet(judge=judge, **more)
    questions = benchmark.read(write(folder, **{f"v1_{n}": row(image=f"{n}.png") for n in range(len(texts))}))
    return benchmark.score(questions, [Answer(q.id, text) for q, text in zip(questions, texts, strict=True)])


def replayed(folder: Path, grades: Mapping[str, Any], questions: Sequence[Question], **more: Any) -> Any:
    write_json(folder / "grades.json", grades)
    answers = [Answer(question.id, "x") for question in questions]
    return MMVet(grades=folder / "grades.json", **more).score(questions, answers)


def grade(*scores: float) -> dict[str, list[Any]]:
    return {"model": ["gpt-4-0613"] * len(scores), "content": [str(s) for s in scores], "score": list(scores)}


def test_the_prompt_is_the_bare_question(tmp_path: Path) -> None:
    (question,) = MMVet().read(write(tmp_path, v1_0=row()))
    assert question.prompt == "What is x?"
    assert question.image == question.cluster == "v1_0.png"
    assert MMVet.max_new_tokens == 1024


def test_the_judge_is_asked_by_the_official_protocol(tmp_path: Path) -> None:
    judge = Scripted("0.5")
    score = graded(tmp_path, judge, ["x = -1"])
    (request,) = judge.asked
    assert request.prompt.endswith("\n\nWhat is x? | -1 <AND> -5 <OR> both | x = -1 | ")
    assert request.prompt.startswith(JUDGE_PROMPT.rstrip("\n"))
    assert (request.system, request.temperature, request.max_tokens) == (None, 0.0, 3)
    assert score.metrics["total"] == 50.0
    assert corrects(score) == [0.5]


def test_the_prompts_example_rows_are_a_complete_table() -> None:
    header, rule, *rows = JUDGE_PROMPT.split("\n\n")[1].strip().split("\n")
    assert header.count(" | ") == rule.count(" | ") == 3
    assert len(rows) == 7
    assert all(line.count(" | ") == 3 and 0 <= float(line.rsplit(" | ", 1)[1]) <= 1 for line in rows)


@pytest.mark.parametrize(
    ("replies", "total", "heats"),
    [
        (["0.4"], 40.0, [0.0]),
        (["0.4 because"], 40.0, [0.0]),  # the first word counts
        (["1"], 100.0, [0.0]),
        (["0.4\n"], 40.0, [0.0]),
        (["Correct", "0.4"], 40.0, [0.0, 0.0]),  # the first retry has the same temperature
        (["1.1", "-0.1", "nan", "", "0.4"], 40.0, [0.0, 0.0, 0.5, 1.0, 1.5]),
        (["no"] * 5, 0.0, [0.0, 0.0, 0.5, 1.0, 1.5]),  # the official tool would not read a fifth retry
    ],
)
def test_replies_without_a_grade_are_requested_again(
    tmp_path: Path, replies: list[str], total: float, heats: list[float]
) -> None:
    judge = Scripted(*replies)
    assert graded(tmp_path, judge).metrics["total"] == total
    assert [request.temperature for request in judge.asked] == heats
    assert [request.attempt for request in judge.asked] == list(range(len(heats)))
    reminder = "\nPredict the correctness of the answer (digit): "
    assert [request.prompt.endswith(f"| {reminder}") for request in judge.asked] == [False] + [True] * (len(heats) - 1)


def test_runs_are_graded_separately_and_averaged(tmp_path: Path) -> None:
    judge = Scripted("0.1", "0.2", "0.5", "0.8")
    score = graded(tmp_path, judge, ["a", "b"], judge_runs=2)
    assert [request.run for request in judge.asked] == [0, 0, 1, 1]
    assert score.metrics["run/1"] == 15.0
    assert score.metrics["run/2"] == 65.0
    assert score.metrics["total"] == 40.0
    assert score.metrics["std"] == 25.0  # of the population
    assert corrects(score) == [pytest.approx(0.3), pytest.approx(0.5)]


def test_grades_can_be_stored_and_replayed(tmp_path: Path) -> None:
    judged = MMVet(judge=Scripted("0.1", "0.9"))
    questions = judged.read(write(tmp_path, v1_0=row(), v1_1=row(["rec"])))
    answers = [Answer(question.id, "x") for question in questions]
    grades = judged.grade(questions, answers)
    assert grades["v1_1"] == {"model": ["gpt-4-0613"], "content": ["0.9"], "score": [0.9]}
    assert replayed(tmp_path, grades, questions).metrics["total"] == 50.0


def test_capabilities_and_integrations(tmp_path: Path) -> None:
    questions = MMVet().read(
        write(
            tmp_path,
            v1_0=row(["ocr", "math"]),
            v1_1=row(["math", "ocr"]),  # the same integration, in another order
            v1_2=row(["rec"]),
            v1_3=row(["rec", "ocr"]),
        )
    )
    grades = {"v1_0": grade(1.0), "v1_1": grade(0.5), "v1_2": grade(0.0), "v1_3": grade(0.3)}
    assert replayed(tmp_path, grades, questions).metrics == {
        "total": 45.0,
        "std": 0.0,
        "capability/ocr": 60.0,
        "capability/math": 75.0,
        "capability/rec": 15.0,
        "integration/ocr+math": 75.0,
        "integration/rec": 0.0,
        "integration/ocr+rec": 30.0,
    }


def test_figures_are_rounded_as_numpy_does(tmp_path: Path) -> None:
    questions = MMVet().read(write(tmp_path, **{f"v1_{n}": row() for n in range(200)}))
    # 0.3 of 200 is 0.15 percent, a little below it in binary: Python makes 0.1 of it, the official tool prints 0.2.
    grades = {question.id: grade(0.0) for question in questions} | {"v1_0": grade(0.3)}
    assert replayed(tmp_path, grades, questions).metrics["total"] == 0.2


def test_an_unfinished_second_run_does_not_count(tmp_path: Path) -> None:
    questions = MMVet().read(write(tmp_path, v1_0=row(), v1_1=row()))
    metrics = replayed(tmp_path, {"v1_0": grade(1.0, 0.0), "v1_1": grade(0.0)}, questions).metrics
    assert metrics["total"] == 50.0
    assert "run/1" not in metrics


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        ({"v1_0": grade(1.0)}, "1 questions have no grade.*'v1_1'"),
        ({"v1_0": grade(1.0), "v1_1": grade(1.0), "v1_9": grade(1.0)}, "'v1_9', which is no question"),
        ({"v1_0": grade(1.0), "v1_1": grade(1.5)}, "expected a list of numbers"),
        ({"v1_0": grade(1.0), "v1_1": grade()}, "expected a list of numbers"),
        ({"v1_0": grade(1.0), "v1_1": {}}, "lacks score"),
        ([], "expected MM-Vet's grades"),
    ],
)
def test_grades_of_something_else_are_refused(tmp_path: Path, grades: Any, message: str) -> None:
    questions = MMVet().read(write(tmp_path, v1_0=row(), v1_1=row()))
    with pytest.raises(DataError, match=message):
        replayed(tmp_path, grades, questions)


def test_a_subset(tmp_path: Path) -> None:
    write_json(tmp_path / "bard_set.json", ["v1_1"])
    subset: dict[str, Any] = {"subset": tmp_path / "bard_set.json"}
    questions = MMVet(**subset).read(write(tmp_path, v1_0=row(), v1_1=row()))
    assert [question.id for question in questions] == ["v1_1"]
    grades = {"v1_0": grade(1.0), "v1_1": grade(0.2)}
    assert replayed(tmp_path, grades, questions, **subset).metrics["total"] == 20.0
    write_json(tmp_path / "bard_set.json", ["v1_7"])
    with pytest.raises(DataError, match="MM-Vet ids"):
        MMVet(**subset).read(tmp_path)


def test_both_answer_formats(tmp_path: Path) -> None:
    questions = MMVet().read(write(tmp_path, v1_0=row(), v1_1=row()))
    official = tmp_path / "results.json"
    write_json(official, {"v1_0": "x = 1", "v1_1": ""})
    lines = llava_lines(tmp_path / "lines.jsonl", {"0": "x = 1", "v1_1": ""})
    for path in (official, lines):
        answers = MMVet().read_answers(path, questions)
        assert [(answer.question_id, answer.text) for answer in answers] == [("v1_0", "x = 1"), ("v1_1", "")]
    write_json(official, {"v1_0": 3})
    with pytest.raises(DataError, match="not text"):
        MMVet().read_answers(official, questions)


def test_a_question_without_an_answer_is_not_graded(tmp_path: Path) -> None:
    judge = Scripted()
    benchmark = MMVet(judge=judge)
    questions = benchmark.read(write(tmp_path, v1_0=row(), v1_1=row()))
    with pytest.raises(DataError, match="1 of 2 questions have no answer"):
        benchmark.score(questions, [Answer("v1_0", "x")])
    assert judge.asked == []


def test_neither_judge_nor_grades(tmp_path: Path) -> None:
    questions = MMVet().read(write(tmp_path, v1_0=row()))
    with pytest.raises(RequestError, match=r"--judge-url.*--grades"):
        MMVet().score(questions, [Answer("v1_0", "x")])
    with pytest.raises(RequestError, match="at least 1"):
        MMVet(judge_runs=0)


def test_another_wording(tmp_path: Path) -> None:
    wording = tmp_path / "prompt.txt"
    wording.write_text("Grade this.\n\nQuestion | Truth | Said | Grade\n")
    judge = Scripted()
    graded(tmp_path, judge, judge_prompt=wording)
    assert judge.asked[0].prompt == (
        "Grade this.\n\nQuestion | Truth | Said | Grade\n\nWhat is x? | -1 <AND> -5 <OR> both | x = 1 | "
    )
    own, other = (
        MMVet(judge=judge).judged_by("official"),
        MMVet(judge=judge, judge_prompt=wording).judged_by("official"),
    )
    assert own["judge"] == other["judge"] == "gpt-4-0613"
    assert own["judge_prompt_sha256"] != other["judge_prompt_sha256"]
    wording.write_text(" \n")
    with pytest.raises(DataError, match="prompt is empty"):
        MMVet(judge_prompt=wording)
    with pytest.raises(RequestError, match="cannot be read"):
        MMVet(judge_prompt=tmp_path / "none.txt")


def test_stored_grades_name_their_judge() -> None:
    assert MMVet(grades=Path("runs/llava_gpt-4-0613-grade-5runs.json")).judged_by("official") == {
        "grades": "llava_gpt-4-0613-grade-5runs.json"
    }
    assert MMVet().judged_by("official") == {}
