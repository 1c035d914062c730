"""The tiny language models' shapes and initial weights: an ordinary `GemmaForCausalLM`, made ready to learn soon.

What it is trained on lies in `curriculum`, how in `language`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GemmaConfig, GemmaForCausalLM

#: The first layer's heads that begin by looking back, by how far: colour, pattern and size stand this many words before
#: an object's name, and what tells its state or place begins three behind it ("ball at the top", "box that is open").
LOOKS_BACK = (1, 2, 3)
#: The first coordinate that all tokens begin with, in standard deviations of the others; by how much the place looked
#: back to leads others before the softmax; how many of a head's pairs, the fastest-turning ones, say so; what is
#: left of the same heads' random weights.
_IN_COMMON, _SCORE, _TURNING, _CONTENT = 3.0, 26.0, 6, 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """A language model's shape."""

    hidden: int
    layers: int
    intermediate: int
    heads: int


#: Of one width, so that the large one can be grown from the small one.
SIZES = {"small": Size(128, 4, 448, 4), "large": Size(128, 8, 640, 4)}


def gemma_config(size: Size, vocabulary: int) -> GemmaConfig:
    """Gemma's architecture at a tiny size, with as many key-value heads as heads, as Gemma-7B has."""
    return GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=32,
        max_position_embeddings=4096,
        # transformers' 0.02 suits widths of thousands: at this one queries and keys would begin all but equal.
        initializer_range=size.hidden**-0.5,
    )


@torch.no_grad()
def scaled_init(model: GemmaForCausalLM) -> None:
    """GPT-2's initialisation of what layers add to the residual stream: smaller, the more of them add to it."""
    config = model.config
    share = (2 * config.num_hidden_layers) ** -0.5
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= share
        layer.mlp.down_proj.weight *= share * (config.hidden_size / config.intermediate_size) ** 0.5


@torch.no_grad()
def begin_looking_back(model: GemmaForCausalLM, distances: Sequence[int]) -> None:
    """Let the first heads of the first layer attend, at first, to the token this many places before: one head each.

    Who learns to look back for "the ball" must first have found out, in each token, what stands before it; at this
    size that takes longer than all the rest, and seldom happens at all in minutes. After the smeared keys of
    arXiv:2209.11895, as an initialisation: every token begins with the same first coordinate, these heads' queries
    and keys with one vector in answer to it, the query's turned back by this many of the rotary embedding's steps.
    """
    config = model.config
    embedded = model.model.embed_tokens.weight
    first = _IN_COMMON * config.hidden_size**-0.5
    embedded[:, 0] = first
    # What is left of it after the first norm, whose output has a mean square of one.
    seen = first / float(embedded.square().mean(-1).sqrt().mean())
    half = config.head_dim // 2
    theta = config.rope_parameters["rope_theta"]
    turns = theta ** (-torch.arange(_TURNING) / half)
    strength = (_SCORE * config.head_dim**0.5 / _TURNING) ** 0.5 / seen
    attention = model.model.layers[0].self_attn
    for head, distance in enumerate(distances):
        rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
        for matrix, angles in ((attention.q_proj.weight, -distance * turns), (attention.k_proj.weight, 0 * turns)):
            matrix[rows] *= _CONTENT
            start = head * config.head_dim
            matrix[start : start + _TURNING, 0] = strength * angles.cos()
            matrix[start + half : start + half + _TURNING, 0] = strength * angles.sin()


@torch.no_grad()
def expanded(smaller: GemmaForCausalLM, size: Size) -> GemmaForCausalLM:
    """A larger model with the smaller one's logits, up to rounding, that can learn more.

    Net2Net's idea (arXiv:1511.05641): behind each layer stand copies of it that add nothing yet, and what is new in a
    wider layer leads nowhere yet, for the matrices that write into the residual stream begin at zero there.

    Args:
        smaller: of the same width and number of heads, with fewer layers and no wider ones.
        size: the new shape; its layers are a multiple of the smaller model's.

    Raises:
        ValueError: the shapes do not allow it.
    """
    config = smaller.config
    copies, rest = divmod(size.layers, config.num_hidden_layers)
    wider = size.intermediate - config.intermediate_size
    same = (config.hidden_size, config.num_attention_heads) == (size.hidden, size.heads)
    if not same or rest or not copies or wider < 0:
        raise ValueError(f"{size} cannot be grown from {config.num_hidden_layers} layers of {config.hidden_size}.")
    larger = GemmaForCausalLM(gemma_config(size, config.vocab_size))
    larger.model.embed_tokens.weight.copy_(smaller.model.embed_tokens.weight)
    larger.model.norm.weight.copy_(smaller.model.norm.weight)
    for place, layer in enumerate(larger.model.layers):
        old = smaller.model.layers[place // copies]
        layer.self_attn.load_state_dict(old.self_attn.state_dict())
        for name in ("input_layernorm", "post_attention_layernorm"):
            getattr(layer, name).load_state_dict(getattr(old, name).state_dict())
        for name in ("gate_proj", "up_proj"):
            getattr(layer.mlp, name).weight[: config.intermediate_size] = getattr(old.mlp, name).weight
        layer.mlp.down_proj.weight.zero_()
        if place % copies:
            layer.self_attn.o_proj.weight.zero_()
        else:
            layer.mlp.down_proj.weight[:, : config.intermediate_size] = old.mlp.down_proj.weight
    return larger
