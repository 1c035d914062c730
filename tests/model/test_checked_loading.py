"""Weights must be complete, correctly named and finite, or loading is refused with their names."""

import re

import pytest
import torch
from model_folders import WEIGHTS, backbone, built, built_with, edit_json, edit_tensors, published
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from olivine.errors import OlivineError, RequestError
from olivine.model import checkpoint
from olivine.model.build import build_tower
from olivine.recipe import VisionRecipe
from olivine.testing import tiny_vlm

#: Names of a LLaVA folder's tensors, as versions of transformers and other tools have written them.
NAMINGS = {
    "hub": {
        "vision": "vision_tower.vision_model.",
        "language": "language_model.model.",
        "head": "language_model.lm_head.",
    },
    "new": {"vision": "model.vision_tower.vision_model.", "language": "model.language_model.", "head": "lm_head."},
    "newest": {"vision": "vision_tower.", "language": "language_model.model.", "head": "language_model.lm_head."},
    "old, prefixed": {"vision": "model.vision_tower.", "language": "model.language_model.model.", "head": "lm_head."},
}
CONNECTOR = "multi_modal_projector."


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def renamed(tensors, naming):
    """A LLaVA folder's tensors under other names."""
    result = {}
    for name, tensor in tensors.items():
        bare = re.sub(r"^(model\.)?(vision_tower\.(vision_model\.)?|language_model\.(model\.)?)", "", name)
        if "vision_tower" in name:
            result[naming["vision"] + bare] = tensor
        elif CONNECTOR in name:
            result[name] = tensor
        elif "lm_head" in name:
            result[naming["head"] + "weight"] = tensor
        else:
            result[naming["language"] + bare] = tensor
    return result


@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_a_llava_folder_gives_its_own_tower(tmp_path, tower):
    vlm = tiny_vlm(tower=tower)
    checkpoint.save(vlm, tmp_path / "llava")
    loaded, plan = build_tower(VisionRecipe.model_validate({"from": str(tmp_path / "llava"), "image_size": 16}))
    assert same(loaded.state_dict(), vlm.tower.state_dict())
    assert plan.transform.mean == pytest.approx(vlm.transform.mean)


def test_a_llava_folder_gives_its_own_language_model_and_template(tmp_path):
    vlm = tiny_vlm()
    vlm.template = "plain"
    checkpoint.save(vlm, tmp_path / "llava")
    loaded = built(published("clip"), str(tmp_path / "llava"))
    assert same(loaded.language.state_dict(), vlm.language.state_dict())
    assert loaded.template == "plain"


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_of_a_llava_folder_is_read(tmp_path, naming):
    vlm = built(published("clip"), published("gemma"))
    folder = tmp_path / "llava"
    checkpoint.save(vlm, folder)
    edit_tensors(folder, lambda tensors: renamed(tensors, NAMINGS[naming]))
    edit_json(folder / "olivine.json", files=None)
    parts = built(str(folder), str(folder))
    assert same(parts.tower.state_dict(), vlm.tower.state_dict())
    assert same(parts.language.state_dict(), vlm.language.state_dict())
    assert same(checkpoint.load(folder).model.state_dict(), vlm.model.state_dict())


def test_a_whole_clip_with_its_text_tower_gives_its_vision_tower(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config={**sizes, "vocab_size": 99}, vision_config=vision))
    clip.save_pretrained(tmp_path)
    loaded, _ = build_tower(VisionRecipe.model_validate({"from": str(tmp_path)}))
    assert torch.equal(loaded.state_dict().popitem()[1], clip.vision_model.state_dict().popitem()[1])
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in clip.vision_model.parameters())


def half(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1" not in name and "layer.1" not in name}


def without_numbers(tensors):
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name][0, 0] = float("nan")
    return tensors


def narrower(tensors):
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    return {**tensors, name: tensors[name][:, :-1].contiguous()}


