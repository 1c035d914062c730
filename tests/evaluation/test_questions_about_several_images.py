"""Questions about several images: the engine answers as `generate` does, whatever the batching and the marks."""

import pytest
import torch

from olivine.errors import DataError
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.run import controlled, shares
from olivine.model.generate import answer_one
from olivine.records import AnswerState, Question
from olivine.testing import tiny_vlm, write_images

NEW_TOKENS = 5
PAIRS = [("0.png", "1.png"), ("1.png", "0.png"), ("2.png", "2.png"), ("3.png", "0.png", "4.png")]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def questions():
    """Alternate images in front, images within the text, one image and none, so that batches are mixed."""
    made = []
    for number in range(48):
        pair = PAIRS[number % 7 % len(PAIRS)]
        kind = number % 5
        name = str(number)
        if kind == 0:
            made.append(Question(name, f"what color {number}?", f"{number % 6}.png", name))
        elif kind == 1:
            made.append(Question(name, f"shape {number}?", None, name))
        elif kind == 2:
            marked = f" {number} ".join(["<image>"] * len(pair))
            made.append(Question(name, f"{number} is {marked} red?", None, name, images=pair))
        else:
            marks = "<image>\n" * len(pair) if kind == 3 else ""
            made.append(
                Question(name, f"{marks}which is it, {'a red ' * (number % 4)}{number}?", None, name, images=pair)
            )
    return made


@pytest.fixture(scope="module", params=["gemma", "llama"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_images(folder / "images", 6)
    vlm = tiny_vlm(language=request.param, folder=folder / "tokenizer")
    asked = questions()
    expected = {
        q.id: answer_one(vlm, q.prompt, [folder / "images" / name for name in q.all_images], max_new_tokens=NEW_TOKENS)
        for q in asked
    }
    assert len(set(expected.values())) > len(asked) / 4
    return vlm, folder / "images", asked, expected


@pytest.mark.parametrize("budget", [1, 150, 500, None])
def test_the_engine_answers_as_generate_does(model, budget):
    vlm, images, asked, expected = model
    engine = AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS, token_budget=budget)
    answers = list(engine.answer(asked, images))
    assert {a.question_id: a.text for a in answers} == expected
    assert len(answers) == len(asked)


def test_a_shared_prefix_is_run_once_per_images(model, monkeypatch):
    vlm, images, _, _ = model
    prefixes, encoded = [], []
    original, tower = AnsweringEngine._prefill_prefix, type(vlm).patch_features

    def prefill(self, prefix, features, count):
        prefixes.append((prefix.count(vlm.model.config.image_token_id), count))
        return original(self, prefix, features, count)

    monkeypatch.setattr(AnsweringEngine, "_prefill_prefix", prefill)
    monkeypatch.setattr(type(vlm), "patch_features", lambda self, p: encoded.append(len(p)) or tower(self, p))
    asked = [Question(str(n), f"which {n}?", None, "c", images=PAIRS[n % 2]) for n in range(8)]
    list(AnsweringEngine(vlm, max_new_tokens=2).answer(asked, images))
    assert prefixes == [(2 * vlm.image_tokens, 2)], "two orders of the images, four questions each, in one pass"
    assert encoded == [2], "each image once"


def test_an_unreadable_image_or_wrong_marks_fail_only_their_questions(model):
    vlm, images, _, _ = model
    asked = [
        Question("good", "which?", None, "c", images=("0.png", "1.png")),
        Question("missing", "which?", None, "c", images=("0.png", "nowhere.png")),
        Question("marks", "one <image>?", None, "c", images=("0.png", "1.png")),
    ]
    answers = {a.question_id: a for a in AnsweringEngine(vlm, max_new_tokens=2).answer(asked, images)}
    assert {name: answer.state is AnswerState.FAILED for name, answer in answers.items()} == {
        "good": False,
        "missing": True,
        "marks": True,
    }
    assert "nowhere.png" in answers["missing"].error
    assert "1 <image> marks for 2 images" in answers["marks"].error


def test_controls_remove_or_replace_every_image():
    asked = [Question("a", "<image> or <image>?", None, "c", images=("0", "1")), Question("b", "what?", "2", "c")]
    blind, shuffled = controlled(asked, "blind"), controlled(asked, "shuffled")
    assert [(q.prompt, q.all_images) for q in blind] == [("or ?", ()), ("what?", ())]
    assert [q.all_images for q in shuffled] == [("1", "2"), ("0",)]


def test_questions_about_the_same_images_go_to_one_process():
    asked = [Question(str(n), "which?", None, "c", images=PAIRS[n % 2]) for n in range(8)]
    assert [{q.images for q in part} for part in shares(asked, 2)] == [{PAIRS[0]}, {PAIRS[1]}]


def test_answer_one_refuses_more_or_fewer_marks_than_images(model):
    vlm, images, _, _ = model
    with pytest.raises(DataError, match="1 <image> marks for 2"):
        answer_one(vlm, "one <image>?", [images / "0.png", images / "1.png"])
