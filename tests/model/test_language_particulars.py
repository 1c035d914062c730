"""What differs between families besides attention: templates, stop tokens, tokenizers, LoRA's layers, plan numbers."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from olivine.cost.estimate import _seen
from olivine.errors import RequestError, RunError
from olivine.evaluation.engine import AnsweringEngine
from olivine.model import checkpoint
from olivine.model.activation_memory import saved_bytes_per_token
from olivine.model.build import build
from olivine.model.generate import answer_one
from olivine.model.languages.registry import language_family, language_types
from olivine.model.languages.traits import language_traits
from olivine.model.size import model_size
from olivine.recipe import LoraRecipe, ModelRecipe
from olivine.records import Question
from olivine.testing import llama_tokenizer, tiny_model_recipe
from olivine.testing.languages import language_specimens, strengthen, tiny_language_vlm
from olivine.training import lora

SPECIMENS = language_specimens()


def recipe_for(language, **others):
    recipe = tiny_model_recipe().model_dump(by_alias=True)
    recipe["language"] = {"from": language, **others}
    return ModelRecipe.model_validate(recipe)


def config_of(name):
    values = dict(SPECIMENS[name])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def test_every_family_has_a_specimen():
    assert {config["model_type"] for config in SPECIMENS.values()} == set(language_types())


@pytest.mark.parametrize("name", SPECIMENS)
def test_the_plan_knows_every_family(name):
    size = model_size(recipe_for(SPECIMENS[name], tokenizer={"vocab_size": 640}))
    model = AutoModelForCausalLM.from_config(config_of(name))
    assert size.language == sum(p.numel() for p in model.parameters())
    assert (size.heads, size.layers) == (4, 2)
    assert saved_bytes_per_token(size.config, trains=True, bf16=False) > 32 * 4


def test_a_window_leaves_fewer_pairs_to_attend():
    assert _seen(100, (None, None)) == 2 * 100**2 / 2
    assert _seen(100, (10, None)) == 100**2 / 2 + (100**2 - 90**2) / 2
    assert _seen(5, (10,)) == 5**2 / 2


LONE = [(("llama3", "vicuna"), ["<|start_header_id|>", "<|eot_id|>"], "llama3"), (("llama3", "vicuna"), [], "vicuna")]


@pytest.mark.parametrize(("known", "tokens", "expected"), LONE)
def test_a_template_is_recognised_by_its_markers(known, tokens, expected):
    assert language_family("llama").template(tokens, known, "key") == expected


def test_a_family_whose_template_is_unknown_says_so():
    with pytest.raises(
        RequestError, match=r"key: which one this Qwen3 was tuned with is unknown.*Valid: plain, vicuna"
    ):
        language_family("qwen3").template(["a"], ("vicuna", "plain"), "key")


@pytest.mark.parametrize("targets", [None, ("q_proj", "k_proj", "v_proj"), ("qkv_proj",)])
def test_lora_covers_phis_joined_layers_for_all_that_they_contain(targets):
    vlm = tiny_language_vlm(SPECIMENS["phi3"])
    recipe = LoraRecipe(rank=2) if targets is None else LoraRecipe(rank=2, targets=targets)
    before = vlm.logits(vlm.language(inputs_embeds=torch.ones(1, 3, 32)).last_hidden_state)
    lora.insert(vlm.language, recipe)
    adapted = {name.split(".")[-4] for name, _ in vlm.language.named_parameters() if "lora_A" in name}
    assert adapted == ({"qkv_proj"} if targets else {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"})
    lora.merge(vlm.language)
    torch.testing.assert_close(vlm.logits(vlm.language(inputs_embeds=torch.ones(1, 3, 32)).last_hidden_state), before)


def test_lora_refuses_part_of_a_joined_layer():
    vlm = tiny_language_vlm(SPECIMENS["phi3"])
    with pytest.raises(RequestError, match=r"q_proj: no such linear layer.*qkv_proj"):
        lora.check(vlm.language, LoraRecipe(targets=("q_proj",)), "stages.align.lora")


def test_longrope_limits_a_sample_to_where_its_frequencies_change():
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = {
        **SPECIMENS["phi3"],
        "rope_parameters": {**rope, "original_max_position_embeddings": 64},
        "max_position_embeddings": 128,
        "original_max_position_embeddings": 64,
    }
    vlm = tiny_language_vlm(config)
    assert language_traits(vlm.language.config).longest == 64
    vlm.check_length(64)
    with pytest.raises(RunError, match=r"a sample has 65 tokens.*Set max_length to 64"):
        vlm.check_length(65)


def saved_language(folder, *, stop, pad, begin):
    """Write a Llama's folder as published ones are, with or without a pad token and a beginning of sequence."""
    torch.manual_seed(3)
    values = {**SPECIMENS["llama"], "pad_token_id": None, "bos_token_id": None, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    strengthen(model.model)
    model.generation_config = GenerationConfig(eos_token_id=stop)
    model.save_pretrained(folder)
    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    if not pad:
        settings["pad_token"] = None
    if not begin:
        settings |= {"bos_token": None, "add_bos_token": False}
    path.write_text(json.dumps(settings))
    return folder


def test_no_pad_token_and_several_stop_tokens(tmp_path, image_folder):
    """A stop token that only the generation settings name ends an answer, here and in the saved folder."""
    first = build(recipe_for(str(saved_language(tmp_path / "a", stop=2, pad=False, begin=True))), seed=0, texts=tuple)
    assert first.tokenizer.pad_token is None
    questions = [Question("0", "what color is it?", "0.png", "x"), Question("1", "hello", None, "y")]

    def tokens_of(vlm, text):
        prefix, rest = vlm.encoder().prompt(text, False)
        ids = torch.tensor([prefix + rest])
        return vlm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )[0, ids.shape[1] :].tolist()

    stop = tokens_of(first, "hello")[3]
    folder = saved_language(tmp_path / "b", stop=[2, stop], pad=False, begin=True)
    vlm = build(recipe_for(str(folder)), seed=0, texts=tuple)
    assert vlm.model.generation_config.eos_token_id == sorted([2, stop])
    assert stop in tokens_of(vlm, "hello")[:4]
    checkpoint.save(vlm, tmp_path / "saved")
    for one in (vlm, checkpoint.load(tmp_path / "saved")):
        assert one.stop_ids(one.encoder()) == tuple(sorted([2, stop]))
        answers = {
            a.question_id: a.text for a in AnsweringEngine(one, max_new_tokens=8).answer(questions, image_folder)
        }
        for question in questions:
            image = image_folder / question.image if question.image else None
            assert answers[question.id] == answer_one(one, question.prompt, image, max_new_tokens=8)
        assert len(tokens_of(one, "hello")) <= 4
