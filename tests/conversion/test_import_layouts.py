"""`olivine import`: every layout gives the logits of its own time, and without a repair it does not."""

import json

import pytest
import torch
from published_folders import (
    GEMMA_CHAT,
    HIDDEN,
    PATCHES,
    QUESTION,
    Parts,
    write_clip,
    write_hf,
    write_language_model,
    write_llava_original,
    write_lora,
    write_projector,
)
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from olivine.conversion import assemble, tensor_stream
from olivine.conversion.export import Export, export
from olivine.conversion.export_samples import drawn_samples
from olivine.conversion.importing import RECORD, Import, ImportOptions, import_model
from olivine.errors import RunError
from olivine.model import checkpoint
from olivine.model.build import build
from olivine.testing import CORPUS, tiny_vlm
from olivine.testing.languages import language_specimens, tiny_language_vlm
from olivine.testing.specimens import specimen_recipe, tower_specimens

IMAGE = drawn_samples(1)[0].image
assert IMAGE.width != IMAGE.height, "how an image is made square must matter"
CONVERTED = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu"}
F16, BF16 = torch.float16, torch.bfloat16


def gemma_7b(root):
    parts = Parts("gemma", dtype=BF16)
    return write_llava_original(root / "7b", parts, write_clip(root / "clip", parts), shards=4), parts, {}


def gemma_2b_converted(root):
    parts = Parts("gemma")
    return write_hf(root / "2b", parts, chat=GEMMA_CHAT, text=CONVERTED), parts, {}


def gemma_projector(root):
    parts = Parts("gemma", dtype=BF16)
    base, tower = write_language_model(root / "base", parts), write_clip(root / "clip", parts)
    return write_projector(root / "stage-1", parts, base, tower), parts, {"fit": "crop"}


def gemma_today(root):
    """A folder of transformers from 5.4 on, which multiplies no image features, and has the tanh form."""
    parts = Parts("gemma", exact=False)
    folder = write_hf(root / "now", parts, age="5.0", version="5.4.0", text={"hidden_act": "gelu_pytorch_tanh"})
    return folder, parts, {"pre_5_4": False, "fit": "crop"}


def llava_15(root, *, pickled=True, **fields):
    parts = Parts("llama", dtype=F16)
    tower = write_clip(root / "clip", parts)
    return write_llava_original(root / "v1.5", parts, tower, pickled=pickled, shards=2, **fields), parts, {}


def llava_15_without_its_tower(root):
    parts = Parts("llama", dtype=F16)
    tower = write_clip(root / "clip", parts)
    return write_llava_original(root / "v1.5", parts, tower, with_tower=False), parts, {}


def llava_linear(root):
    """The first LLaVA's projector of one layer."""
    parts = Parts("llama", dtype=F16, depth=1)
    return write_llava_original(root / "linear", parts, write_clip(root / "clip", parts)), parts, {}


def llava_projector(root):
    parts = Parts("llama", dtype=F16)
    base, tower = write_language_model(root / "base", parts, pickled=True), write_clip(root / "clip", parts)
    return write_projector(root / "stage-1", parts, base, tower), parts, {"fit": "crop"}


def llava_lora(root):
    parts = Parts("llama", dtype=F16)
    base, tower = write_language_model(root / "base", parts), write_clip(root / "clip", parts)
    return write_lora(root / "lora", parts, base, tower), parts, {}


def llava_hf(age, version=None):
    def write(root):
        parts = Parts("llama", dtype=F16)
        return write_hf(root / "hf", parts, age=age, version=version), parts, {"fit": "crop"}

    return write


LAYOUTS = {
    "LLaVA-Gemma-7B": (gemma_7b, "LLaVA-Gemma original"),
    "LLaVA-Gemma-2B converted": (gemma_2b_converted, "transformers LLaVA"),
    "LLaVA-Gemma stage 1": (gemma_projector, "LLaVA stage-1 projector"),
    "Gemma under transformers 5.4": (gemma_today, "transformers LLaVA"),
    "LLaVA-1.5 pickled": (llava_15, "LLaVA-1.5 original"),
    "LLaVA-1.5 safetensors": (lambda root: llava_15(root, pickled=False), "LLaVA-1.5 original"),
    "LLaVA-1.5 as llava": (lambda root: llava_15(root, model_type="llava"), "LLaVA-1.5 original"),
    "LLaVA-1.5 with its tower elsewhere": (llava_15_without_its_tower, "LLaVA-1.5 original"),
    "LLaVA, one layer": (llava_linear, "LLaVA-1.5 original"),
    "LLaVA-1.5 stage 1": (llava_projector, "LLaVA stage-1 projector"),
    "LLaVA-1.5 LoRA": (llava_lora, "LLaVA LoRA"),
    "llava-hf, 4.36": (llava_hf("4.38"), "transformers LLaVA"),
    "llava-hf, 4.52": (llava_hf("4.52", "4.52.4"), "transformers LLaVA"),
    "llava-hf, 5.0": (llava_hf("5.0", "5.0.0"), "transformers LLaVA"),
}


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def made(request, tmp_path_factory):
    """Folder, parts, how its own time ran them, the imported folder and its record."""
    write, layout = LAYOUTS[request.param]
    root = tmp_path_factory.mktemp("published")
    folder, parts, time = write(root)
    output = root / "imported"
    # In fp32 nothing is rounded again: the published values are compared, not what bf16 makes of their products.
    imported = import_model(Import(folder, output, dtype="float32", samples=2))
    assert imported.layout == layout
    return folder, parts, time, output, imported