DAMAGES = {
    "half of the keys": (half, "weights are missing"),
    "other names": (
        lambda tensors: {f"alien.{name}": tensor for name, tensor in tensors.items()},
        "weights are missing",
    ),
    "an empty table": (lambda tensors: {}, "weights are missing"),
    "one more tensor": (lambda tensors: {**tensors, "adapter.weight": torch.ones(2)}, "no place.*adapter.weight"),
    "another shape": (narrower, "another shape.*expected"),
    "NaN": (without_numbers, "no numbers"),
    "whole numbers": (lambda tensors: {name: t.to(torch.int8) for name, t in tensors.items()}, "are I8"),
}


@pytest.mark.parametrize("name", ["clip", "dinov2", "gemma"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_incomplete_or_foreign_weights_are_refused_by_name(tmp_path, name, damage):
    folder = backbone(name, tmp_path / "part")
    change, message = DAMAGES[damage]
    edit_tensors(folder, change)
    with pytest.raises(RequestError, match=message) as caught:
        built_with(folder)
    assert str(folder) in str(caught.value)


def test_a_head_that_is_not_tied_must_be_there(tmp_path):
    folder = backbone("gemma", tmp_path / "part")
    edit_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(RequestError, match=r"1 weights are missing .*lm_head"):
        built_with(folder)


def test_two_different_tables_that_should_be_tied_are_refused(tmp_path):
    folder = backbone("gemma", tmp_path / "part")
    edit_tensors(folder, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 1})
    with pytest.raises(RequestError, match=r"tie_word_embeddings"):
        built_with(folder)
    edit_tensors(folder, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})
    built_with(folder)


@pytest.mark.parametrize("dropped", [CONNECTOR, "vision_tower", "layers.0.", "embed_tokens"])
def test_a_checkpoint_without_some_of_its_weights_is_refused(tmp_path, dropped):
    folder = tmp_path / "llava"
    checkpoint.save(tiny_vlm(), folder)
    edit_json(folder / "olivine.json", files=None)
    edit_tensors(folder, lambda tensors: {name: t for name, t in tensors.items() if dropped not in name})
    with pytest.raises(OlivineError, match=r"weights are missing \("):
        checkpoint.load(folder)


def test_buffers_saved_by_older_versions_are_accepted(tmp_path):
    folder = backbone("clip", tmp_path / "part")
    edit_tensors(folder, lambda t: {**t, "vision_model.embeddings.position_ids": torch.arange(37)[None]})
    built_with(folder)


def test_sharded_weights_are_read(tmp_path):
    folder = backbone("gemma", tmp_path / "part")
    whole = built_with(folder).language.state_dict()
    shard(folder)
    assert same(built_with(folder).language.state_dict(), whole)


def shard(folder):
    """Replace one file by two and an index."""
    tensors = load_file(folder / WEIGHTS)
    names, positions = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        positions |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    edit_json(folder / "model.safetensors.index.json", metadata={}, weight_map=positions)
    return positions


def index(folder, change):
    positions = shard(folder)
    edit_json(folder / "model.safetensors.index.json", weight_map=change(positions))


def twice(folder):
    index(folder, lambda positions: positions)
    file = folder / "model-00001-of-00002.safetensors"
    save_file(load_file(folder / "model-00002-of-00002.safetensors") | load_file(file), file, metadata={"format": "pt"})


INDEXES = {
    "a file that is not there": (
        lambda folder: index(folder, lambda positions: {**positions, "x": "model-00003-of-00003.safetensors"}),
        "model-00003-of-00003.safetensors, which is not there",
    ),
    "a path outside": (lambda f: index(f, lambda p: {**p, "x": "../tiny/model.safetensors"}), "no file of the folder"),
    "an absolute path": (lambda f: index(f, lambda p: {**p, "x": "/etc/hostname"}), "no file of the folder"),
    "no map": (lambda f: index(f, lambda p: [1]), "has no weight_map"),
    "numbers for files": (lambda f: index(f, lambda p: dict.fromkeys(p, 3)), "has no weight_map"),
    "one tensor in two files": (twice, "is in model-00001-of-00002.safetensors and in"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_inconsistent_index_is_refused(tmp_path, kind):
    folder = backbone("gemma", tmp_path / "part")
    change, message = INDEXES[kind]
    change(folder)
    with pytest.raises(RequestError, match=message):
        built_with(folder)
