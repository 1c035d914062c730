"""A model that cannot be built is refused on the command line in one line, before data are read or weights are loaded.

Folders here hold configurations and tokenizers and no weights, and the data do not exist: who reads them finds out.
"""

import json

import pytest
import yaml

from olivine.model.towers.registry import tower_family
from olivine.testing import gemma_tokenizer, llama_tokenizer
from olivine.testing.languages import language_specimens
from olivine.testing.tokenizers import chat_tokenizer

CLIP, SIGLIP, DINOV2 = (tower_family(name).tiny for name in ("clip_vision_model", "siglip_vision_model", "dinov2"))
TOKENIZERS = {"gemma": gemma_tokenizer, "llama": llama_tokenizer, "qwen3": lambda: chat_tokenizer("chatml")}


@pytest.fixture
def folder(tmp_path):
    """Write a folder with a configuration, and its tokenizer where it is a language model's."""

    def write(name, config):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        if config["model_type"] in TOKENIZERS:
            TOKENIZERS[config["model_type"]]().save_pretrained(path)
        return path

    return write


@pytest.fixture
def recipe(folder, tmp_path):
    """A recipe of sound modules, weights and data missing: 2 x 2 patches, two blocks in the tower."""
    values = {
        "name": "refused",
        "model": {
            "vision": {"from": str(folder("clip", CLIP))},
            "language": {"from": str(folder("gemma", language_specimens()["gemma"]))},
        },
        "data": {"all": {"json": str(tmp_path / "none.json")}},
        "stages": [
            {"name": "align", "train": ["connector"], "data": "all", "batch": 4, "lr": 1e-3, "steps": 2},
            {"name": "instruct", "train": ["connector", "language"], "data": "all", "batch": 4, "lr": 1e-3, "steps": 2},
        ],
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


#: Overrides, and what is said of them. FOLDERS stand for configurations that the test writes.
REFUSED = {
    "unsupported tower": (
        {"model.vision.from": {"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2, "patch_size": 8}},
        ["model.vision.from: unsupported vision tower 'vit'", "clip_vision_model"],
    ),
    "unsupported tower, known": (
        {"model.vision.from": {"model_type": "siglip2_vision_model", "num_hidden_layers": 2}},
        ["model.vision.from: 'siglip2_vision_model' is not supported: SigLIP2-NaFlex"],
    ),
    "unsupported language model": (
        {"model.language.from": {"model_type": "gpt_neox", "hidden_size": 32, "num_attention_heads": 4}},
        ["model.language.from: unsupported language model 'gpt_neox': its modules are laid out otherwise"],
    ),
    "a factor that does not divide the grid": (
        {"model.connector": {"kind": "pixel-shuffle", "factor": 3}},
        ["model.connector.factor: 3 does not divide the tower's grid of 2x2 patches"],
    ),
    "a pool that does not divide the grid": (
        {"model.connector": {"kind": "pool", "factor": 4}},
        ["model.connector.factor: 4 does not divide the tower's grid of 2x2 patches"],
    ),
    "an activation that transformers lacks": (
        {"model.connector": {"kind": "mlp", "activation": "gellu"}},
        ["model.connector.activation: transformers knows no 'gellu'"],
    ),
    "no such layer": ({"model.vision.layer": -4}, ["model.vision.layer: -4; this tower has hidden states -3 to 2"]),
    "no such layer in a list": (
        {"model.vision.layer": [-2, 3]},
        ["model.vision.layer: 3; this tower has hidden states -3 to 2"],
    ),
    "a template without its markers": (
        {"model.language.template": "chatml"},
        ["template 'chatml'", "<|im_end|>"],
    ),
    "a template without its markers in a later stage": (
        {"stages.instruct.template": "llama3"},
        ["stages.instruct.template: template 'llama3' begins with", "Set stages.instruct.template to another one"],
    ),
    "another beginning of sequence": (
        {"model.language.template": "vicuna"},
        ["template 'vicuna'", "begins with '<s>'"],
    ),
    "a tokenizer without a template of its own": (
        {"model.language.template": "chat"},
        ["template 'chat'"],
    ),
    "fused towers whose grids differ": (
        {"model.vision": {"fused": [CLIP, {**SIGLIP, "patch_size": 4}], "image_size": 16}},
        ["model.vision.fused: at 16 pixels the towers' grids of patches differ", "2x2", "4x4"],
    ),
    "fused towers of different sizes": (
        {"model.vision": {"fused": [CLIP, {**SIGLIP, "image_size": 24}]}},
        ["model.vision.fused: the towers take images of different sizes", "Give model.vision.image_size"],
    ),
    "an image size that is no multiple of the patch size": (
        {"model.vision.image_size": 20},
        ["model.vision.image_size: 20 is no multiple of the patch size 8", "nearest are 16 and 24"],
    ),
    "an image size that one of two fused towers cannot take": (
        {"model.vision": {"fused": [CLIP, {**DINOV2, "patch_size": 6}], "image_size": 16}},
        ["model.vision.image_size: 16 is no multiple of the patch size 6", "nearest are 12 and 18"],
    ),
    "an image smaller than a patch": (
        {"model.vision.image_size": 5},
        ["model.vision.image_size: 5 is no multiple of the patch size 8", "nearest is 8"],
    ),
}


def overrides(changes, folder):
    """Return changes as overrides; configurations become folders."""

    def written(value, name):
        if isinstance(value, dict) and "model_type" in value:
            return str(folder(name, value))
        if isinstance(value, dict):
            return {key: written(inner, f"{name}-{key}") for key, inner in value.items()}
        if isinstance(value, list):
            return [written(inner, f"{name}-{number}") for number, inner in enumerate(value)]
        return value

    return [f"{key}={json.dumps(written(value, key))}" for key, value in changes.items()]


@pytest.mark.parametrize("name", REFUSED)
def test_training_refuses_it_first(run, recipe, folder, tmp_path, name):
    changes, said = REFUSED[name]
    code, _, err = run("train", recipe, *overrides(changes, folder))
    assert code == 2
    line = " ".join(err.split())
    assert line.startswith("error: ")
    for words in said:
        assert words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in REFUSED if "template" not in name and "beginning" not in name])
def test_a_plan_refuses_it_too(run, recipe, folder, name):
    """But for templates, since a plan reads no tokenizer."""
    changes, said = REFUSED[name]
    code, _, err = run("plan", recipe, *overrides(changes, folder))
    assert code == 2
    for words in said:
        assert words in " ".join(err.split())


def test_what_is_sound_comes_to_its_data_then_to_its_weights(run, recipe, tmp_path):
    """The same recipe without a fault is refused for what is missing, in that order."""
    code, _, err = run("train", recipe)
    assert code == 2
    assert "none.json" in err
    (tmp_path / "none.json").write_text(
        json.dumps([{"id": "a", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}])
    )
    code, _, err = run("train", recipe)
    assert code == 2
    assert "clip" in " ".join(err.split())
    assert "safetensors" in err
