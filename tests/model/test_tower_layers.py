"""A tower runs only up to the selected layer, gives the same features as a full pass, and keeps all of its layers."""

import pytest
import torch
from transformers import AutoModel, CLIPVisionConfig, Dinov2Config

from olivine.model.tower_layers import _layers, hidden_state
from olivine.model.vlm import patch_features

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
CONFIGS = {
    "clip": CLIPVisionConfig(intermediate_size=64, **SHAPE),
    "dinov2": Dinov2Config(mlp_ratio=2, **SHAPE),
}


@pytest.fixture(params=CONFIGS)
def tower(request):
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIGS[request.param]).eval()


@pytest.mark.parametrize("layer", [*range(5), *range(-5, 0)])
def test_the_same_bits_as_a_full_pass(tower, layer):
    pixels = torch.randn(2, 3, 28, 28)
    names = list(tower.state_dict())
    whole = tower(pixels, output_hidden_states=True).hidden_states[layer]
    assert torch.equal(hidden_state(tower, layer, pixels), whole)
    assert list(tower.state_dict()) == names, "all layers are kept, in their order"


def _called(tower):
    called = []
    _, _, layers = _layers(tower, 4)
    for number, block in enumerate(layers):
        block.register_forward_hook(lambda *_, number=number: called.append(number))
    for name, module in tower.named_modules():
        if name.endswith(("post_layernorm",)) or name == "layernorm":
            module.register_forward_hook(lambda *_: called.append("norm"))
    return called


@pytest.mark.parametrize(("layer", "run"), [(-2, [0, 1, 2]), (-4, [0]), (2, [0, 1]), (-1, [0, 1, 2, 3, "norm"])])
def test_layers_after_it_do_not_run(tower, layer, run):
    called = _called(tower)
    hidden_state(tower, layer, torch.randn(1, 3, 28, 28))
    assert called == run


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_tower_that_trains_has_the_same_gradients(tower, checkpointing):
    tower.train()
    if checkpointing:
        tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pixels = torch.randn(2, 3, 28, 28)
    tower(pixels, output_hidden_states=True).hidden_states[-2].square().sum().backward()
    whole = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    tower.zero_grad(set_to_none=True)
    hidden_state(tower, -2, pixels).square().sum().backward()
    found = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_failing_pass_leaves_the_tower_complete(tower):
    names = list(tower.state_dict())
    with pytest.raises((ValueError, RuntimeError), match="channel"):
        hidden_state(tower, -2, torch.randn(1, 5, 28, 28))
    assert list(tower.state_dict()) == names


def test_in_half_precision_a_frozen_tower_runs_outside_autocast(tower):
    pixels = torch.randn(2, 3, 28, 28)
    exact = patch_features(tower, -2, pixels)
    tower.to(torch.bfloat16).requires_grad_(False)
    alone = patch_features(tower, -2, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = patch_features(tower, -2, pixels)
        cast = hidden_state(tower, -2, pixels.bfloat16())[:, 1:]
        tower.requires_grad_(True)
        trained = patch_features(tower, -2, pixels)
    assert torch.equal(inside, alone)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(trained, cast), "a trainable tower stays under autocast"
    torch.testing.assert_close(inside.float(), exact, rtol=0.1, atol=0.1)
