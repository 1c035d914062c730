"""Savings do not change what is learnt: checkpointed activations, attention without padding."""

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.data.batches import BatchMaker
from olivine.data.llava_json import parse_item
from olivine.data.packing import pack, padding_sequence
from olivine.files import read_json
from olivine.model.attention import packed_attention, varlen_attention, why_not_varlen
from olivine.recipe import DataRecipe
from olivine.training.run import train


@pytest.mark.parametrize("parts", [["connector"], ["vision", "connector", "language"]])
def test_checkpointed_activations_give_the_same_bits_and_run_layers_twice(dataset, tmp_path, monkeypatch, parts):
    """Also with a frozen language model, whose activations the connector's gradient still needs."""
    from transformers.models.gemma.modeling_gemma import GemmaMLP

    calls = []
    original = GemmaMLP.forward
    monkeypatch.setattr(GemmaMLP, "forward", lambda self, x: calls.append(1) or original(self, x))
    stages = [{"name": "a", "train": parts, "steps": 3, "held_out": 0}]
    plain = weights(train(make_recipe(dataset, tmp_path / "plain", stages=stages), QUIET))
    once = len(calls)
    optimizer = {"checkpoint_activations": True}
    spared = weights(train(make_recipe(dataset, tmp_path / "spared", stages=stages, optimizer=optimizer), QUIET))
    assert same(plain, spared)
    assert len(calls) == 3 * once, "once without checkpointing, and twice with it"


def varlen_by_hand(q, k, v, ends_q, ends_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """Compute what the kernel documents, span by span: causal, counted from the last query and the last key."""
    assert window_size == (-1, 0)
    assert enable_gqa
    spans_q, spans_k = (list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)) for ends in (ends_q, ends_k))
    assert longest_q == max(b - a for a, b in spans_q)
    assert longest_k == max(b - a for a, b in spans_k)
    out = []
    for (a, b), (c, d) in zip(spans_q, spans_k, strict=True):
        query, key, value = (state.transpose(0, 1) for state in (q[a:b], k[c:d], v[c:d]))
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(diagonal=(d - c) - (b - a))
        one = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)
        out.append(one.transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("turns", ["together", "independent"])
def test_spans_agree_with_groups(vlm, dataset, turns):
    items = read_json(dataset)
    samples = [parse_item(item, number) for number, item in enumerate(items)]
    source = DataRecipe.model_validate({"json": dataset, "images": dataset.parent / "images", "turns": turns})
    maker = BatchMaker(samples, source, vlm.encoder(), vlm.transform, sequence_tokens=160)
    sequences = maker.make([(0, number) for number in range(12)]).sequences
    assert any((sequence.spans.gather is not None) == (turns == "independent") for sequence in sequences)
    for sequence in [*sequences, padding_sequence()]:
        torch.manual_seed(0)
        query = torch.randn(1, 4, len(sequence.ids), 16)
        key, value = torch.randn(2, 1, 2, len(sequence.ids), 16)
        grouped, _ = packed_attention(None, query, key, value, None, scaling=0.3, packed_groups=sequence.groups)
        spans = varlen_attention(query, key, value, sequence.spans, 0.3, kernel=varlen_by_hand)
        torch.testing.assert_close(grouped, spans)


def test_the_kernel_without_padding_is_not_used_on_the_cpu(vlm):
    assert "cpu" in why_not_varlen(vlm.language.config, torch.device("cpu"), torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_kernel_without_padding_agrees_within_bf16(vlm, dataset):
    encoder = vlm.encoder()
    examples = [encoder.example(parse_item(item, 0), independent=True) for item in read_json(dataset)[:8]]
    sequence = pack(examples, []).to(torch.device("cuda"))
    query = torch.randn(1, 4, len(sequence.ids), 64, device="cuda", dtype=torch.bfloat16)
    key, value = torch.randn(2, 1, 2, len(sequence.ids), 64, device="cuda", dtype=torch.bfloat16)
    assert why_not_varlen(vlm.language.config, torch.device("cuda"), torch.bfloat16) is None
    grouped, _ = packed_attention(None, query, key, value, None, packed_groups=sequence.groups)
    spans, _ = packed_attention(None, query, key, value, None, packed_spans=sequence.spans)
    torch.testing.assert_close(grouped, spans, atol=2e-2, rtol=2e-2)
