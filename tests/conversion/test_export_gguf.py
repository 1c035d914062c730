"""GGUF files of tiny models, answered by llama.cpp itself; skipped where the extra `gguf` is not installed."""

import json

import pytest
import torch

from olivine.conversion.export import LANGUAGE_FILE, VISION_FILE, Export, export
from olivine.conversion.llama_template import llama_template
from olivine.data.template import TEMPLATES
from olivine.errors import RequestError, RunError
from olivine.model import checkpoint
from olivine.testing import tiny_vlm
from olivine.testing.languages import language_specimens, tiny_language_vlm

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")


@pytest.fixture(scope="module", params=["clip", "dinov2"])
def folder(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    vlm = tiny_vlm(tower=request.param, folder=root / "tokenizer")
    with torch.no_grad():  # calmer than usual: random answers depend on the last digit
        for name, weight in vlm.part("language").items():
            if weight.ndim == 2 and "embed" not in name:
                weight.div_(2)
    checkpoint.save(vlm, root / "instruct" / "checkpoint")
    return root / "instruct" / "checkpoint"


@pytest.mark.parametrize("dtype", ["float32", "float16", "q8_0"])
def test_llama_cpp_answers_alike(folder, tmp_path, dtype):
    made = export(Export(folder, "gguf", tmp_path / "o", dtype=dtype, force=dtype == "q8_0"))
    assert made.proof.passed or dtype == "q8_0"  # random weights suffer more from rounding than trained ones
    assert made.proof.equal_answers >= 16
    assert made.proof.equal_prompts == 20
    assert made.proof.largest_difference < {"float32": 0.02, "float16": 0.05, "q8_0": 0.5}[dtype]


def test_a_llama_s_prompts_and_first_tokens_agree(tmp_path):
    checkpoint.save(tiny_vlm(language="llama", folder=tmp_path / "tokenizer"), tmp_path / "c")
    made = export(Export(tmp_path / "c", "gguf", tmp_path / "o", dtype="float32", force=True))
    assert made.proof.equal_prompts == 20  # answers of random weights are bytes, which both sides write differently
    assert made.proof.largest_difference < 0.02


def test_fields_and_types_of_the_files(folder, tmp_path):
    export(Export(folder, "gguf", tmp_path / "o", dtype="q8_0", force=True))
    language = gguf.GGUFReader(tmp_path / "o" / LANGUAGE_FILE)
    assert language.fields["general.architecture"].contents() == "gemma"
    assert language.fields["tokenizer.ggml.eot_token_id"].contents() == 107
    types = {tensor.name: tensor.tensor_type.name for tensor in language.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"
    vision = gguf.GGUFReader(tmp_path / "o" / VISION_FILE)
    assert vision.fields["clip.projector_type"].contents() == "mlp"
    assert vision.fields["clip.vision.feature_layer"].contents() == [
        vision.fields["clip.vision.block_count"].contents()
    ]
    assert {tensor.tensor_type.name for tensor in vision.tensors} == {"F32", "Q8_0"}


def test_a_file_for_another_order_of_tokens_fails_the_proof(folder, tmp_path):
    with pytest.raises(RunError, match="the proof failed"):
        export(Export(folder, "gguf", tmp_path / "o", dtype="float32", class_order="first"))
    made = export(Export(folder, "gguf", tmp_path / "o", dtype="float32", class_order="first", force=True))
    assert json.loads((tmp_path / "o" / "proof.json").read_text())["passed"] is False
    assert made.proof.largest_difference > 0.1


def test_an_unknown_language_model_is_named(tmp_path):
    checkpoint.save(tiny_language_vlm(language_specimens()["gemma3"]), tmp_path / "c")
    with pytest.raises(RequestError, match="gemma3_text"):
        export(Export(tmp_path / "c", "gguf", tmp_path / "o"))


@pytest.mark.parametrize("name", ["gemma", "vicuna", "chatml", "llama3", "phi3"])
def test_templates_lose_what_llama_cpp_cannot_run(name):
    made = llama_template(TEMPLATES[name].jinja)
    assert "generation -%}" not in made
    assert "ssistant" in made or "<start_of_turn>model" in made or "ASSISTANT" in made
    assert "__media" in made


def test_a_template_of_another_kind_is_refused():
    with pytest.raises(RequestError, match="chat template"):
        llama_template("{{ messages }}")
