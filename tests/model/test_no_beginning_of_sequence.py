"""A language model as Qwen3 is: no beginning of sequence, no pad token, stop ids of tokenizer and settings together."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from olivine.data.images import open_image
from olivine.evaluation.engine import AnsweringEngine
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.model.generate import answer_one
from olivine.random_state import RandomState
from olivine.recipe import ModelRecipe
from olivine.records import Question
from olivine.testing import tiny_model_recipe
from olivine.testing.languages import language_specimens, strengthen
from olivine.testing.tokenizers import chat_tokenizer

PROMPTS = ["what color is the red shape?", "is there a circle?", "user", "what is in the image?"]
TOKENS = 8


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """Built from a folder as published: the settings alone name <|endoftext|> as a stop, the tokenizer <|im_end|>."""
    folder = tmp_path_factory.mktemp("qwen3")
    tokenizer = chat_tokenizer("chatml")
    end, text_end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    values = {**language_specimens()["qwen3"], "vocab_size": len(tokenizer), "eos_token_id": end}
    values |= {"bos_token_id": None, "pad_token_id": None}
    with RandomState(3).active():
        language = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    strengthen(language.model)
    language.generation_config = GenerationConfig(eos_token_id=[end, text_end])
    language.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe = tiny_model_recipe().model_dump(by_alias=True)
    recipe["language"] = {"from": str(folder)}
    built = build(ModelRecipe.model_validate(recipe), seed=1, texts=tuple)
    assert (built.tokenizer.bos_token, built.tokenizer.pad_token, built.template) == (None, None, "chatml")
    return built


@pytest.fixture(scope="module")
def saved(vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    checkpoint.save(vlm, folder)
    return folder


def stops(vlm):
    return sorted(vlm.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def test_a_conversation_begins_with_its_first_marker(vlm):
    prefix, rest = vlm.encoder().prompt("what?", True)
    assert vlm.tokenizer.convert_ids_to_tokens((prefix + rest)[0]) == "<|im_start|>"


def test_every_stop_id_is_kept(vlm, saved):
    reloaded = checkpoint.load(saved)
    for one in (vlm, reloaded):
        assert list(one.stop_ids(one.encoder())) == stops(vlm)
    plain = AutoModelForImageTextToText.from_pretrained(saved)
    assert plain.generation_config.eos_token_id == stops(vlm)
    assert plain.generation_config.bos_token_id is None


def test_the_saved_folder_has_a_pad_token_that_its_embedding_has(saved):
    processor, model = AutoProcessor.from_pretrained(saved), AutoModelForImageTextToText.from_pretrained(saved)
    pad = processor.tokenizer.pad_token_id
    assert pad is not None
    assert pad < model.get_input_embeddings().num_embeddings
    assert model.generation_config.pad_token_id == pad


def test_engine_single_and_padded_batches_answer_alike(vlm, saved, image_folder):
    questions = [Question(str(n), prompt, f"{n}.png", "x") for n, prompt in enumerate(PROMPTS)]
    single = [answer_one(vlm, q.prompt, image_folder / q.image, max_new_tokens=TOKENS) for q in questions]
    assert len(set(single)) > 1, "answers that are all alike would prove nothing"
    answers = {
        a.question_id: a.text for a in AnsweringEngine(vlm, max_new_tokens=TOKENS).answer(questions, image_folder)
    }
    assert [answers[q.id] for q in questions] == single
    processor, model = AutoProcessor.from_pretrained(saved), AutoModelForImageTextToText.from_pretrained(saved).eval()
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": open_image(image_folder / q.image)},
                                      {"type": "text", "text": q.prompt}]}]
        for q in questions
    ]  # fmt: skip
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=TOKENS)[:, inputs["input_ids"].shape[1] :]
    assert [text.strip() for text in processor.batch_decode(out, skip_special_tokens=True)] == single
