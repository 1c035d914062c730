"""The answering engine: the same answers as one question at a time, whatever the batching."""

import random

import pytest
import torch

from olivine.errors import DataError, RequestError
from olivine.evaluation.answers import match_answers, read_answers
from olivine.evaluation.benchmarks import get
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.run import controlled
from olivine.model.generate import answer_one
from olivine.records import Answer, AnswerState, Question
from olivine.testing import tiny_vlm, write_images

WORDS = ("what", "color", "is it", "a red circle", "or", "no", "é😀", "shape")


def make_questions(count, image_folder):
    questions = []
    for number in range(count):
        text = " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(1 + number % 6)) + f" {number}?"
        image = None if number % 11 == 10 else f"{number * 7 % image_folder}.png"
        questions.append(Question(str(number), text, image, image or str(number)))
    return questions


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Such a small model gains nothing from a second thread, and on a busy machine waits for it at every operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


COUNT, IMAGES, NEW_TOKENS = 500, 60, 5


@pytest.fixture(scope="module", params=[("clip", "gemma"), ("dinov2", "llama")], ids="-".join)
def model(request, tmp_path_factory):
    """A model, its images, 500 questions, and what `generate` answers to each alone."""
    folder = tmp_path_factory.mktemp("model")
    write_images(folder / "images", IMAGES)
    vlm = tiny_vlm(tower=request.param[0], language=request.param[1], folder=folder / "tokenizer")
    questions = make_questions(COUNT, IMAGES)
    expected = {
        q.id: answer_one(vlm, q.prompt, folder / "images" / q.image if q.image else None, max_new_tokens=NEW_TOKENS)
        for q in questions
    }
    assert len(set(expected.values())) > COUNT / 5, (
        "equal answers would prove nothing if the model always answered the same"
    )
    return vlm, folder / "images", questions, expected


def budget_of(vlm, questions, together):
    """Return the token budget under which a chunk holds at least this many of these questions (for 1, exactly one)."""
    longest = max(sum(map(len, vlm.encoder().prompt(q.prompt, q.image is not None))) for q in questions)
    return 1 if together == 1 else together * longest


@pytest.mark.parametrize("together", [1, 2, 7, 32])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in-order", "shuffled"])
def test_same_answers_as_one_at_a_time_whatever_the_batch_and_order(model, monkeypatch, together, shuffled):
    vlm, images, questions, expected = model
    if shuffled:
        if together == 1:
            pytest.skip("in chunks of one the order of questions is the order of chunks")
        questions = random.Random(together).sample(questions, len(questions))
    sizes = []
    original = AnsweringEngine._decode

    def decode(self, prompts):
        sizes.append(len(prompts.last))
        return original(self, prompts)

    monkeypatch.setattr(AnsweringEngine, "_decode", decode)
    engine = AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS, token_budget=budget_of(vlm, questions, together))
    assert {a.question_id: a.text for a in engine.answer(questions, images)} == expected
    assert sum(sizes) == COUNT
    assert max(sizes) >= together
    assert together > 1 or max(sizes) == 1


def test_chunk_size_changes_no_answer(model, monkeypatch):
    vlm, images, questions, expected = model
    questions = questions[:120]
    images_at_once = []
    original = type(vlm).patch_features
    monkeypatch.setattr(
        type(vlm), "patch_features", lambda self, pixels: images_at_once.append(len(pixels)) or original(self, pixels)
    )
    for bound in (1, 200):
        engine = AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS, prefill_budget=bound)
        answers = {a.question_id: a.text for a in engine.answer(questions, images)}
        assert answers == {q.id: expected[q.id] for q in questions}
        assert (max(images_at_once) == 1) is (bound == 1)


def test_questions_that_share_no_prefix_are_run_in_one_pass(model, monkeypatch):
    vlm, images, questions, expected = model
    monkeypatch.setattr(AnsweringEngine, "_prefill_shared", lambda *_: pytest.fail("two passes"))
    alone = list({q.image: q for q in questions if q.image}.values())
    assert len(alone) > 30
    answers = AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS).answer(alone, images)
    assert {a.question_id: a.text for a in answers} == {q.id: expected[q.id] for q in alone}


def test_blind_asks_without_the_image(model):
    vlm, _, questions, expected = model
    questions = questions[:30]
    asked = controlled(questions, "blind")
    blind = {a.question_id: a.text for a in AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS).answer(asked, None)}
    assert blind == {q.id: answer_one(vlm, q.prompt, None, max_new_tokens=NEW_TOKENS) for q in questions}
    assert blind != {q.id: expected[q.id] for q in questions}


def test_shuffled_gives_every_question_another_image(model):
    _, _, questions, _ = model
    asked = controlled(questions, "shuffled")
    pairs = {(q.image, a.image) for q, a in zip(questions, asked, strict=True)}
    assert (None, None) in pairs
    assert all(one != other for one, other in pairs if one is not None)
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
    with pytest.raises(RequestError, match="single image"):
        controlled(questions[:1], "shuffled")


def test_a_broken_image_fails_its_questions_and_no_others(model, tmp_path):
    vlm, _, questions, expected = model
    names = write_images(tmp_path, IMAGES)
    (tmp_path / names[0]).write_bytes(b"broken")
    answers = list(AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS).answer(questions, tmp_path))
    failed = {a.question_id for a in answers if a.state is AnswerState.FAILED}
    assert failed == {q.id for q in questions if q.image == names[0]}
    assert all(a.text == expected[a.question_id] for a in answers if a.question_id not in failed)


def test_an_error_in_a_chunk_fails_that_chunk(model, monkeypatch):
    vlm, images, questions, expected = model
    sizes = []
    original = AnsweringEngine._decode

    def decode(self, prompts):
        sizes.append(prompts)
        if len(sizes) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTry to allocate less.")
        return original(self, prompts)

    monkeypatch.setattr(AnsweringEngine, "_decode", decode)
    answers = list(
        AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS, token_budget=budget_of(vlm, questions, 7)).answer(
            questions, images
        )
    )
    failed = [a for a in answers if a.state is AnswerState.FAILED]
    assert 1 < len(failed) < 20
    assert {a.error for a in failed} == {"OutOfMemoryError: CUDA out of memory."}
    assert {a.question_id: a.text for a in answers if a not in failed} == {
        key: text for key, text in expected.items() if key not in {a.question_id for a in failed}
    }


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
def test_truncated_or_foreign_answer_files(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 1, "text": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"answers\.jsonl"):
        read_answers(path)
