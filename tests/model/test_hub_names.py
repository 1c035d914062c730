"""Saved tensors have the names of LLaVA folders on the hub, and folders with other names load as before."""

import json
import re

import pytest
import torch
from model_folders import edit_tensors
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration

from olivine.model import checkpoint
from olivine.model.companion import COMPANION
from olivine.model.hub_names import hub_name, rename_saved
from olivine.model.weights import INDEX
from olivine.testing import tiny_vlm

#: A name as transformers 5.23 has it in the module, as 5.4 saves it, and the hub's.
NAMES = [
    (
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
    ),
    (
        "model.multi_modal_projector.linear_1.bias",
        "model.multi_modal_projector.linear_1.bias",
        "multi_modal_projector.linear_1.bias",
    ),
    (
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.language_model.model.layers.0.mlp.up_proj.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
    ),
    ("lm_head.weight", "language_model.lm_head.weight", "language_model.lm_head.weight"),
]


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def vlm(request, tmp_path_factory):
    return tiny_vlm(tower=request.param, folder=tmp_path_factory.mktemp("tokenizer"))


def names_in(folder):
    with safe_open(folder / "model.safetensors", "pt") as opened:
        return set(opened.keys())


def without_checksums(folder):
    values = json.loads((folder / COMPANION).read_text())
    values.pop("files")
    (folder / COMPANION).write_text(json.dumps(values))


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[2])
def test_every_version_s_name_becomes_the_hub_s(names):
    config = tiny_vlm(tower="clip").model.config
    assert {hub_name(name, config) for name in names} == {names[2]}


def test_a_saved_folder_has_the_hub_s_names(vlm, tmp_path):
    checkpoint.save(vlm, tmp_path / "c")
    saved = names_in(tmp_path / "c")
    assert {name.split(".")[0] for name in saved} == {"vision_tower", "multi_modal_projector", "language_model"}
    tower = {name for name in saved if name.startswith("vision_tower.")}
    if vlm.model.config.vision_config.model_type == "clip_vision_model":
        assert all(name.startswith("vision_tower.vision_model.") for name in tower)
        assert "vision_tower.vision_model.embeddings.class_embedding" in tower
    else:
        assert "vision_tower.embeddings.cls_token" in tower
    assert all(re.match(r"language_model\.(model|lm_head)\.", n) for n in saved if n.startswith("language_model."))


def test_a_saved_folder_loads_alike_in_plain_transformers(vlm, tmp_path):
    checkpoint.save(vlm, tmp_path / "c")
    plain, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "c", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = vlm.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "model."])
def test_folders_with_the_shorter_names_still_load(vlm, tmp_path, prefix):
    folder = tmp_path / "c"
    checkpoint.save(vlm, folder)
    edit_tensors(
        folder,
        lambda held: {
            re.sub(r"^(?=vision_tower|multi_modal)", prefix, n.replace("vision_model.", "")): t for n, t in held.items()
        },
    )
    without_checksums(folder)
    again = checkpoint.load(folder)
    expected = vlm.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())


def test_names_of_other_versions_are_rewritten_in_place(tmp_path):
    vlm = tiny_vlm(tower="clip", folder=tmp_path / "tokenizer")
    checkpoint.save(vlm, tmp_path / "c")
    right = names_in(tmp_path / "c")
    folder = tmp_path / "c"
    edit_tensors(folder, lambda held: {f"model.{n.replace('vision_model.', '')}": t for n, t in held.items()})
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names_in(folder), "model.safetensors")}))
    rename_saved(folder, vlm.model.config)
    assert names_in(folder) == right
    assert json.loads((folder / INDEX).read_text())["weight_map"].keys() == right
    (folder / INDEX).unlink()
    without_checksums(folder)
    again = checkpoint.load(folder).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in vlm.model.state_dict().items())
