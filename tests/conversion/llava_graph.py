"""llama.cpp's LLaVA graph of an mmproj file, in PyTorch: the class token behind the patches, row 0 dropped."""

import torch
import torch.nn.functional as F


def tensors_of(content, dtype=torch.float32):
    return {name: torch.from_numpy(values).to(dtype) for name, values in content.tensors.items()}


@torch.no_grad()
def features(tensors, pixels, *, heads, eps, blocks, patch, gelu, class_last=True):
    """The tower's states as the projector gets them: `[images, patches, width]`."""
    t = tensors
    bias = t.get("v.patch_embd.bias")
    x = F.conv2d(pixels, t["v.patch_embd.weight"], bias, stride=patch).flatten(2).transpose(1, 2)
    if "v.class_embd" in t:
        row = t["v.class_embd"].expand(len(x), 1, -1)
        x = torch.cat([x, row] if class_last else [row, x], dim=1)
    x = x + t["v.position_embd.weight"]
    width = x.shape[-1]
    if "v.pre_ln.weight" in t:
        x = F.layer_norm(x, (width,), t["v.pre_ln.weight"], t["v.pre_ln.bias"], eps)
    for number in range(blocks):
        x = _block(t, f"v.blk.{number}.", x, heads, eps, gelu)
    return x[:, 1:] if "v.class_embd" in t else x


def _block(t, at, x, heads, eps, gelu):
    width = x.shape[-1]

    def linear(name, y):
        return F.linear(y, t[f"{at}{name}.weight"], t[f"{at}{name}.bias"])

    def norm(name, y):
        return F.layer_norm(y, (width,), t[f"{at}{name}.weight"], t[f"{at}{name}.bias"], eps)

    n = norm("ln1", x)
    q, k, v = (linear(name, n).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("attn_q", "attn_k", "attn_v"))
    x = x + linear("attn_out", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    inner = linear("ffn_up", norm("ln2", x))
    active = F.gelu(inner, approximate="tanh") if gelu else inner * torch.sigmoid(1.702 * inner)
    return x + linear("ffn_down", active)
