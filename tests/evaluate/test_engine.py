"""The answering engine: the same answers as one question at a time, whatever the batching."""

import json

import pytest

from olivine.errors import DataError, RequestError, RunError
from olivine.evaluate.answers import match_answers, read_answers
from olivine.evaluate.benchmarks import get
from olivine.evaluate.engine import AnsweringEngine
from olivine.evaluate.run import Evaluation, controlled, evaluate
from olivine.files import read_json, read_json_lines
from olivine.model import checkpoint
from olivine.model.generate import answer_one
from olivine.records import Answer, AnswerState, Question
from olivine.testing import tiny_vlm, write_pictures

WORDS = ("what", "color", "is it", "a red circle", "or", "no", "é😀", "shape")


def make_questions(count, pictures):
    questions = []
    for number in range(count):
        text = " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(1 + number % 6)) + f" {number}?"
        image = None if number % 11 == 10 else f"{number * 5 % pictures}.png"
        questions.append(Question(str(number), text, image, image or str(number)))
    return questions


@pytest.fixture(scope="module", params=[("clip", "gemma"), ("dinov2", "llama")], ids="-".join)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_pictures(folder / "images", 9)
    vlm = tiny_vlm(tower=request.param[0], language=request.param[1], folder=folder / "tokenizer")
    questions = make_questions(40, 9)
    expected = {
        q.id: answer_one(vlm, q.prompt, folder / "images" / q.image if q.image else None, max_new_tokens=10)
        for q in questions
    }
    return vlm, folder / "images", questions, expected


@pytest.mark.parametrize("budget", [1, 100, 333, 100_000])
def test_same_answers_as_one_at_a_time(model, budget):
    vlm, images, questions, expected = model
    engine = AnsweringEngine(vlm, max_new_tokens=10, token_budget=budget)
    assert {a.question_id: a.text for a in engine.answer(questions, images)} == expected
    assert len(set(expected.values())) > 30, "the model must say different things for this to mean anything"


def test_order_does_not_matter(model):
    vlm, images, questions, expected = model
    shuffled = sorted(questions, key=lambda q: hash((q.id, "x")))
    engine = AnsweringEngine(vlm, max_new_tokens=10, token_budget=400)
    assert {a.question_id: a.text for a in engine.answer(shuffled, images)} == expected


def test_blind_is_asking_without_the_picture(model):
    vlm, _, questions, expected = model
    asked = controlled(questions, "blind")
    blind = {a.question_id: a.text for a in AnsweringEngine(vlm, max_new_tokens=10).answer(asked, None)}
    assert blind == {q.id: answer_one(vlm, q.prompt, None, max_new_tokens=10) for q in questions}
    assert blind != expected


def test_shuffled_shows_every_question_another_picture(model):
    _, _, questions, _ = model
    asked = controlled(questions, "shuffled")
    pairs = {(q.image, a.image) for q, a in zip(questions, asked, strict=True)}
    assert (None, None) in pairs
    assert all(one != other for one, other in pairs if one is not None)
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
    with pytest.raises(RequestError, match="single picture"):
        controlled(questions[:1], "shuffled")


def test_a_broken_picture_fails_its_questions_and_no_others(model, tmp_path):
    vlm, _, questions, expected = model
    names = write_pictures(tmp_path, 9)
    (tmp_path / names[0]).write_bytes(b"broken")
    answers = list(AnsweringEngine(vlm, max_new_tokens=10).answer(questions, tmp_path))
    failed = {a.question_id for a in answers if a.state is AnswerState.FAILED}
    assert failed == {q.id for q in questions if q.image == names[0]}
    assert all(a.text == expected[a.question_id] for a in answers if a.question_id not in failed)


@pytest.fixture
def saved(model, tmp_path):
    vlm, images, questions, expected = model
    checkpoint.save(vlm, tmp_path / "checkpoint")
    rows = [
        {"question_id": q.id, "image": q.image, "text": q.prompt, "answer": expected[q.id], "category": "all"}
        for q in questions[:20]
    ]
    rows[3]["answer"] = "something else entirely"
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = get("exact-match")
    benchmark.max_new_tokens = 10
    return vlm, tmp_path / "checkpoint", Evaluation(benchmark, data, images, tmp_path / "out", "tiny")


