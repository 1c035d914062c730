"""A tower for llama.cpp's LLaVA graph gives patches in order, whatever it does to class tokens."""

import numpy as np
import pytest
import torch
from llava_graph import features, tensors_of
from PIL import Image

from olivine.conversion.gguf_order import CARRIED
from olivine.conversion.gguf_tower import ACTIVATIONS, tower_arrays
from olivine.conversion.gguf_vision import vision_file
from olivine.errors import RequestError
from olivine.model.build import build
from olivine.recipe import ModelRecipe
from olivine.testing import tiny_model_recipe, tiny_vlm


def images(count=6, side=16):
    draw = np.random.default_rng(0)
    made = [Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(count - 2)]
    return [*made, Image.new("RGB", (side, side), (0, 0, 0)), Image.new("RGB", (side, side), (255, 255, 255))]


def siglip():
    values = tiny_model_recipe().model_dump(by_alias=True)
    values["vision"]["from"] = {
        **values["vision"]["from"],
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
    }
    return build(ModelRecipe.model_validate(values), seed=0, texts=lambda: ["what color is the shape?"])


def stronger(vlm):
    """Random towers hardly look at their input; these do, and have norms and scales of their own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in vlm.tower.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise * (0.15 if weight.ndim > 1 and "embeddings" not in name else 0.3))
    return vlm


def compared(vlm, dtype, order):
    """Largest difference between the graph's features and the tower's, as a share of the largest feature."""
    fitted = images(side=vlm.transform.size)
    content = vision_file(vlm, fitted, "test", class_order="last" if order == "mended" else "first")
    tower = tower_arrays(vlm)
    width = content.tensors["v.position_embd.weight"].shape[1]
    pixels = torch.from_numpy(np.stack([vlm.transform(image) for image in fitted]))
    got = features(
        tensors_of(content, dtype),
        pixels.to(dtype),
        heads=tower.heads,
        eps=tower.eps * tower.width / width,
        blocks=sum(name.endswith("ln1.weight") for name in content.tensors),
        patch=tower.patch,
        gelu=ACTIVATIONS[tower.activation],
    )
    carried = CARRIED if width > tower.width else 1
    expected = vlm.patch_features(pixels).detach()
    return float((got[..., : tower.width] / carried - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("tower", ["clip", "dinov2"])
def test_the_graph_gives_patches_in_order(tower):
    vlm = stronger(tiny_vlm(tower=tower, layer=-1))
    assert compared(vlm, torch.float64, "mended") < 1e-3
    assert compared(vlm, torch.float32, "mended") < 1e-3
    assert compared(vlm, torch.float64, "as it is") > 0.1


def test_a_tower_without_class_token_stays_as_it_is():
    vlm = stronger(siglip())
    assert compared(vlm, torch.float64, "mended") < 1e-5


def test_the_widened_tower_fits_quantisation_and_heads():
    vlm = tiny_vlm(tower="clip")
    content = vision_file(vlm, images(), "test")
    matrices = {name: t.shape for name, t in content.tensors.items() if t.ndim == 2 and name.startswith("v.blk.")}
    assert all(shape[1] % 32 == 0 for shape in matrices.values())
    assert all(shape[1] != 64 for name, shape in matrices.items() if name.endswith("ffn_down.weight"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 4}, "MLP of depth 4"),
        ({"depth": 1}, "single layer"),
        ({"image_fit": "squash"}, "cannot squash"),
        ({"image_fit": "crop"}, "cannot crop"),
        ({"resample": "bilinear"}, "bilinear"),
        ({"layer": [-2, -1]}, "several layers"),
    ],
    ids=lambda value: str(value),
)
def test_what_llama_cpp_cannot_hold_is_named(options, said):
    depth = options.pop("depth", 2)
    with pytest.raises(RequestError, match=said):
        vision_file(tiny_vlm(depth=depth, **options), images(), "test")
