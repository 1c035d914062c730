"""Every registered tower: features = positions, packed = separate, trains, and answers the same from a saved folder."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance import (
    check_elsewhere,
    check_engine,
    check_features,
    check_packed,
    check_saved,
    check_steps,
    images,
    made,
    pixels_of,
)
from transformers import AutoConfig, AutoModel, CLIPVisionModel, SiglipConfig, SiglipModel

from olivine.data.images import open_image
from olivine.errors import RequestError, RunError
from olivine.model import checkpoint
from olivine.model.build import build_tower
from olivine.model.towers.joined import JOINED, renormalised
from olivine.model.towers.registry import TOWERS, tower_family, tower_types
from olivine.recipe import VisionRecipe
from olivine.registry import offered
from olivine.testing.specimens import tower_specimens

SPECIMENS = tower_specimens()
POSITIONS = {"dinov2_with_registers": 8, "dinov3_vit": 8}


@pytest.fixture(scope="module")
def towers():
    return {name: made(vision) for name, vision in SPECIMENS.items()}


@pytest.mark.parametrize("name", SPECIMENS)
def test_features_are_as_many_as_positions(towers, name, tmp_path):
    check_features(towers[name], tmp_path)
    assert towers[name].image_tokens == POSITIONS.get(name, 4)


@pytest.mark.parametrize("name", SPECIMENS)
def test_packed_equals_one_by_one(towers, name, tmp_path):
    check_packed(towers[name], tmp_path)


@pytest.mark.parametrize("name", SPECIMENS)
def test_the_engine_answers_as_generate_does(towers, name, tmp_path):
    check_engine(towers[name], tmp_path)


@pytest.mark.parametrize("name", SPECIMENS)
def test_it_trains(name, tmp_path):
    check_steps(made(SPECIMENS[name]), tmp_path)


def test_saved_folders_answer_the_same_elsewhere(towers, tmp_path):
    """With plain transformers if it has the layout; with `import olivine` for fused towers and dropped registers."""
    said, folders = {}, {}
    for name, vlm in towers.items():
        folders[name] = tmp_path / name.replace(", ", "-")
        folders[name].mkdir()
        said[name] = check_saved(vlm, folders[name])
    joined = {name for name in towers if towers[name].model.config.vision_config.model_type == JOINED}
    assert joined == {name for name in SPECIMENS if "dropped" in name or "fused" in name}
    for alone, names in ((True, towers.keys() - joined), (False, joined)):
        check_elsewhere({n: said[n] for n in names}, {n: folders[n] for n in names}, alone=alone)
    assert len({tuple(each) for each in said.values()}) > 3, "different towers give different answers"


@pytest.mark.parametrize("name", tower_types())
@torch.no_grad()
def test_a_folder_loads_the_same_tower_as_transformers(name, tmp_path):
    family = tower_family(name)
    values = dict(family.tiny)
    tower = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).eval()
    tower.save_pretrained(tmp_path)
    loaded, plan = build_tower(VisionRecipe.model_validate({"from": str(tmp_path), "image_size": values["image_size"]}))
    assert all(
        torch.equal(a, b) for a, b in zip(tower.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert plan.transform.resample == ("bilinear" if name == "dinov3_vit" else "bicubic")


def test_a_whole_siglip_gives_its_tower(tmp_path):
    vision = tower_family("siglip_vision_model").tiny
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    whole.save_pretrained(tmp_path)
    loaded, plan = build_tower(VisionRecipe.model_validate({"from": str(tmp_path)}))
    # Inside `vision_model` in older versions of transformers, at the top in newer ones.
    theirs, ours = (
        {name.removeprefix("vision_model."): weight for name, weight in tower.state_dict().items()}
        for tower in (whole.vision_model, loaded)
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items())
    assert (plan.strategy, plan.features.tokens, plan.transform.mean) == ("full", 4, (0.5, 0.5, 0.5))


@torch.no_grad()
def test_positions_of_another_size_are_those_the_library_interpolates(tmp_path):
    """Parameter and configuration both; transformers would compute the same in each forward pass."""
    values = dict(tower_family("clip_vision_model").tiny)
    torch.manual_seed(0)
    tower = CLIPVisionModel(AutoConfig.for_model(values.pop("model_type"), **values)).eval()
    tower.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    loaded, plan = build_tower(VisionRecipe.model_validate({"from": str(tmp_path), "image_size": 40}))
    assert torch.equal(torch.get_rng_state(), state), "the global random state is unchanged"
    assert loaded.config.image_size == 40
    assert plan.features.side == 5
    pixels = torch.randn(2, 3, 40, 40)
    theirs = tower(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(loaded(pixels, output_hidden_states=True).hidden_states[-2], theirs)


@pytest.mark.parametrize("name", ["clip_vision_model", "siglip_vision_model"])
def test_a_resampled_tower_is_saved_in_its_new_size(name, tmp_path):
    values = dict(tower_family(name).tiny)
    AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).save_pretrained(tmp_path / "tower")
    vlm = made({"from": str(tmp_path / "tower"), "image_size": 24})
    assert vlm.image_tokens == 9
    check_saved(vlm, tmp_path)
    again = checkpoint.load(tmp_path / "saved")
    assert again.model.config.vision_config.image_size == 24
    check_features(again, tmp_path)


@torch.no_grad()
def test_fused_features_are_each_towers_own(towers, tmp_path):
    """Each tower alone, on the image normalised as it expects, channel by channel."""
    vlm = towers["fused"]
    image = open_image(images(tmp_path)[0])
    ours = vlm.patch_features(pixels_of(vlm, tmp_path / "0.png"))
    dinov2, siglip = vlm.tower.towers
    fitted = vlm.transform.fitted(image)
    raw = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None] / 255
    parts = []
    for tower, part, prefix in ((dinov2, "dinov2_with_registers", 5), (siglip, "siglip_vision_model", 0)):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in tower_family(part).statistics)
        parts.append(tower((raw - mean) / std, output_hidden_states=True).hidden_states[-2][:, prefix:])
    torch.testing.assert_close(ours, torch.cat(parts, dim=-1), atol=1e-5, rtol=1e-4)


def test_renormalising_keeps_equal_statistics_to_the_bit():
    pixels = torch.randn(1, 3, 4, 4)
    assert renormalised(pixels, [0.5] * 3, [0.5] * 3, [0.5] * 3, [0.5] * 3) is pixels
    white = renormalised(torch.ones(1, 3, 1, 1), [0.5] * 3, [0.5] * 3, [0.2] * 3, [0.4] * 3)
    torch.testing.assert_close(white, torch.full((1, 3, 1, 1), 2.0))


def test_features_that_are_not_as_many_as_positions_are_an_error(towers):
    vlm = towers["clip_vision_model"]
    ids = torch.tensor([[vlm.model.config.image_token_id] * 3 + [5]])
    features = torch.zeros(1, 4, 32)
    for positions in (None, torch.arange(3)):
        with pytest.raises(RunError, match="4 image features for 3 image-token positions"):
            vlm.embed(ids, features, positions)


def tiny(name, **values):
    return {**tower_family(name).tiny, **values}


REFUSALS = {
    "unsupported": ({"from": {"model_type": "vit"}}, r"'vit'.*Valid: .*siglip_vision_model"),
    "naflex": ({"from": {"model_type": "siglip2_vision_model"}}, r"NaFlex.*Supported: .*siglip_vision_model"),
    "grid": ({"from": tiny("siglip_vision_model"), "image_size": 20}, "20 is no multiple of the patch size 8"),
    "layer": ({"from": tiny("dinov2"), "layer": 5}, r"layer: 5; this tower has hidden states -3 to 2"),
    "layers": ({"from": tiny("dinov2"), "layer": [-2, 7]}, r"layer: 7; this tower has hidden states -3 to 2"),
    "registers": ({"from": tiny("clip_vision_model"), "registers": "drop"}, "clip_vision_model has none"),
    "sizes": (
        {"fused": [tiny("siglip_vision_model"), tiny("clip_vision_model", image_size=24)]},
        r"different sizes \(siglip_vision_model 16, clip_vision_model 24\). Give model.vision.image_size",
    ),
    "grids": (
        {"fused": [tiny("dinov2"), tiny("siglip_vision_model", patch_size=4)], "image_size": 16},
        r"grids of patches differ \(dinov2 2x2, siglip_vision_model 4x4\)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_one_clear_line(name):
    vision, message = REFUSALS[name]
    with pytest.raises(RequestError, match=message) as refused:
        build_tower(VisionRecipe.model_validate(vision))
    assert "\n" not in str(refused.value)


def test_fused_towers_whose_filters_differ_are_refused_unless_one_is_named(tmp_path):
    for name in ("clip", "siglip"):
        folder = tmp_path / name
        values = dict(tiny(f"{name}_vision_model"))
        AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).save_pretrained(folder)
    (tmp_path / "siglip" / "preprocessor_config.json").write_text('{"resample": 2}')
    fused = {"fused": [str(tmp_path / "clip"), str(tmp_path / "siglip")]}
    message = (
        r"different filters \(clip_vision_model bicubic, siglip_vision_model bilinear\). Give model.vision.resample"
    )
    with pytest.raises(RequestError, match=message):
        build_tower(VisionRecipe.model_validate(fused))
    _, plan = build_tower(VisionRecipe.model_validate({**fused, "resample": "bilinear"}))
    assert plan.transform.resample == "bilinear"


def test_a_family_that_the_installed_transformers_cannot_save_is_refused(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "5.8.0")
    assert "dinov3_vit" not in tower_types()
    with pytest.raises(RequestError, match=r"'dinov3_vit' is not supported: transformers 5\.8\.0 .* install 5\.9"):
        tower_family("dinov3_vit")


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({}, "expected from"),
        ({"from": "a", "fused": ["a", "b"]}, "not both"),
        ({"fused": ["a", "b"], "registers": "keep"}, "no place for registers"),
        ({"fused": ["a", "b"], "mean": [0, 0, 0]}, "each of the fused towers has its own"),
        ({"fused": ["a"]}, "at least 2 items"),
        ({"from": "a", "layer": []}, "at least 1 item"),
    ],
)
def test_contradictory_sections_are_refused(vision, message):
    with pytest.raises(ValueError, match=message):
        VisionRecipe.model_validate(vision)


def test_a_folders_filter_is_used_or_refused(tmp_path):
    values = dict(tower_family("siglip_vision_model").tiny)
    AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"resample": 2, "size": {"height": 16, "width": 16}}')  # as SigLIP2's folders have it
    assert build_tower(VisionRecipe.model_validate({"from": str(tmp_path)}))[1].transform.resample == "bilinear"
    path.write_text('{"resample": 1}')
    with pytest.raises(RequestError, match=r"resample: 1; expected 2 \(bilinear\) or 3"):
        build_tower(VisionRecipe.model_validate({"from": str(tmp_path)}))
    selected = VisionRecipe.model_validate({"from": str(tmp_path), "resample": "bicubic"})
    assert build_tower(selected)[1].transform.resample == "bicubic"


OUTSIDE = '''
from olivine.model.towers.clip import Clip


class Vit(Clip):
    """ViT as ImageNet classifiers have it: the positions are its own parameter."""

    model_type = "vit"
    statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    position_table = None
    tiny = {**Clip.tiny, "model_type": "vit"}
'''


def test_a_package_outside_adds_a_tower_with_one_file(monkeypatch, tmp_path):
    (tmp_path / "vit_tower.py").write_text(OUTSIDE)
    info = tmp_path / "vit_tower-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vit-tower\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{TOWERS}]\nvit = vit_tower:Vit\n")
    monkeypatch.syspath_prepend(tmp_path)
    offered.cache_clear()
    try:
        assert "vit" in tower_specimens()
        vlm = made(tower_specimens()["vit"])
        check_features(vlm, tmp_path)
        check_packed(vlm, tmp_path)
        check_saved(vlm, tmp_path)
    finally:
        sys.modules.pop("vit_tower", None)
        offered.cache_clear()


def test_the_filter_reaches_pixels_and_the_saved_processor(tmp_path):
    soft = made({**SPECIMENS["siglip_vision_model"], "resample": "bilinear"})
    sharp = made(SPECIMENS["siglip_vision_model"])
    image = open_image(images(tmp_path)[0])
    assert (soft.transform(image) != sharp.transform(image)).any()
    checkpoint.save(soft, tmp_path / "saved")
    from transformers import AutoProcessor

    theirs = AutoProcessor.from_pretrained(tmp_path / "saved").image_processor(image, return_tensors="pt").pixel_values
    assert torch.equal(theirs[0], torch.from_numpy(soft.transform(image)))
    assert checkpoint.load(tmp_path / "saved").transform.resample == "bilinear"


def test_resampled_positions_of_a_ramp_stay_a_ramp():
    from olivine.model.towers.family import resample_positions

    ramp = torch.arange(16.0).view(4, 4)
    table = torch.cat([torch.tensor([[-5.0]]), ramp.reshape(16, 1)])
    out = resample_positions(table, 1, 8)
    assert float(out[0]) == -5.0
    expected = F.interpolate(ramp[None, None], size=(8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(out[1:, 0], expected.flatten())
