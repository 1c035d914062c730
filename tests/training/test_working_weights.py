"""bf16 copies of trained weights: the losses of autocast over fp32 weights, fewer bytes, and none left at the end."""

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from test_kernel_taken import STAGES
from tiny_runs import QUIET, interrupt_at, make_recipe, same, weights
from torch.utils._python_dispatch import TorchDispatchMode

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import pack
from olivine.distributed import Processes
from olivine.files import read_json_lines
from olivine.model import loss as loss_module
from olivine.model.attention import packed
from olivine.model.loss import labelled_loss
from olivine.records import Sample
from olivine.testing import tiny_vlm
from olivine.training import stage as stage_module
from olivine.training.run import train
from olivine.training.trained_weights import TRAINED
from olivine.training.working_weights import WorkingWeights, keeps_working_weights


def _on(monkeypatch):
    monkeypatch.setattr(stage_module, "keeps_working_weights", lambda precision, _: precision == "bf16")


def _recipe(dataset, output, stage, **optimizer):
    stages = [{"name": "a", "steps": 4, "lr": 1e-3, "held_out": 2, "validate_every": 2, **stage}]
    stages.append({"name": "b", "train": ["connector"], "steps": 1, "held_out": 0})
    return make_recipe(dataset, output, stages=stages, optimizer={"precision": "bf16", **optimizer})


def _logged(run):
    return [
        sequence
        for sequence in read_json_lines(run / "a" / "metrics.jsonl")
        if "loss" in sequence or "held_out_loss" in sequence
    ]


@pytest.mark.parametrize("name", STAGES)
def test_a_training_learns_the_same(dataset, tmp_path, monkeypatch, name):
    if name == "lora":
        pytest.importorskip("peft")
    before = _recipe(dataset, tmp_path / "before", STAGES[name])
    train(before, QUIET)
    _on(monkeypatch)
    made = []
    original = WorkingWeights.__init__
    monkeypatch.setattr(WorkingWeights, "__init__", lambda self, *given: made.append(self) or original(self, *given))
    train(_recipe(dataset, tmp_path / "after", STAGES[name]), QUIET)
    assert len(made) == 2, "each stage had its own"
    for old, new in zip(_logged(tmp_path / "before"), _logged(tmp_path / "after"), strict=True):
        for key in {"loss", "grad_norm", "held_out_loss"} & old.keys():
            # Head and token table add to one weight in another order: the last bits differ, which bf16 may round
            # differently.
            assert new[key] == pytest.approx(old[key], rel=2e-4 if name != "stage 1" else 0), key
    if name != "lora":
        old, new = (load_file(tmp_path / run / "a" / TRAINED) for run in ("before", "after"))
        assert old.keys() == new.keys()
        assert {tensor.dtype for tensor in new.values()} == {torch.float32}
    for old, new in zip(*(weights(tmp_path / r / "a/checkpoint").values() for r in ("before", "after")), strict=True):
        torch.testing.assert_close(old, new, rtol=2e-2, atol=2e-3)


def test_a_stopped_run_ends_in_the_same_bits(dataset, tmp_path, monkeypatch):
    _on(monkeypatch)
    train(_recipe(dataset, tmp_path / "whole", STAGES["stage 2"]), QUIET)

    def fail():
        raise KeyboardInterrupt

    stages = {**STAGES["stage 2"], "save_every": 1}
    interrupt_at(monkeypatch, 2, fail)
    with pytest.raises(KeyboardInterrupt):
        train(_recipe(dataset, tmp_path / "stopped", stages), QUIET)
    assert any((tmp_path / "stopped/a/resume").iterdir())
    train(_recipe(dataset, tmp_path / "stopped", stages), QUIET)
    a, b = (load_file(tmp_path / run / "a" / TRAINED) for run in ("whole", "stopped"))
    assert same(a, b)


class Bytes(TorchDispatchMode):
    """Counts by operation the bytes read and written by operations on tensors as large as a weight."""

    def __init__(self, sizes) -> None:
        super().__init__()
        self.sizes, self.moved = sizes, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        if name in ("t", "detach", "transpose.int", "view", "_unsafe_view", "permute", "alias", "mm", "addmm"):
            # A matrix product reads its weight or writes its gradient in both cases; the gradient's bytes are counted
            # below.
            inputs = ()
        else:
            inputs = [a for a in args if isinstance(a, torch.Tensor) and a.layout == torch.strided]
        views = ("t", "detach", "transpose.int", "view", "_unsafe_view", "permute", "alias")
        made = [out] if isinstance(out, torch.Tensor) and out.layout == torch.strided and name not in views else []
        for tensor in [*inputs, *made]:
            if tensor.numel() in self.sizes:
                self.moved[name] += tensor.nbytes
        return out


