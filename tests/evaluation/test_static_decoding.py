"""The GPU's decoding, run on the CPU: the same answers, no wait per token, images read ahead."""

import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from olivine.errors import DataError
from olivine.evaluation import budgets as budgets_module
from olivine.evaluation.budgets import budgets, bytes_per_token
from olivine.evaluation.decoding import ShrinkingDecoder
from olivine.evaluation.engine import AnsweringEngine, decoder_for
from olivine.evaluation.opened_images import reading
from olivine.evaluation.static_decoding import CHECK_EVERY, WARM_UP, StaticDecoder
from olivine.model.generate import answer_one
from olivine.records import AnswerState, Question
from olivine.testing import tiny_vlm, write_images

WORDS = ("what", "color", "is it", "a red circle", "or", "no", "é😀", "shape")
COUNT, IMAGES, NEW_TOKENS = 80, 12, 11


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[("clip", "gemma"), ("dinov2", "llama")], ids="-".join)
def model(request, tmp_path_factory):
    """A model, its images, questions with and without an image, and what `generate` answers to each alone."""
    folder = tmp_path_factory.mktemp("model")
    write_images(folder / "images", IMAGES)
    vlm = tiny_vlm(tower=request.param[0], language=request.param[1], folder=folder / "tokenizer")
    questions = []
    for number in range(COUNT):
        text = " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(1 + number % 6)) + f" {number}?"
        image = None if number % 11 == 10 else f"{number * 7 % IMAGES}.png"
        questions.append(Question(str(number), text, image, image or str(number)))
    expected = {
        q.id: answer_one(vlm, q.prompt, folder / "images" / q.image if q.image else None, max_new_tokens=NEW_TOKENS)
        for q in questions
    }
    assert len(set(expected.values())) > COUNT / 5
    return vlm, folder / "images", questions, expected


class StandInGraph:
    """Stands in for a CUDA graph: runs what a capture runs, then the step at each replay; counts both."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, step):
        self.captures += 1
        for _ in range(WARM_UP):
            step()

        def replay():
            self.replays += 1
            step()

        return replay


def static(vlm, capture=None, max_new_tokens=NEW_TOKENS):
    return StaticDecoder(vlm, vlm.encoder().stop_ids, max_new_tokens, capture)


@pytest.mark.parametrize("budget", [1, 150, 400, 100_000])
@pytest.mark.parametrize("graphs", [False, True], ids=["operations", "graphs"])
def test_the_answers_are_those_of_generate(model, budget, graphs):
    vlm, images, questions, expected = model
    capture = StandInGraph() if graphs else None
    engine = AnsweringEngine(
        vlm, max_new_tokens=NEW_TOKENS, token_budget=budget, prefill_budget=budget, decoder=static(vlm, capture)
    )
    assert {a.question_id: a.text for a in engine.answer(questions, images)} == expected
    assert capture is None or budget > 400 or capture.replays > capture.captures > 0


def test_the_models_own_attention_is_restored_afterwards(model):
    vlm, images, questions, _ = model
    before = vlm.language.config._attn_implementation
    list(AnsweringEngine(vlm, max_new_tokens=3, decoder=static(vlm, None, 3)).answer(questions[:2], images))
    assert vlm.language.config._attn_implementation == before


class Reading(TorchFunctionMode):
    """Counts calls that return a tensor's values to Python, for which the host waits for the GPU."""

    NAMES = frozenset({"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"})

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in self.NAMES:
            self.waits[function.__name__] += 1
        return function(*args, **(kwargs or {}))


