"""Replaces torch's attention kernel on machines without a GPU: calls are counted, and computed span by span.

Imported by tests, and by the processes that a test starts.
"""

from collections import Counter

import torch
import torch.nn.functional as F

from olivine.model import attention

calls: Counter[str] = Counter()


def kernel(q, k, v, ends_q, ends_k, _longest_q, _longest_k, *, scale, window_size, enable_gqa=False):
    """Refuse what the real kernel refuses: dtypes other than half precision, and mixed ones."""
    assert window_size == (-1, 0)
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16, (q.dtype, k.dtype, v.dtype)
    calls["kernel"] += 1
    out = []
    for a, b, c, d in zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True):
        query, key, value = (state.transpose(0, 1).float() for state in (q[a:b], k[c:d], v[c:d]))
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(diagonal=int((d - c) - (b - a)))
        one = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        out.append(one.transpose(0, 1).to(q.dtype))
    return torch.cat(out)


def put_in_place(replace=setattr):
    """Replace the kernel and the checks of device and capability; nothing else changes."""
    asked = attention.why_not_varlen

    def why_not(config, device, dtype):
        return None if dtype == torch.bfloat16 else asked(config, device, dtype)

    replace(attention, "why_not_varlen", why_not)
    replace(attention, "KERNEL", kernel)
    replace(attention, "KERNEL_GROUPS_HEADS", True)
    by_groups = attention._grouped_attention

    def counted(*given):
        calls["groups"] += 1
        return by_groups(*given)

    replace(attention, "_grouped_attention", counted)
