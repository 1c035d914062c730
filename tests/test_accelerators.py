"""GPU settings, with stand-ins for a GPU: allocator, TF32, deterministic algorithms, free memory, doctor's lines."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from olivine import accelerators, doctor
from olivine.accelerators import DETERMINISTIC, choose_allocator, choose_arithmetic, free_bytes, image_threads


@pytest.fixture
def _arithmetic():
    """Leave torch's own choices as they were."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="segments grow on Linux alone")
def test_the_allocator_is_set_unless_the_user_set_it(given, expected):
    assert choose_allocator(given) == "=".join(next(iter(expected.items())))
    assert given == expected


def test_the_command_line_sets_it_before_torch_is_loaded(tmp_path):
    """Run in its own process: in this one torch is loaded already."""
    code = (
        "import sys, os; from olivine import cli; sys.argv = ['olivine', 'recipes', '--none']\n"
        "assert 'torch' not in sys.modules\n"
        "from types import SimpleNamespace\n"
        "cli._root(SimpleNamespace(invoked_subcommand=None, with_resource=lambda _: None), False)\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['PYTORCH_ALLOC_CONF'])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}}
    found = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert found.stdout == "expandable_segments:True\n"


@pytest.mark.parametrize(("precision", "matmul", "convolutions"), [("bf16", "high", True), ("fp32", "highest", False)])
@pytest.mark.usefixtures("_arithmetic")
def test_tf32_follows_the_recipes_precision(precision, matmul, convolutions):
    said = choose_arithmetic(precision, "cuda")
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cudnn.allow_tf32 is convolutions
    assert said["tf32"].startswith("allowed" if convolutions else "off")
    assert DETERMINISTIC in said["deterministic"], "it says how to get equal bits"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("_arithmetic")
def test_deterministic_algorithms_are_switched_on_by_the_environment(monkeypatch):
    monkeypatch.setenv(DETERMINISTIC, "1")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert choose_arithmetic("bf16", "cuda")["deterministic"] == "yes"
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("_arithmetic")
def test_nothing_is_changed_for_a_cpu():
    before = torch.get_float32_matmul_precision()
    assert choose_arithmetic("bf16", "cpu")["tf32"].startswith("not used")
    assert torch.get_float32_matmul_precision() == before


def test_memory_cached_by_the_allocator_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (30, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 15)
    assert free_bytes(torch.device("cuda")) == 35
    assert free_bytes(torch.device("cpu")) is None


def test_doctor_reports_a_gpu_and_its_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Stand-in", total_memory=80 * 2**30)
    )
    monkeypatch.setattr(doctor, "free_bytes", lambda _device: 70 * 2**30)
    facts = doctor.describe()
    assert facts["device"] == "Stand-in, 80 GiB"
    assert facts["device memory free"] == "70.0 GiB"
    assert "ALLOC_CONF" in facts["device allocator"]
    assert "precision: fp32" in facts["tf32"]


def test_doctor_reports_a_containers_quota(monkeypatch):
    monkeypatch.setattr(doctor, "cgroup_quota", lambda: 1.5)
    monkeypatch.setattr(doctor, "allowed_cores", lambda: 64)
    assert "quota of 1.5 of 64" in doctor.describe()["cores"]


@pytest.mark.parametrize(("allowed", "gpus", "expected"), [(16, 1, 8), (16, 8, 1), (6, 2, 2), (1, 1, 1)])
def test_images_are_read_by_this_gpus_share_of_the_cores(monkeypatch, allowed, gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(accelerators, "available_cpus", lambda: allowed)
    assert image_threads() == expected
