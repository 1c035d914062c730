"""`olivine export`: names and fields of what is written, the proof that both sides agree, and refusals."""

import json
import os
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from olivine.cli import app
from olivine.conversion import export as module
from olivine.conversion.export import CARD, PROOF, Export, export
from olivine.conversion.export_card import card, escaped
from olivine.conversion.export_samples import drawn_samples, read_samples
from olivine.conversion.proof import Side, compare
from olivine.errors import RequestError, RunError
from olivine.model import checkpoint
from olivine.testing import tiny_vlm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    checkpoint.save(tiny_vlm(folder=root / "tokenizer"), root / "instruct" / "checkpoint")
    return root / "instruct" / "checkpoint"


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "plain"
    return output, export(Export(folder, "transformers", output))


def test_a_plain_folder_proves_itself(exported):
    output, made = exported
    assert made.proof.passed
    assert made.proof.equal_answers == made.proof.samples == 20
    assert made.proof.largest_difference <= 1e-4 * made.proof.largest_logit
    record = json.loads((output / PROOF).read_text())
    assert record["passed"] is True
    assert record["runtime"].startswith("transformers ")


def test_a_plain_folder_holds_nothing_of_olivine(exported):
    output, _made = exported
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", CARD, PROOF}
    assert "olivine.json" not in names
    assert any(name.startswith("vision_tower.vision_model.") for name in load_file(output / "model.safetensors"))


def broken(monkeypatch):
    whole = module.write_folder

    def write(vlm, target, **options):
        whole(vlm, target, **options)
        tensors = load_file(target / "model.safetensors")
        tensors["multi_modal_projector.linear_2.bias"] += 1
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(module, "write_folder", write)


def test_a_failed_proof_leaves_nothing(folder, tmp_path, monkeypatch):
    wrong = Side("other", ["another"] * 20, [5] * 20, logits=torch.zeros(20, 640).numpy())
    monkeypatch.setattr(module, "plain_side", lambda *_: wrong)
    with pytest.raises(RunError, match="the proof failed"):
        export(Export(folder, "transformers", tmp_path / "o"))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_export_fails_the_proof_and_force_keeps_it(folder, tmp_path, monkeypatch):
    broken(monkeypatch)
    made = export(Export(folder, "transformers", tmp_path / "o", force=True))
    assert not made.proof.passed
    assert "Below what this precision requires" in (tmp_path / "o" / CARD).read_text()


def test_what_transformers_4_reads(folder, tmp_path):
    made = export(Export(folder, "transformers-4", tmp_path / "o"))
    assert made.proof is None
    assert "--python" in made.skipped
    assert "--python" in (tmp_path / "o" / CARD).read_text().replace("\\", "")
    tokenizer = json.loads((tmp_path / "o" / "tokenizer_config.json").read_text())
    assert tokenizer["extra_special_tokens"] == {"image_token": "<image>"}
    assert tokenizer["additional_special_tokens"] == ["<start_of_turn>", "<end_of_turn>"]
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert config["text_config"]["rope_theta"] == 10000.0
    images = json.loads((tmp_path / "o" / "preprocessor_config.json").read_text())
    assert images["image_processor_type"] == "LlavaImageProcessor"
    assert images["crop_size"] == {"height": 16, "width": 16}
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "o" / "model.safetensors")
    for name in before:
        by = 32**0.5 if "linear_2" in name else 1
        torch.testing.assert_close(after[name] * by, before[name], rtol=1e-6, atol=0)


