"""Sliding windows and soft caps: every attention implementation agrees with a plain formula."""

import pytest
import torch

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import SequenceLayout, pack
from olivine.data.visibility import Spans
from olivine.errors import RunError
from olivine.model.attention import choose_attention, packed_attention, varlen_attention
from olivine.model.packed_masks import PackedMasks, visible
from olivine.model.position_attention import CachedPositions, position_attention
from olivine.records import Sample

SAMPLE = Sample("a", (), None)
#: One conversation, one shared part with three continuations, and a sample shorter than any window.
PARTS = ((40,), (30, 9, 20, 4), (3,))
WINDOWS = [None, 1, 8, 35]


def examples():
    return [Example(SAMPLE, tuple(Tokens([5] * n, [False] * n) for n in parts)) for parts in PARTS]


def states(tokens, heads, *, device="cpu", dtype=torch.float32):
    draw = torch.Generator().manual_seed(tokens + heads)
    shapes = ((4, tokens), (heads, tokens), (heads, tokens))
    return [torch.randn(1, *shape, 16, generator=draw).to(device, dtype) for shape in shapes]


def by_formula(query, key, value, row, window, cap):
    """Compute attention with the full score matrix, masked to the own sample, earlier tokens and the window."""
    lengths = [(number, which, n) for number, parts in enumerate(PARTS) for which, n in enumerate(parts)]
    example = [number for number, _, n in lengths for _ in range(n)]
    part = [which for _, which, n in lengths for _ in range(n)]
    example, part = torch.tensor(example), torch.tensor(part)
    place = torch.arange(len(example))
    same = (example[:, None] == example) & ((part[:, None] == part) | (part == 0)[None])
    seen = same & (place[:, None] >= place)
    if window is not None:
        seen &= row.positions[:, None] - row.positions < window
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.mT * 0.3
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("window", WINDOWS)
def test_groups_agree_with_the_formula(window, cap, heads):
    row = pack(examples(), [])
    given = states(len(row.ids), heads)
    by_group = packed_attention(
        None, *given, None, scaling=0.3, sliding_window=window, softcap=cap,
        packed_groups=row.groups, packed_masks=PackedMasks(row.positions),
    )[0]  # fmt: skip
    torch.testing.assert_close(by_group, by_formula(*given, row, window, cap))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", WINDOWS)
def test_flex_attention_agrees_with_the_formula(window, heads):
    """Forward only: torch's flex_attention has no backward pass on a CPU."""
    row = pack(examples(), [], SequenceLayout(varlen=True))
    given = states(len(row.ids), heads)
    flexed = packed_attention(
        None, *given, None, scaling=0.3, sliding_window=window, softcap=1.5,
        packed_spans=row.spans, packed_masks=PackedMasks(row.positions),
    )[0]  # fmt: skip
    torch.testing.assert_close(flexed, by_formula(*given, row, window, 1.5))


def varlen_by_hand(q, k, v, ends_q, ends_k, _longest_q, _longest_k, *, scale, window_size, enable_gqa=False):
    """Compute what the kernel documents, span by span: causal and windowed, counted from the last query and key."""
    out = []
    for a, b, c, d in zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True):
        query, key, value = (state.transpose(0, 1) for state in (q[a:b], k[c:d], v[c:d]))
        last = int((d - c) - (b - a))
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(diagonal=last)
        if window_size[0] >= 0:
            mask = mask.triu(diagonal=last - window_size[0])
        attend = torch.nn.functional.scaled_dot_product_attention
        out.append(attend(query, key, value, attn_mask=mask, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", WINDOWS)
def test_spans_agree_with_the_formula(window, heads):
    row = pack(examples(), [], SequenceLayout(varlen=True))
    given = states(len(row.ids), heads)
    spans = varlen_attention(*given, row.spans, 0.3, kernel=varlen_by_hand, window=window)
    torch.testing.assert_close(spans, by_formula(*given, row, window, None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("window", WINDOWS)
def test_on_a_gpu_kernels_and_their_gradients_agree_within_bf16(window, cap):
    row = pack(examples(), [], SequenceLayout(varlen=True)).to(torch.device("cuda"))
    grouped = pack(examples(), []).to(torch.device("cuda"))
    found = []
    for one in (row, grouped):
        given = [s.requires_grad_() for s in states(len(row.ids), 2, device="cuda", dtype=torch.bfloat16)]
        masks = PackedMasks(one.positions)
        out = packed_attention(
            None, *given, None, scaling=0.3, sliding_window=window, softcap=cap,
            packed_groups=one.groups, packed_spans=one.spans, packed_masks=masks,
        )[0]  # fmt: skip
        found.append([out, *torch.autograd.grad(out.float().square().sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-2, rtol=5e-2)


def test_padding_between_a_question_and_its_answer_pushes_nothing_out_of_a_window():
    """Three tokens, five of padding, one new token: under a window of four it sees all four real ones."""
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 1]])
    seen = CachedPositions(torch.tensor([[3]]), mask).mask(4)
    assert seen[0, 0, 0].tolist() == [bool(one) for one in mask[0]]
    assert CachedPositions(torch.tensor([[3]]), mask).mask(2)[0, 0, 0].tolist() == [
        False,
        False,
        True,
        *[False] * 5,
        True,
    ]


def test_an_option_that_attention_does_not_compute_is_refused():
    row = pack(examples(), [])
    given = states(len(row.ids), 2)
    with pytest.raises(RunError, match="asks for s_aux"):
        packed_attention(None, *given, None, packed_groups=row.groups, s_aux=torch.zeros(4))
    with pytest.raises(RunError, match="asks for s_aux"):
        position_attention(
            None,
            *given,
            None,
            cached_positions=CachedPositions(row.positions[None], row.ids[None]),
            s_aux=torch.zeros(4),
        )


def test_capped_scores_use_flex_attention_on_a_gpu_and_groups_on_a_cpu():
    class Config:
        attn_logit_softcapping, hidden_size, num_attention_heads = 50.0, 64, 4

    on_gpu = choose_attention(Config(), torch.device("cuda"), torch.bfloat16)
    assert on_gpu.by_spans
    assert "flex_attention" in str(on_gpu)
    on_cpu = choose_attention(Config(), torch.device("cpu"), torch.float32)
    assert not on_cpu.by_spans
    assert "by groups" in str(on_cpu)


def test_visibility_is_derived_from_spans():
    spans = Spans(torch.tensor([0, 2, 3, 5]), torch.tensor([0, 2, 5, 9]), None, 2, 4)
    positions = torch.tensor([0, 1, 2, 2, 3])
    place = torch.arange(5)
    seen = visible(spans, positions, None)(place, place, place[:, None], place[None])
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