def _sequence(draw, tokens=23):  # a prime, so that no hidden state is as large as a weight
    ids = torch.randint(10, 600, (tokens,), generator=draw).tolist()
    return pack([Example(Sample("s", (), None), (Tokens(ids, [False] + [True] * (tokens - 1)),))], [])


def _backward(vlm, sequences, mode=None):
    with torch.autocast("cpu", torch.bfloat16), packed(vlm.language):
        for number, sequence in enumerate(sequences):
            loss = labelled_loss(
                vlm.hidden_states(sequence, None), sequence.targets, vlm.model.lm_head, sequence.labelled
            )
            if mode is not None and number == len(sequences) - 1:
                with mode:
                    loss.backward()
            else:
                loss.backward()


def _model():
    torch.manual_seed(0)
    vlm = tiny_vlm()
    vlm.model.requires_grad_(False)
    trained = vlm.part("language")
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return vlm, trained


def test_bytes_moved_over_gradients():
    """20 bytes per weight and sequence for linear layers without copies, 12 with; 16 more for embeddings without."""
    moved = {}
    for copies in (False, True):
        vlm, trained = _model()
        if copies:
            WorkingWeights(vlm.model, trained.values())
        matrices = [p for p in trained.values() if p.ndim == 2]
        draw = torch.Generator().manual_seed(1)
        counted = Bytes({p.numel() for p in matrices})
        _backward(vlm, [_sequence(draw), _sequence(draw)], counted)
        table = vlm.model.get_input_embeddings().weight.numel()
        linear = sum(p.numel() for p in matrices) - table
        moved[copies] = (sum(counted.moved.values()), linear, table)
    before, linear, table = moved[False]
    # A product's result 2; cast 2 + 4; added 4 + 4 + 4. Of the tied table also the embeddings' 4, and both added, 12.
    assert before == pytest.approx(20 * linear + 36 * table, rel=0.02)
    after, *_ = moved[True]
    # A product's result 2; added 2 + 4 + 4. The rows read from the token table count as one pass over it.
    assert after == pytest.approx(12 * linear + (12 + 8) * table, rel=0.02)


def test_gradients_are_those_of_autocast():
    found = []
    for copies in (False, True):
        vlm, trained = _model()
        working = WorkingWeights(vlm.model, trained.values()) if copies else None
        draw = torch.Generator().manual_seed(1)
        _backward(vlm, [_sequence(draw), _sequence(draw), _sequence(draw)])
        if working is not None:
            assert {p.dtype for n, p in vlm.model.named_parameters() if "_proj" in n and "language" in n} == {
                torch.bfloat16
            }
            working.remove()
        assert all(p is trained[n] for n, p in vlm.part("language").items())
        found.append({name: parameter.grad for name, parameter in trained.items()})
    table = next(name for name in found[0] if "embed_tokens" in name)
    for name, old in found[0].items():
        assert found[1][name].dtype == torch.float32
        if name == table:
            torch.testing.assert_close(found[1][name], old, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(found[1][name], old), name


def test_the_padding_row_has_no_gradient_of_embeddings():
    for copies in (False, True):
        vlm, _ = _model()
        table = vlm.model.get_input_embeddings()
        table.padding_idx = 11
        vlm.model.lm_head.weight = torch.nn.Parameter(table.weight.detach().clone(), requires_grad=False)
        trained = vlm.part("language")
        if copies:
            WorkingWeights(vlm.model, trained.values())
        sequence = pack([Example(Sample("s", (), None), (Tokens([11, 12, 13, 12], [False, True, True, True]),))], [])
        _backward(vlm, [sequence])
        grad = next(p.grad for n, p in trained.items() if "embed_tokens" in n)
        assert not grad[11].any()
        assert grad[12].any()
        assert not grad[14].any()


def test_a_head_in_chunks_adds_its_gradients_in_fp32(monkeypatch):
    head = torch.nn.Linear(16, 64, bias=False)
    states, targets = torch.randn(40, 16), torch.randint(0, 64, (40,))
    requested = torch.autograd.grad(labelled_loss(states, targets, head) / 40, head.weight)[0]
    monkeypatch.setattr(loss_module, "CHUNK_ON_CPU", 64)
    seen = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given: seen.append(1) or original(*given))
    half = torch.nn.Linear(16, 64, bias=False, dtype=torch.bfloat16)
    half.weight.data = head.weight.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = labelled_loss(states.requires_grad_(), targets, half) / 40
    loss.backward()
    assert len(seen) == 40, "one chunk each"
    assert half.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.weight.grad.float(), requested, rtol=3e-2, atol=1e-3)


def test_when_bf16_copies_are_kept(monkeypatch):
    assert not keeps_working_weights("bf16", Processes())
    monkeypatch.setattr(Processes, "device", torch.device("cuda"))
    assert keeps_working_weights("bf16", Processes())
    assert not keeps_working_weights("fp32", Processes())
    assert not keeps_working_weights("bf16", Processes(rank=0, world_size=2))