def test_files_and_score(saved):
    vlm, weights, wanted = saved
    calls = []
    score = evaluate(vlm, weights, wanted, lambda done, total: calls.append((done, total)))
    assert score.metrics == {"accuracy": 95.0, "accuracy/all": 95.0}
    items = read_json_lines(wanted.folder / "items.jsonl")
    assert [i["question_id"] for i in items] == [str(n) for n in range(20)]
    assert [i["correct"] for i in items] == [float(n != 3) for n in range(20)]
    assert items[0].keys() == {"question_id", "image_id", "unit", "correct"}
    assert read_json(wanted.folder / "scores.json")["metrics"]["accuracy"] == 95.0
    answers = read_json_lines(wanted.folder / "answers.jsonl")
    assert [a["question_id"] for a in answers] == [str(n) for n in range(20)]
    assert {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"} <= answers[0].keys()
    assert calls[0] == (0, 20)
    assert calls[-1] == (20, 20)


def test_a_killed_evaluation_goes_on_and_asks_nothing_twice(saved, monkeypatch):
    vlm, weights, wanted = saved

    class KilledError(Exception):
        pass

    def stop(done, total):
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate(vlm, weights, wanted, stop)
    with (wanted.folder / "answers.jsonl").open("a") as file:
        file.write('{"question_id": "9", "te')
    asked = []
    original = AnsweringEngine.answer

    def answer(self, questions, images, **more):
        asked.extend(q.id for q in questions)
        return original(self, questions, images, **more)

    monkeypatch.setattr(AnsweringEngine, "answer", answer)
    assert evaluate(vlm, weights, wanted, lambda *_: None).metrics["accuracy"] == 95.0
    assert len(asked) == 20 - 7


def test_answers_of_another_model_are_not_gone_on_with(saved, model, monkeypatch):
    vlm, weights, wanted = saved
    evaluate(vlm, weights, wanted, lambda *_: None)
    other = tiny_vlm(seed=5) if vlm.template == "gemma" else tiny_vlm(seed=6)
    checkpoint.save(other, weights)
    calls = []
    evaluate(other, weights, wanted, lambda done, total: calls.append(done))
    assert calls[0] == 0


def test_failed_answers_are_named_and_never_scored(saved, tmp_path):
    vlm, weights, wanted = saved
    write_pictures(tmp_path / "pictures", 9)
    (tmp_path / "pictures" / "5.png").unlink()
    broken = Evaluation(wanted.benchmark, wanted.data, tmp_path / "pictures", wanted.folder, "tiny")
    with pytest.raises(RunError, match=r"could not be answered.*5\.png"):
        evaluate(vlm, weights, broken, lambda *_: None)
    assert not (wanted.folder / "scores.json").exists()
    assert evaluate(vlm, weights, wanted, lambda *_: None).metrics["accuracy"] == 95.0


QUESTIONS = [Question("1", "a", None, "1", ("yes",)), Question("2", "b", None, "2", ("Red.", "crimson"))]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([Answer("3", "yes")], "unknown questions"),
        ([Answer("1", "yes"), Answer("1", "no")], "more than once"),
        ([Answer("1", "", AnswerState.FAILED, "out of memory")], "out of memory"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers, words):
    with pytest.raises(DataError, match=words):
        match_answers(QUESTIONS, answers, what="x")


def test_exact_match_by_hand():
    score = get("exact-match").score(QUESTIONS, [Answer("2", " RED ")])
    assert score.metrics == {"accuracy": 50.0}
    assert score.missing == ("1",)


@pytest.mark.parametrize("line", ['{"question_id": 1}', '{"text": "a"}', "[1]", '{"question_id": 1, "te'])
def test_answer_files_cut_or_of_another_kind(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 1, "text": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl"):
        read_answers(path)