class Synchronising(TorchDispatchMode):
    """Counts operations whose result's size depends on values."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith(("aten.nonzero", "aten.masked_select", "aten._unique")):
            self.waits[name] += 1
        if name.startswith(("aten.index.", "aten.index_put", "aten._index_put_impl")) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            self.waits[name] += 1
        return function(*args, **(kwargs or {}))


def waits_of(vlm, decoder, questions, images):
    """Return the synchronising operations while answers are decoded, and how many tokens the model generated."""
    waits, tokens = Counter(), []

    def decode(prompts):
        with Reading(waits), Synchronising(waits):
            found = decoder(prompts)
        tokens.append(max(map(len, found)))
        return found

    engine = AnsweringEngine(vlm, decoder=decode, token_budget=100_000, prefill_budget=100_000)
    list(engine.answer(questions, images))
    return sum(waits.values()), sum(tokens)


def test_the_host_waits_for_no_token(model):
    vlm, images, questions, _ = model
    questions = [q for q in questions if q.image][:20]
    new_tokens = 24
    plain, tokens = waits_of(vlm, ShrinkingDecoder(vlm, vlm.encoder().stop_ids, new_tokens), questions, images)
    static_waits, same = waits_of(vlm, static(vlm, None, new_tokens), questions, images)
    assert tokens == same == new_tokens
    assert plain >= 6 * tokens, "on the CPU the host reads every token"
    assert 1 <= static_waits <= tokens // CHECK_EVERY + 1, (
        "the host reads a flag at intervals, and the tokens at the end"
    )


def test_decoding_ends_soon_after_all_sequences_have_ended(model, monkeypatch):
    vlm, images, questions, _ = model
    found = vlm.encoder().stop_ids[0]
    logits = type(vlm).logits

    def stop_at_once(self, hidden):
        scores = logits(self, hidden)
        return scores.index_fill(-1, torch.tensor([found]), scores.max().item() + 1)

    monkeypatch.setattr(type(vlm), "logits", stop_at_once)
    decoder, steps = static(vlm, None, 100), []
    engine = AnsweringEngine(vlm, decoder=decoder)
    from olivine.evaluation import static_decoding

    step = static_decoding._Batch.step
    monkeypatch.setattr(static_decoding._Batch, "step", lambda self: steps.append(1) or step(self))
    answers = list(engine.answer([q for q in questions if q.image][:5], images))
    assert {a.state for a in answers} == {AnswerState.EMPTY}
    assert len(steps) == CHECK_EVERY


def test_a_graph_is_captured_only_when_a_shape_recurs(model):
    vlm, images, questions, expected = model
    graph = StandInGraph()
    decoder = static(vlm, graph)
    engine = AnsweringEngine(vlm, decoder=decoder)
    asked = [q for q in questions if q.image][:6]
    for time_of_asking, captures in enumerate((0, 1, 1)):
        assert {a.question_id: a.text for a in engine.answer(asked, images)} == {q.id: expected[q.id] for q in asked}
        assert graph.captures == captures, time_of_asking


def test_without_a_graph_answers_are_still_given(model, caplog):
    vlm, images, questions, expected = model

    def capture(step):
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    engine = AnsweringEngine(vlm, decoder=static(vlm, capture))
    asked = [q for q in questions if q.image][:6]
    list(engine.answer(asked, images))
    again = list(engine.answer(asked, images))
    assert "no CUDA graph can be made (operation not permitted when stream is capturing)" in caplog.text
    assert {a.question_id: a.text for a in again} == {q.id: expected[q.id] for q in asked}
    list(engine.answer(asked, images))  # neither tried nor reported a second time


def test_out_of_memory_during_capture_fails_only_that_batch(model):
    vlm, images, questions, _ = model

    def capture(step):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    engine = AnsweringEngine(vlm, decoder=static(vlm, capture))
    asked = [q for q in questions if q.image][:3]
    list(engine.answer(asked, images))
    assert {a.error for a in engine.answer(asked, images)} == {"OutOfMemoryError: CUDA out of memory."}


@pytest.mark.parametrize("threads", [1, 3])
def test_images_read_ahead_change_no_answer_and_a_broken_one_fails_only_its_questions(model, tmp_path, threads):
    vlm, _, questions, expected = model
    names = write_images(tmp_path, IMAGES)
    (tmp_path / names[3]).write_bytes(b"broken")
    engine = AnsweringEngine(vlm, max_new_tokens=NEW_TOKENS, token_budget=100, image_readers=threads)
    answers = list(engine.answer(questions, tmp_path))
    failed = {a.question_id for a in answers if a.state is AnswerState.FAILED}
    assert failed == {q.id for q in questions if q.image == names[3]}
    assert {a.question_id: a.text for a in answers if a.question_id not in failed} == {
        key: text for key, text in expected.items() if key not in failed
    }


class Slow:
    """Images that open slowly; records which were opened, and by how many threads."""

    def __init__(self):
        self.opened, self.threads = [], set()

    def open(self, name):
        time.sleep(0.02)
        self.opened.append(name)
        self.threads.add(threading.get_ident())
        return name


def test_images_of_the_next_batches_are_opened_in_the_background():
    images = Slow()
    batches = [[f"{batch}{image}" for image in range(4)] for batch in range(6)]
    with reading(images, lambda _: np.zeros(1), 4) as reader:
        for number, (batch, opened) in enumerate(reader.ahead(batches, list)):
            for pixels in opened:
                pixels()
            if not number:
                time.sleep(0.3)
                assert len(images.opened) == 12, "the current batch and two more, not all of them"
            assert set(batch) <= set(images.opened)
    assert len(images.opened) == 24
    assert len(images.threads) > 1


def test_no_thread_is_left_when_the_consumer_stops():
    images = Slow()
    with reading(images, lambda _: np.zeros(1), 1) as reader:
        next(iter(reader.ahead([[str(n)] for n in range(50)], list)))
    opened = len(images.opened)
    time.sleep(0.1)
    assert len(images.opened) == opened <= 4


def test_without_an_image_folder_each_question_fails_with_that_reason():
    with reading(None, lambda _: np.zeros(1), 0) as reader:
        _, (pixels,) = next(iter(reader.ahead([["a.png"]], list)))
        with pytest.raises(DataError, match="no image root"):
            pixels()


def on_gpu(vlm):
    """Make code that only checks the device believe that the model is on a GPU."""
    return SimpleNamespace(device=torch.device("cuda"), language=vlm.language)


@pytest.mark.parametrize(("free", "tokens"), [(0, 4_096), (20_000 * 2, 20_000), (10**15, 65_536)])
def test_a_gpus_budget_follows_its_free_memory(vlm, monkeypatch, free, tokens):
    size = bytes_per_token(vlm.language.config, torch.float32)
    monkeypatch.setattr(budgets_module, "free_bytes", lambda _device: free * size)
    assert budgets(on_gpu(vlm)) == (tokens, tokens)


def test_a_cpu_s_budget_is_fixed(vlm):
    assert budgets(vlm) == (16_384, 5_000)
    assert isinstance(decoder_for(vlm, (1,), 8), ShrinkingDecoder)


def test_a_gemma_2b_token_takes_the_memory_of_its_keys_values_and_one_layer():
    config = SimpleNamespace(
        num_hidden_layers=18, num_key_value_heads=1, head_dim=256, hidden_size=2048, intermediate_size=16384
    )
    # Keys and values: 18 x 256 x 2 numbers, three times; gate, up, product and input 65,536, the stream 20,480.
    assert bytes_per_token(config, torch.bfloat16) == 2 * (3 * 9_216 + 65_536 + 20_480)
