"""How many bytes a language model's block saves for its backward pass, read from PyTorch's graph without computing.

The sum over a whole step is taken in `cost.estimate`.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModel

#: Two lengths determine a line: bytes per token, and a constant.
_SHORT, _LONG = 1024, 2048


def saved_bytes_per_token(config: Any, *, trains: bool, bf16: bool) -> float:
    """Return the bytes that one block saves per token of a packed sequence until the backward pass.

    One block with the model's widths runs on fake tensors, which have shapes and no content, under the autocast that
    training uses; attention saves what a kernel without a score matrix does.

    Args:
        config: the language model's configuration.
        trains: whether its weights train; a frozen model is kept in bf16 and saves less.
        bf16: the recipe's precision.
    """
    return (_saved_bytes(config, _LONG, trains, bf16) - _saved_bytes(config, _SHORT, trains, bf16)) / (_LONG - _SHORT)


def _whole_sequence(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Run causal attention over the packed sequence as one; no mask is made, whose square would be counted as saved."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=options.get("scaling"))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("olivine_whole_sequence", _whole_sequence)


def _saved_bytes(config: Any, tokens: int, trains: bool, bf16: bool) -> int:
    one_block = copy.deepcopy(config)
    one_block.num_hidden_layers = 1
    one_block.vocab_size = 64
    one_block.pad_token_id = None
    dtype = torch.bfloat16 if bf16 and not trains else torch.float32
    seen: dict[int, int] = {}
    alive: list[Tensor] = []  # the address of a freed storage may be reused

    def note(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        seen[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with FakeTensorMode():
        model = AutoModel.from_config(one_block, attn_implementation="olivine_whole_sequence")
        for parameter in model.parameters():
            parameter.requires_grad_(trains)
            parameter.data = parameter.data.to(dtype)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        embedded = torch.zeros(1, tokens, config.hidden_size, dtype=dtype, requires_grad=True)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            model(inputs_embeds=embedded, position_ids=torch.arange(tokens)[None], use_cache=False)
    return sum(size for storage, size in seen.items() if storage not in own)
