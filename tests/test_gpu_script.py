"""Operation counts of `benchmarks/gpu.py` against hand-worked ones, and its stand-in kernel against SDPA by groups."""

import argparse

import gpu
import gpu_bench
import pytest
import torch
from flops import SampleSize, device_peak, step_operations
from gpu_attention import attention_rows
from gpu_data import write_samples
from loads import TRAINED, Shape, make_model, model_recipe

from olivine.data.sources import Skipped, read_samples
from olivine.model.size import model_size
from olivine.recipe import DataRecipe

SIZE = model_size(model_recipe(Shape(4096, 64, 2, 128, 4, 1, 64, 2, image=112)))


def test_operations_by_hand():
    """64 patches; blocks of Gemma's form with 4 query heads and one key-value head, each 16 wide."""
    blocks = 2 * (64 * 64 + 2 * 64 * 16 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert SIZE.blocks == blocks
    found = step_operations(
        SIZE, [SampleSize(100, 10, 1), SampleSize(50, 5, 0)], trains_language=True, tower_layers_run=1
    )
    assert found["blocks"] == 6 * blocks * 150
    assert found["head"] == 6 * SIZE.vocabulary * 64 * 15
    assert found["attention"] == 3 * 4 * 2 * 64 * (100**2 + 50**2) / 2
    assert found["connector"] == 6 * SIZE.connector * 64
    assert found["tower"] == 2 * SIZE.tower / 2 * 65 + 4 * 64 * 65**2


def test_a_frozen_language_model_has_no_weight_gradients():
    whole, frozen = (
        step_operations(SIZE, [SampleSize(100, 10, 1)], trains_language=trains, tower_layers_run=1)
        for trains in (True, False)
    )
    assert frozen["blocks"] / whole["blocks"] == pytest.approx(2 / 3)
    assert frozen["attention"] == whole["attention"], "queries and keys have gradients in both cases"


def test_the_7b_shape_is_gemmas():
    language = model_recipe(gpu.SHAPES["7b"]).language.from_
    assert (language["num_attention_heads"], language["num_key_value_heads"], language["head_dim"]) == (16, 16, 256)
    language = model_recipe(gpu.SHAPES["2b"]).language.from_
    assert (language["num_attention_heads"], language["num_key_value_heads"], language["head_dim"]) == (8, 1, 256)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ],
)
def test_devices_are_found_by_their_names(monkeypatch, name, known):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert device_peak()[0] == known


def test_the_stand_in_for_the_kernel_agrees_with_attention_by_groups():
    rows = list(attention_rows(small=True))
    assert {row["heads"] for row in rows} == {"4 queries, 1 keys, 32 wide", "4 queries, 4 keys, 32 wide"}
    assert max(row["largest_difference"] for row in rows) < 1e-4


def test_samples_lie_on_disk_as_a_stage_reads_them(tmp_path):
    vlm = make_model(Shape(4096, 64, 1, 128, 4, 1, 64, 1, image=112))
    source = write_samples(tmp_path, "stage 2", 20, vlm.tokenizer, 64)
    recipe = DataRecipe.model_validate({"json": source, "images": tmp_path / "images"})
    samples = read_samples(recipe, Skipped())
    assert len(samples) == 20
    assert len({s.image for s in samples if s.image}) == sum(s.image is not None for s in samples) > 10
    lengths = [vlm.encoder().example(sample).length for sample in samples]
    assert max(lengths) < 2048


class Bench:
    """Two rungs, one of which needs more memory than there is."""

    name, stage, batch = "x", "stage 2", 1

    def __init__(self, vlm):
        self.vlm = vlm

    def rungs(self):
        def too_large():
            raise torch.OutOfMemoryError("CUDA out of memory.")

        yield "one", lambda: {"operations": 6e9, "seconds": 2.0}
        yield "two", too_large
        yield "three", lambda: {"seconds": 1.0}


def test_rungs_beyond_memory_or_time_are_reported_and_the_rest_measured(vlm, monkeypatch):
    rows = []
    gpu.climb(Bench(vlm), gpu.Clock(1), (12e9, 6e9), rows.append)
    assert [row["rung"] for row in rows] == ["one", "two", "three"]
    assert (rows[0]["mfu"], rows[0]["share_of_matmul"]) == (0.25, 0.5)
    assert rows[1]["out_of_memory"]
    rows.clear()
    gpu.climb(Bench(vlm), gpu.Clock(-1), (12e9, 6e9), rows.append)
    assert all("are left" in row["skipped"] for row in rows)


def test_a_stage_that_does_not_fit_is_reported_with_the_plans_reason(monkeypatch):
    monkeypatch.setattr(gpu_bench, "CUDA", True)
    monkeypatch.setattr(gpu_bench, "device_peak", lambda: ("h100", 989e12))
    properties = argparse.Namespace(total_memory=85e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    assert gpu_bench.unfit(gpu.SHAPES["2b"], "stage 2") is None
    assert gpu_bench.unfit(gpu.SHAPES["7b"], "stage 1") is None
    assert "of 85" in gpu_bench.unfit(gpu.SHAPES["7b"], "stage 2")
    assert set(TRAINED) == {"stage 1", "stage 2"}
