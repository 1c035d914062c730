"""Training in half precision uses the kernel without padding, and the run says so."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in
import torch
from rich.console import Console
from tiny_runs import make_recipe

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import SequenceLayout, pack, padding_sequence
from olivine.data.sending import packed_bytes, unpacked
from olivine.files import read_json, read_json_lines, write_text
from olivine.model.attention import choose_attention, why_not_varlen
from olivine.records import Sample
from olivine.training.run import train

STAGES = {
    "stage 1": {"train": ["connector"]},
    "stage 2": {"train": ["connector", "language"]},
    "all parts": {"train": ["vision", "connector", "language"]},
    "lora": {"train": ["connector", "language"], "lora": {"rank": 4}},
}


def _recipe(dataset, output, stage, precision="bf16"):
    stages = [{"name": "a", "steps": 2, "lr": 1e-3, "held_out": 0, **stage}]
    return make_recipe(dataset, output, stages=stages, optimizer={"precision": precision})


@pytest.mark.parametrize("name", STAGES)
def test_every_packed_sequence_uses_the_kernel(dataset, tmp_path, monkeypatch, name):
    if name == "lora":
        pytest.importorskip("peft")
    stand_in.calls.clear()
    said = io.StringIO()
    by_groups = train(_recipe(dataset, tmp_path / "groups", STAGES[name]), Console(file=io.StringIO()))
    stand_in.put_in_place(monkeypatch.setattr)
    varlen = train(_recipe(dataset, tmp_path / "varlen", STAGES[name]), Console(file=said, width=200))
    assert stand_in.calls["kernel"] > 0
    assert stand_in.calls["kernel"] % 2 == 0, "both layers"
    assert not stand_in.calls["groups"]
    assert said.getvalue().count("attention without padding") == 1
    losses = [
        [sequence["loss"] for sequence in read_json_lines(run.parent / "metrics.jsonl") if "loss" in sequence]
        for run in (by_groups, varlen)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2), "equal to attention by groups, within half precision"


def test_in_fp32_a_run_uses_groups_and_says_why(dataset, tmp_path, monkeypatch):
    stand_in.calls.clear()
    stand_in.put_in_place(monkeypatch.setattr)
    said = io.StringIO()
    train(_recipe(dataset, tmp_path / "run", STAGES["stage 2"], "fp32"), Console(file=said, width=200))
    assert stand_in.calls["groups"]
    assert not stand_in.calls["kernel"]
    assert "attention by groups (SDPA): the kernel without padding needs CUDA, and this is cpu" in said.getvalue()


def test_two_processes_use_the_kernel(dataset, tmp_path):
    """Under FSDP, with a dummy sequence where one process has none left."""
    recipe = _recipe(dataset, tmp_path / "run", {**STAGES["stage 2"], "batch": 7})
    write_text(tmp_path / "recipe.yaml", recipe.to_yaml())
    (tmp_path / "driver.py").write_text(
        "import os, sys, stand_in\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "stand_in.put_in_place()\nfrom olivine.recipe import load\nfrom olivine.training.run import train\n"
        "train(load(Path(sys.argv[1])), Console(stderr=True, width=200))\n"
        "from olivine.process_end import end_process\nfrom olivine.files import write_json\n"
        "write_json(Path(sys.argv[1]).with_name('counted-' + os.environ['RANK']), dict(stand_in.calls))\n"
        "end_process(0)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path / "driver.py"), str(tmp_path / "recipe.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    counted = [read_json(tmp_path / f"counted-{rank}") for rank in range(2)]
    assert counted[0] == counted[1], "each process runs as many sequences"
    assert counted[0]["kernel"] > 0
    assert "groups" not in counted[0]


@pytest.mark.parametrize(
    ("change", "device", "dtype", "said"),
    [
        ({}, "cpu", torch.bfloat16, "needs CUDA"),
        ({}, "cuda", torch.float32, "half precision"),
        ({"head_dim": 320}, "cuda", torch.bfloat16, "320 wide"),
        ({"head_dim": 20}, "cuda", torch.bfloat16, "20 wide"),
        ({"attention_dropout": 0.1}, "cuda", torch.bfloat16, "dropout"),
        ({}, "cuda", torch.bfloat16, None),
    ],
)
def test_reasons_not_to_use_the_kernel(vlm, monkeypatch, change, device, dtype, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr("olivine.model.attention.KERNEL", stand_in.kernel)
    config = type(vlm.language.config).from_dict({**vlm.language.config.to_dict(), **change})
    why = why_not_varlen(config, torch.device(device), dtype)
    assert why is None if said is None else said in why
    assert choose_attention(config, torch.device(device), dtype).varlen is (said is None)


def test_before_ampere_the_kernel_is_not_used(vlm, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "Ampere" in why_not_varlen(vlm.language.config, torch.device("cuda"), torch.bfloat16)


def _two_parts():
    parts = (Tokens([2, 600, 600, 5], [False] * 4), Tokens([7, 8], [False, True]), Tokens([9, 8], [False, True]))
    return Example(Sample("s", (), "p"), parts)


def test_a_packed_sequence_carries_only_what_its_attention_needs():
    plain = Example(Sample("s", (), None), (Tokens([2, 5, 6], [False, True, True]),))
    by_groups, varlen = (pack([_two_parts(), plain], [3], SequenceLayout(600, varlen=v)) for v in (False, True))
    assert by_groups.groups
    assert not varlen.groups
    assert varlen.image_positions.tolist() == [1, 2]
    assert torch.equal(varlen.labelled, (varlen.targets != -100).nonzero()[:, 0])
    assert (varlen.unique_images.tolist(), varlen.image_order.tolist()) == ([3], [0])
    # Sequences have one structure, whatever is in them, so that a block is compiled once.
    for continuations in (True, False):
        layout = SequenceLayout(600, varlen=True, continuations=continuations)
        for sequence in (pack([plain], [], layout), padding_sequence(layout=layout)):
            assert (sequence.spans.gather is not None) is continuations


def test_a_packed_sequence_is_sent_as_one_buffer():
    sequence = pack([_two_parts()], [3], SequenceLayout(600))
    given = []
    sequence._with(lambda tensor: given.append(tensor) or tensor)
    assert {t.dtype for t in given} == {torch.int64, torch.int32, torch.bool}
    buffer = packed_bytes(given, pinned=False)
    assert buffer.dtype == torch.uint8
    back = unpacked(buffer, given)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(given, back, strict=True))
    assert sequence.to(torch.device("meta")).groups[0].kept.shape == sequence.groups[0].kept.shape