@torch.no_grad()
def logits(output, *, dtype=torch.float32):
    """What Olivine answers from an imported folder."""
    vlm = checkpoint.load(output)
    vlm.cast(dtype)
    prefix, continuation = vlm.encoder().prompt(QUESTION, True, None)
    ids = torch.tensor([prefix + continuation])
    pixels = torch.from_numpy(vlm.transform(IMAGE)[None])
    return vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, -1]


def difference(got, expected):
    """The largest difference as a share of the largest logit; rows that `<image>` needed are no words."""
    return float((got[: len(expected)] - expected).abs().max() / expected.abs().max())


def test_logits_are_those_of_the_layouts_own_time(made):
    _folder, parts, time, output, _imported = made
    assert difference(logits(output), parts.logits(IMAGE, QUESTION, **time)) <= 1e-5


def test_the_proof_says_so_in_a_record(made):
    *_rest, output, imported = made
    assert imported.proof.passed
    assert imported.proof.required_difference == 1e-4
    assert imported.proof.largest_difference <= 1e-5 * imported.proof.largest_logit
    record = json.loads((output / RECORD).read_text())
    assert record["proof"]["passed"] is True
    assert record["layout"] == imported.layout
    assert [each["what"] for each in record["repairs"]] == [each.what for each in imported.repairs]
    assert all(each["reason"] for each in record["repairs"])


def imported_without(monkeypatch, root, write, options, change=lambda _monkeypatch: None):
    folder, parts, time = write(root)
    change(monkeypatch)
    import_model(Import(folder, root / "o", ImportOptions(**options), dtype="float32", samples=1, force=True))
    return difference(logits(root / "o"), parts.logits(IMAGE, QUESTION, **time))


def no_scaling(monkeypatch):
    monkeypatch.setattr(assemble, "scaled", lambda planned, _factor: planned)


