"""Attention over packed sequences alone; `test_parity` compares it within whole models."""

import torch
import torch.nn.functional as F

from olivine.data.visibility import AttentionGroup
from olivine.model.attention import packed_attention


def _group(tokens: int) -> AttentionGroup:
    token_positions = torch.arange(tokens)
    return AttentionGroup(token_positions[None], token_positions[None], None, token_positions, token_positions)


def test_on_a_cpu_attention_is_computed_in_fp32_even_under_autocast() -> None:
    query, key, value = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        attended, _ = packed_attention(torch.nn.Module(), query, key, value, None, packed_groups=(_group(9),))
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    assert attended.dtype == torch.bfloat16
    torch.testing.assert_close(attended, exact.transpose(1, 2).bfloat16(), rtol=0, atol=0)