def test_an_export_in_bf16_is_smaller_and_answers_alike(folder, tmp_path):
    made = export(Export(folder, "vllm", tmp_path / "o", dtype="bfloat16", force=True))
    assert {tensor.dtype for tensor in load_file(tmp_path / "o" / "model.safetensors").values()} == {torch.bfloat16}
    assert made.proof.required_difference is None
    assert 0 < made.proof.largest_difference < 0.05 * made.proof.largest_logit
    assert "vLLM itself was not run" in made.proof.notes[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "onnx"], "transformers-4"),
        (["--to", "transformers", "--dtype", "q8_0"], "--dtype"),
        (["--to", "transformers", "--benchmark", "gqa"], "--data"),
        (["--to", "transformers", "--python", "no-such-interpreter"], "no-such-interpreter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_wrong_request_is_one_line_and_writes_nothing(folder, tmp_path, options, said):
    result = CliRunner().invoke(app, ["export", str(folder), *options, "--output", str(tmp_path / "o")])
    assert isinstance(result.exception, RequestError | RunError)
    assert result.exception.exit_code == (1 if "interpreter" in said else 2)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "target", "said"),
    [
        ({"depth": 4}, "transformers", "MLP of depth 4"),
        ({"depth": 3}, "vllm", "MLP of depth 3"),
        ({"tower": "dinov2"}, "vllm", "vision tower 'dinov2'"),
    ],
    ids=lambda value: str(value),
)
def test_what_a_target_cannot_hold_is_named(kind, target, said, tmp_path):
    checkpoint.save(tiny_vlm(**kind), tmp_path / "c")
    with pytest.raises(RequestError, match=said):
        export(Export(tmp_path / "c", target, tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_an_existing_folder_is_never_replaced(folder, tmp_path):
    with pytest.raises(RequestError, match="exists"):
        export(Export(folder, "transformers", tmp_path))


def test_another_prompt_is_no_agreement():
    own = Side("a", ["x"] * 20, [5] * 20, logits=torch.ones(20, 4).numpy())
    other = Side("b", ["x"] * 20, [6] * 20, logits=torch.ones(20, 4).numpy())
    assert not compare(own, other, "float32", exact=True).passed
    assert compare(own, own, "float32", exact=True).passed


@pytest.mark.parametrize(
    ("precision", "equal", "passes"),
    [("float16", 19, True), ("float16", 18, False), ("q8_0", 18, True), ("q8_0", 17, False)],
)
def test_how_many_answers_must_be_equal(precision, equal, passes):
    own = Side("a", ["x"] * 20, [5] * 20, logits=torch.zeros(20, 4).numpy())
    other = Side("b", ["x"] * equal + ["y"] * (20 - equal), [5] * 20, top=[{0: -1.4}] * 20)
    assert compare(own, other, precision, exact=True).passed is passes


def test_each_image_is_asked_about_once_first(tmp_path):
    for number in range(3):
        drawn_samples(1)[0].image.save(tmp_path / f"{number}.png")
    questions = [(tmp_path / f"{number // 2}.png", str(number)) for number in range(6)]
    assert [sample.question for sample in read_samples(questions, 4)] == ["0", "2", "4", "1"]


HOSTILE = "a|b <script>x</script> [l](http://e) `c` **d**\n# e\x00\u202e"


def test_text_from_data_is_text_in_the_card(tmp_path):
    run = tmp_path / "run"
    (run / "evaluation" / "gqa").mkdir(parents=True)
    where = os.path.join("/", "secret", HOSTILE.replace("/", ""))  # noqa: PTH118
    recipe = {"name": HOSTILE + "```", "data": {"d": {"json": "/secret/place/a.json"}}, "model": {}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "provenance.json").write_text(json.dumps({"data": {HOSTILE: {"json": where, "sha256": "1", "samples": 2}}}))
    (run / "evaluation" / "gqa" / "scores.json").write_text(json.dumps({"benchmark": HOSTILE, "items": 4}))
    items = [{"cluster": str(n % 2), "correct": float(n != 0)} for n in range(4)]
    (run / "evaluation" / "gqa" / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    text = card(run / "instruct" / "checkpoint", "gguf", HOSTILE, HOSTILE, None, HOSTILE)
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["license"] == HOSTILE
    assert "75.0 %" in body
    body, _, fenced = body.partition("## Recipe")
    assert "/secret" not in text
    assert fenced.count("````") == 2
    for markup in ("<script", "](http", "`c`", "**d**", "\n# e", "\x00", "\u202e"):
        assert markup not in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {4, 5}


def test_escaping_keeps_words():
    assert escaped("LLaVA Gemma 2b") == "LLaVA Gemma 2b"


def test_the_other_side_knows_nothing_of_olivine():
    from olivine.conversion.plain_transformers import _SCRIPT

    assert "olivine" not in {name.split(".")[0] for name in _SCRIPT.read_text().split() if name.startswith("olivine.")}
    assert sys.executable