#: What happens without a repair: the largest difference as a share of the largest logit, at least.
BROKEN = {
    "projector not scaled": (gemma_2b_converted, {}, no_scaling, 0.03),
    "projector not scaled, 7B": (gemma_7b, {}, no_scaling, 0.03),
    "tanh for exact GELU": (gemma_2b_converted, {"activation": "gelu_pytorch_tanh"}, None, 5e-5),
    "the folder's crop": (gemma_2b_converted, {"fit": "crop"}, None, 0.05),
    "no space behind the image": (llava_15, {"template": "vicuna"}, None, 0.05),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_without_a_repair_logits_differ(monkeypatch, tmp_path, record_property, broken):
    write, options, change, least = BROKEN[broken]
    share = imported_without(monkeypatch, tmp_path, write, options, change or (lambda _: None))
    record_property("largest difference, share of the largest logit", f"{share:.2g}")
    assert share > least


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    folder, parts, _time = gemma_2b_converted(root)
    return folder, parts, root / "o", import_model(Import(folder, root / "o", samples=1))


def test_the_factor_is_the_root_of_the_width(converted):
    _folder, parts, output, _imported = converted
    stored = load_file(output / "model.safetensors")
    expected = parts.linears[1].weight.detach() * HIDDEN**0.5
    torch.testing.assert_close(stored["multi_modal_projector.linear_2.weight"], expected)
    torch.testing.assert_close(stored["multi_modal_projector.linear_1.weight"], parts.linears[0].weight.detach())


def test_repairs_of_the_converted_2b_are_listed(converted):
    *_rest, output, imported = converted
    found = " / ".join(each.what for each in imported.repairs)
    for repaired in (
        "pad instead of crop",
        "patch_size",
        "on the left",
        "gelu_python",
        "beginning",
        "1, 107",
        "sqrt(32)",
    ):
        assert repaired in found
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == [1, 107]
    config = json.loads((output / "config.json").read_text())
    assert config["text_config"]["hidden_act"] == "gelu_python"
    assert [each.partition(":")[0] for each in imported.unknown] == ["the chat template of training"]


@torch.no_grad()
def test_plain_transformers_reads_the_folder(converted):
    """By chat messages, with one beginning of sequence, and the same logits; the published processor raises."""
    folder, parts, output, _imported = converted
    with pytest.raises(TypeError, match="NoneType"):
        AutoProcessor.from_pretrained(folder)(images=IMAGE, text="<image>\nwhat?", return_tensors="pt")
    processor, model = AutoProcessor.from_pretrained(output), AutoModelForImageTextToText.from_pretrained(output)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=IMAGE, text=prompt, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert ids.count(model.config.image_token_id) == PATCHES
    assert processor.tokenizer.padding_side == "left"
    assert difference(model(**inputs).logits[0, -1], parts.logits(IMAGE, QUESTION)) <= 1e-5


def test_what_was_trained_today_is_not_repaired(tmp_path):
    folder, _parts, _time = gemma_today(tmp_path)
    found = " / ".join(each.what for each in import_model(Import(folder, tmp_path / "o", samples=1)).repairs)
    assert "sqrt" not in found
    assert "gelu" not in found


@pytest.mark.parametrize("write", [gemma_7b, llava_lora], ids=["scaled in bf16", "merged in fp16"])
def test_weights_rounded_to_the_stored_dtype_have_a_wider_bound(tmp_path, write):
    folder, *_rest = write(tmp_path)
    proof = import_model(Import(folder, tmp_path / "o", samples=4)).proof
    assert proof.passed
    assert proof.required_difference > 1e-4
    assert 1e-6 * proof.largest_logit < proof.largest_difference < 0.02 * proof.largest_logit


def test_blocks_and_files_do_not_matter(monkeypatch, tmp_path):
    """A few rows at a time into many files: the same tensors as in one piece."""
    folder, *_rest = llava_15(tmp_path)
    import_model(Import(folder, tmp_path / "whole", samples=1))
    monkeypatch.setattr(tensor_stream, "BLOCK", 600)
    monkeypatch.setattr(tensor_stream, "FILE", 9000)
    import_model(Import(folder, tmp_path / "cut", samples=1))
    assert (tmp_path / "cut" / "model.safetensors.index.json").is_file()
    whole, cut = (checkpoint.load(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_failed_proof_leaves_nothing(monkeypatch, tmp_path):
    folder, *_rest = gemma_2b_converted(tmp_path)
    no_scaling(monkeypatch)
    with pytest.raises(RunError, match="the proof failed, nothing was written"):
        import_model(Import(folder, tmp_path / "o", samples=1))
    assert {path.name for path in tmp_path.iterdir()} == {"2b"}


def test_force_keeps_it_and_the_record_says_so(monkeypatch, tmp_path):
    folder, *_rest = gemma_2b_converted(tmp_path)
    no_scaling(monkeypatch)
    assert not import_model(Import(folder, tmp_path / "o", samples=1, force=True)).proof.passed
    assert json.loads((tmp_path / "o" / RECORD).read_text())["proof"]["passed"] is False


def test_the_table_s_new_rows_are_never_the_largest_logit(tmp_path):
    folder, parts, _time = llava_15(tmp_path)
    import_model(Import(folder, tmp_path / "o", samples=1))
    got, vocabulary = logits(tmp_path / "o"), parts.model.config.vocab_size
    assert len(got) > vocabulary
    assert got[vocabulary:].max() < got[:vocabulary].max()


SPECIMENS, TOWERS = language_specimens(), tower_specimens()
OWN = {
    "clip, gemma": lambda _folder: tiny_vlm(),
    "llama": lambda folder: tiny_vlm(language="llama", folder=folder),
    "qwen2": lambda _folder: tiny_language_vlm(SPECIMENS["qwen2"]),
    "gemma2": lambda _folder: tiny_language_vlm(SPECIMENS["gemma2"]),
    "siglip": lambda _folder: built(specimen_recipe(TOWERS["siglip_vision_model"])),
    "dinov2": lambda _folder: tiny_vlm(tower="dinov2"),
    "fused": lambda _folder: built(specimen_recipe(TOWERS["fused"])),
    "a deeper connector": lambda _folder: tiny_vlm(depth=3),
}
#: Of these the proof is written out; the others are proven by the folder as transformers reads it.
WRITTEN_OUT = {"clip, gemma", "llama", "qwen2", "siglip"}


def built(recipe):
    return build(recipe, seed=0, texts=lambda: CORPUS)


@pytest.mark.parametrize("kind", OWN)
def test_olivines_own_resaved_by_transformers(tmp_path, kind):
    vlm = OWN[kind](tmp_path / "tokenizer")
    checkpoint.save(vlm, tmp_path / "checkpoint")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint").save_pretrained(tmp_path / "resaved")
    AutoProcessor.from_pretrained(tmp_path / "checkpoint").save_pretrained(tmp_path / "resaved")
    imported = import_model(Import(tmp_path / "resaved", tmp_path / "o", samples=2))
    assert imported.repairs == imported.unknown == ()
    assert imported.proof.passed
    assert imported.proof.runtime.endswith("written out") == (kind in WRITTEN_OUT)
    back = checkpoint.load(tmp_path / "o")
    assert (back.template, back.transform) == (vlm.template, vlm.transform)
    before, after = vlm.model.state_dict(), back.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_export_for_transformers_4_comes_back(tmp_path):
    vlm = tiny_vlm(folder=tmp_path / "tokenizer")
    checkpoint.save(vlm, tmp_path / "checkpoint")
    export(Export(tmp_path / "checkpoint", "transformers-4", tmp_path / "older"))
    import_model(Import(tmp_path / "older", tmp_path / "o", samples=2))
    before, after = logits(tmp_path / "checkpoint"), logits(tmp_path / "o")
    assert difference(after, before) <= 1e-5
