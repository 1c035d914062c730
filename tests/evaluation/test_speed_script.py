"""`benchmarks/evaluate.py` measures the flip rate, which must be zero in fp32, where no answer can flip."""

import importlib.util
from pathlib import Path

import pytest
import torch

from olivine.records import Question
from olivine.testing import tiny_vlm, write_images

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluate.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("speed_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flip_rate_is_measured_and_zero_in_fp32(script, tmp_path):
    names = write_images(tmp_path, 4)
    questions = [Question(str(n), "what color " * (1 + n % 4) + str(n), names[n % 4], names[n % 4]) for n in range(40)]
    vlm = tiny_vlm()
    rows = script.flips(vlm, questions, tmp_path, new_tokens=8)
    assert [row["way"] for row in rows] == ["in batches of 7", "in batches of 32", "in batches of 40"]
    assert {(row["load"], row["flip_rate"]) for row in rows} == {("float32", 0.0)}
    vlm.cast(torch.bfloat16)
    rows = script.flips(vlm, questions, tmp_path, new_tokens=8)
    assert {row["load"] for row in rows} == {"bfloat16"}
    assert all(row["answers_other_than_alone"] / 40 == row["flip_rate"] for row in rows)
