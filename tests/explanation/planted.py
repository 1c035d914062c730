"""A model that by construction reads one image token, and cases of tiny random models."""

import torch
from PIL import Image

from olivine.explanation.case import Case
from olivine.explanation.explainer import Asked, Explainer
from olivine.explanation.token_grid import TokenGrid
from olivine.testing import tiny_vlm

ANSWER = 7
#: Channels: what attention looks for, what it copies, what asks, where the copy goes, what steadies the norms.
MARK, VALUE, ASK, COPY, STEADY = range(5)


@torch.no_grad()
def planted_case(at, side=4, seed=0):
    """A case whose answer is read off image token `at`: attention finds its mark and copies its value to the answer."""
    vlm = tiny_vlm(tower="clip")
    vlm.model.requires_grad_(False)
    for weight in vlm.part("language").values():
        weight.zero_()
    table = vlm.model.get_input_embeddings().weight
    table[:, ASK] = 1.0
    table[ANSWER, COPY] = 1.0
    attention = vlm.layers[0].self_attn
    slow = vlm.language.config.head_dim // 2 - 1  # the channel that position rotates least
    attention.q_proj.weight[slow, ASK] = 12.0
    attention.k_proj.weight[slow, MARK] = 12.0
    attention.v_proj.weight[0, VALUE] = 1.0
    attention.o_proj.weight[COPY, 0] = 1.0
    draw = torch.Generator().manual_seed(seed)
    count = side * side
    features = torch.zeros(count, vlm.language.config.hidden_size)
    features[:, VALUE] = 0.2 * torch.randn(count, generator=draw)
    features[:, STEADY] = 1.0
    features[at, MARK], features[at, VALUE] = 1.0, 1.0
    ids = torch.tensor([3, *[vlm.model.config.image_token_id] * count, 9, 11])
    positions = torch.arange(1, 1 + count)
    baseline = features.mean(dim=0).expand_as(features)
    return Case(vlm, ids, positions, (len(ids) - 1,), (ANSWER,), features, baseline, TokenGrid(side), "planted")


def random_case(vlm, seed=0, answer=(5, 6), tokens=(0,), **options):
    """A case of a random image and a fixed answer."""
    explainer = Explainer(vlm, **options)
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 40, 3), generator=draw, dtype=torch.uint8).numpy()
    features = explainer.features(Image.fromarray(pixels))
    prefix, text = vlm.encoder().prompt("what color is it?", True)
    asked = Asked((*prefix, *text), (1, 2), answer, features, f"question {seed}")
    return explainer.case(asked, tokens)
