"""The tiny language models' shapes and initial weights: an ordinary `GemmaForCausalLM`, initialised to learn fast.

Its training data are in `curriculum`, the training in `language`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GemmaConfig, GemmaForCausalLM

#: How far back heads of the first layer attend initially: colour, pattern and size stand this many words before an
#: object's name, and the words for its state or place begin up to three after it ("ball at the top").
LOOKS_BACK = (1, 2, 3)
#: The first coordinate shared by all token embeddings, in standard deviations of the others; the margin of the attended
#: position before the softmax; how many of a head's rotary pairs (the fastest) encode it; the factor on the same heads'
#: random weights.
_IN_COMMON, _SCORE, _TURNING, _CONTENT = 3.0, 26.0, 6, 0.1


@dataclass(frozen=True, slots=True)
class Size:
    """A language model's shape."""

    hidden: int
    layers: int
    intermediate: int
    heads: int


#: Of one width, so that the large one can be expanded from the small one.
SIZES = {"small": Size(128, 4, 448, 4), "large": Size(128, 8, 640, 4)}


def gemma_config(size: Size, vocabulary: int) -> GemmaConfig:
    """Return Gemma's architecture at a tiny size, with as many key-value heads as heads, as in Gemma-7B."""
    return GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=32,
        max_position_embeddings=4096,
        # transformers' 0.02 is for widths of thousands: at this one all queries and keys would start nearly equal.
        initializer_range=size.hidden**-0.5,
    )


@torch.no_grad()
def scaled_init(model: GemmaForCausalLM) -> None:
    """Scale down the matrices that write into the residual stream, by the number of layers (GPT-2's initialisation)."""
    config = model.config
    share = (2 * config.num_hidden_layers) ** -0.5
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight *= share
        layer.mlp.down_proj.weight *= share * (config.hidden_size / config.intermediate_size) ** 0.5


@torch.no_grad()
def begin_looking_back(model: GemmaForCausalLM, distances: Sequence[int]) -> None:
    """Initialise heads of the first layer to attend to the token this many positions before, one head per distance.

    An induction head for "the ball" needs each token to know the one before it; at this size that takes longer to
    learn than everything else, and often does not emerge at all within minutes. This is the smeared keys of
    arXiv:2209.11895 as an initialisation: all embeddings share the first coordinate, and these heads' queries and keys
    respond to it with one vector, the query's rotated back by this many steps of the rotary embedding.
    """
    config = model.config
    embedded = model.model.embed_tokens.weight
    first = _IN_COMMON * config.hidden_size**-0.5
    embedded[:, 0] = first
    # Its value after the first norm, whose output has a mean square of one.
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
    """Return a larger model with the smaller one's logits, up to rounding (Net2Net, arXiv:1511.05641).

    Each layer is followed by copies of it, and wider layers get new units; neither has an effect at first, since their
    matrices that write into the residual stream start at zero.

    Args:
        smaller: a model of the same width and number of heads, with fewer layers and none wider.
        size: the new shape; its layers are a multiple of the smaller model's.

    Raises:
        ValueError: the shapes are not compatible.
    """
    config = smaller.config
    copies, rest = divmod(size.layers, config.num_hidden_layers)
    wider = size.intermediate - config.intermediate_size
    same = (config.hidden_size, config.num_attention_heads) == (size.hidden, size.heads)
    if not same or rest or not copies or wider < 0:
        raise ValueError(f"{size} cannot be expanded from {config.num_hidden_layers} layers of {config.hidden_size}.")
    larger = GemmaForCausalLM(gemma_config(size, config.vocab_size))
    larger.model.embed_tokens.weight.copy_(smaller.model.embed_tokens.weight)
    larger.model.norm.weight.copy_(smaller.model.norm.weight)
    for index, layer in enumerate(larger.model.layers):
        old = smaller.model.layers[index // copies]
        layer.self_attn.load_state_dict(old.self_attn.state_dict())
        for name in ("input_layernorm", "post_attention_layernorm"):
            getattr(layer, name).load_state_dict(getattr(old, name).state_dict())
        for name in ("gate_proj", "up_proj"):
            getattr(layer.mlp, name).weight[: config.intermediate_size] = getattr(old.mlp, name).weight
        layer.mlp.down_proj.weight.zero_()
        if index % copies:
            layer.self_attn.o_proj.weight.zero_()
        else:
            layer.mlp.down_proj.weight[:, : config.intermediate_size] = old.mlp.down_proj.weight
    return larger
