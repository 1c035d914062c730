"""A compiled block is one graph, whatever the packed sequences: nothing in it depends on their contents."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import SequenceLayout, pack
from olivine.model import attention
from olivine.model.attention import compile_layers, packed
from olivine.model.loss import labelled_loss
from olivine.records import Sample
from olivine.testing import tiny_vlm

# The compiler itself reads the gradients of tensors that have none.
pytestmark = pytest.mark.filterwarnings("ignore")


@torch.library.custom_op("olivine_tests::varlen", mutates_args={})
def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, longest: int) -> torch.Tensor:
    """An operation that is opaque to the compiler, like torch's kernel; it sums where the kernel attends."""
    return q + k.sum() + v.sum()


@_varlen.register_fake
def _(q, k, v, ends, longest):
    return torch.empty_like(q)


def _backward(ctx, grad):
    k, v = (grad.sum().to(grad.dtype).expand(shape).clone() for shape in ctx.shapes)
    return grad, k, v, None, None


_varlen.register_autograd(
    _backward, setup_context=lambda ctx, inputs, output: setattr(ctx, "shapes", [t.shape for t in inputs[1:3]])
)


def kernel(q, k, v, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa=False):
    return torch.ops.olivine_tests.varlen(q, k, v, ends_q, longest_q) + longest_k * 0


@pytest.fixture
def compiled(monkeypatch):
    """A model whose blocks are captured as graphs and run without code generation."""
    monkeypatch.setattr(attention, "KERNEL", kernel)
    monkeypatch.setattr(attention, "KERNEL_GROUPS_HEADS", True)
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **o: original(self, **{**o, "backend": "aot_eager"}))
    torch._dynamo.reset()
    counters.clear()
    vlm = tiny_vlm()
    compile_layers(vlm.layers, varlen=True)
    yield vlm
    torch._dynamo.reset()
    attention.AttentionInterface.register(attention.PACKED, attention.packed_attention)


def _sequences(independent: bool):
    """Return twenty varied sequences: of one or many samples, each one part or a shared part with continuations."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        examples = []
        for _ in range(draw.integers(1, 8)):
            lengths = draw.integers(2, 40, size=draw.integers(1, 6) if independent else 1)
            parts = tuple(
                Tokens(draw.integers(10, 600, size=n).tolist(), [False] + [True] * (n - 1)) for n in lengths.tolist()
            )
            examples.append(Example(Sample("s", (), None), parts))
        yield pack(examples, [], SequenceLayout(varlen=True, continuations=independent))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("independent", [False, True])
def test_twenty_packed_sequences_of_different_make_share_one_graph(compiled, independent, bf16):
    vlm = compiled
    vlm.model.train()
    losses = set()
    with packed(vlm.language), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for sequence in _sequences(independent):
            loss = labelled_loss(
                vlm.hidden_states(sequence, None), sequence.targets, vlm.model.lm_head, sequence.labelled
            )
            loss.backward()
            losses.add(float(loss))
    assert len(losses) == 20
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert counters["frames"]["total"] == counters["frames"]["ok"] == 1, "recompiled"
