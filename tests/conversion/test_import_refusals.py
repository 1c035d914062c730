"""`olivine import` refuses what it cannot use in one line that says what to do, and writes nothing."""

import json
import pickle
import shutil

import pytest
import torch
from published_folders import (
    GEMMA_CHAT,
    Parts,
    write_clip,
    write_hf,
    write_json,
    write_language_model,
    write_llava_original,
    write_lora,
    write_projector,
    write_tokenizer,
)
from safetensors.torch import load_file, save_file

from olivine.conversion import importing
from olivine.conversion.importing import Import, ImportOptions, import_model
from olivine.errors import OlivineError, RequestError


class Runs:
    """What a hostile pickle holds."""

    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One sound folder of each layout, to be copied and damaged."""
    root = tmp_path_factory.mktemp("sound")
    llama, gemma = Parts("llama"), Parts("gemma")
    tower = write_clip(root / "clip", llama)
    base = write_language_model(root / "base", llama)
    write_llava_original(root / "v1.5", llama, tower)
    write_llava_original(root / "sharded", llama, tower, pickled=True, shards=3)
    write_llava_original(root / "without tower", llama, tower, with_tower=False)
    write_projector(root / "stage-1", llama, base, tower)
    write_hf(root / "hf", llama)
    write_hf(root / "2b", gemma, chat=GEMMA_CHAT)
    write_lora(root / "lora", llama, base, tower)
    return root


def edited(folder, name="config.json", **values):
    stored = json.loads((folder / name).read_text())
    for key, value in values.items():
        stored.pop(key, None) if value is ... else stored.update({key: value})
    write_json(folder / name, stored)


def tensors(folder, change, name="model.safetensors"):
    stored = load_file(folder / name)
    change(stored)
    save_file(stored, folder / name)


def set_to(value):
    def change(stored):
        stored["model.layers.0.mlp.up_proj.weight"][3, 3] = value

    return change


def shortened(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_base(folder):
    config = folder.parent / "small" / "config.json"
    shutil.copytree(folder.parent / "base", config.parent)
    tensors(config.parent, lambda stored: stored.update({"model.layers.0.mlp.up_proj.weight": torch.ones(8, 32)}))


EMBEDDING = "model.embed_tokens.weight"
#: Damage to a copy of a folder: (folder, what is done to it, options, what the message must say).
CASES = {
    "an empty folder": ("empty", None, {}, "holds none of the known layouts"),
    "a plain language model": ("base", None, {}, "model_type 'llama'"),
    "a tower": ("clip", None, {}, "model_type 'clip'"),
    "a config that is a list": ("v1.5", lambda f: (f / "config.json").write_text("[]"), {}, "expected an object"),
    "half of the files": (
        "sharded",
        lambda f: (f / "pytorch_model-00002-of-00003.bin").unlink(),
        {},
        "names pytorch_model-00002-of-00003.bin, which is not there",
    ),
    "files without their index": (
        "sharded",
        lambda f: (f / "pytorch_model.bin.index.json").unlink(),
        {},
        "not the index of its files",
    ),
    "safetensors cut short": ("v1.5", lambda f: shortened(f / "model.safetensors"), {}, "damaged or cut short"),
    "a pickle cut short": ("sharded", lambda f: shortened(f / "pytorch_model-00001-of-00003.bin"), {}, "is damaged"),
    "a missing weight": (
        "v1.5",
        lambda f: tensors(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        {},
        "1 weights are missing (language_model.model.layers.1.mlp.up_proj.weight",
    ),
    "a missing embedding": (
        "v1.5",
        lambda f: tensors(f, lambda t: t.pop(EMBEDDING)),
        {},
        "embed_tokens.weight is missing",
    ),
    "an unknown weight": (
        "v1.5",
        lambda f: tensors(f, lambda t: t.update({"model.extra.weight": torch.ones(2)})),
        {},
        "no place in the model",
    ),
    "no number": ("v1.5", lambda f: tensors(f, set_to(float("nan"))), {}, "no numbers"),
    "too large for float16": ("v1.5", lambda f: tensors(f, set_to(1e6)), {"dtype": "float16"}, "float16"),
    "another hidden size": ("hf", lambda f: text(f, hidden_size=64), {}, "but config.json describes"),
    "a projector of another width": (
        "v1.5",
        lambda f: tensors(f, lambda t: t.update({"model.mm_projector.2.weight": torch.ones(16, 32)})),
        {},
        "linear_2.weight is [16, 32]",
    ),
    "half a projector": (
        "v1.5",
        lambda f: tensors(f, lambda t: t.pop("model.mm_projector.2.bias")),
        {},
        "the projector (mlp2x_gelu) should hold",
    ),
    "another projector": ("v1.5", lambda f: edited(f, mm_projector_type="mlp3x_gelu"), {}, "'mlp3x_gelu'"),
    "LLaVA-1.6": ("v1.5", lambda f: edited(f, image_aspect_ratio="anyres"), {}, "several crops"),
    "image frames": ("v1.5", lambda f: edited(f, mm_use_im_start_end=True), {}, "mm_use_im_start_end"),
    "class tokens kept": ("v1.5", lambda f: edited(f, mm_vision_select_feature="cls_patch"), {}, "'cls_patch'"),
    "quantised": ("v1.5", lambda f: edited(f, quantization_config={"bits": 4}), {}, "quantised"),
    "an absurd size": ("v1.5", lambda f: edited(f, num_hidden_layers=10**9), {}, "num_hidden_layers"),
    "no tower named": ("without tower", lambda f: edited(f, mm_vision_tower=...), {}, "--tower"),
    "a tower that is not there": ("without tower", lambda f: edited(f, mm_vision_tower="./absent"), {}, "'./absent'"),
    "no base named": ("stage-1", lambda f: edited(f, _name_or_path=...), {}, "Give --base"),
    "a projector alone": ("stage-1", lambda f: (f / "config.json").unlink(), {}, "not the config.json"),
    "another base": ("lora", other_base, {"base": "small"}, "--base"),
    "an adapter with decomposed weights": (
        "lora",
        lambda f: edited(f, "adapter_config.json", use_dora=True),
        {},
        "use_dora is True",
    ),
    "an adapter without its tensors": ("lora", lambda f: (f / "adapter_model.bin").unlink(), {}, "no adapter_model"),
    "a Gemma of unknown age": ("2b", lambda f: edited(f, transformers_version=...), {}, "--image-scale sqrt-hidden"),
    "no version": ("2b", lambda f: edited(f, transformers_version="soon"), {}, "which is no version"),
    "another model with two inside": ("hf", lambda f: edited(f, model_type="llava_next"), {}, "'llava_next'"),
    "another placeholder": ("hf", lambda f: edited(f, image_token_index=7), {}, "as id 7"),
    "no tokenizer": ("v1.5", lambda f: (f / "tokenizer.json").unlink(), {}, "no tokenizer"),
    "a tokenizer of another model": (
        "v1.5",
        lambda f: write_tokenizer(f, Parts("gemma").tokenizer()),
        {},
        "--tokenizer",
    ),
    "an unsupported language model": ("v1.5", lambda f: edited(f, model_type="llava_mpt"), {}, "mpt"),
    "scaled pixels": ("hf", lambda f: edited(f, "preprocessor_config.json", rescale_factor=1.0), {}, "only 1/255"),
    "a crop of another size": (
        "hf",
        lambda f: edited(f, "preprocessor_config.json", size={"shortest_edge": 40}),
        {},
        "Say how images were made square in training: --fit",
    ),
    "a base where none is used": ("v1.5", None, {"base": "base"}, "--base: this folder"),
    "a tower where none is used": ("hf", None, {"tower": "clip"}, "--tower: this folder"),
    "an image scale for a Llama": ("v1.5", None, {"image_scale": "sqrt-hidden"}, "only Gemma"),
    "an activation for a Llama": ("v1.5", None, {"activation": "gelu"}, "only Gemma"),
    "no such template": ("v1.5", None, {"template": "gema"}, "Did you mean 'gemma'"),
    "no such dtype": ("v1.5", None, {"dtype": "float8"}, "--dtype"),
    "no samples": ("v1.5", None, {"samples": 0}, "--samples"),
}


def text(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    edited(folder, text_config={**config["text_config"], **values})


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_used_is_named_and_nothing_is_written(sound, tmp_path, case):
    name, damage, options, said = CASES[case]
    for needed in {name, "base", "clip"}:
        if needed != "empty":
            shutil.copytree(sound / needed, tmp_path / needed)
    (tmp_path / "empty").mkdir(exist_ok=True)
    folder = tmp_path / name
    if damage is not None:
        damage(folder)
    options = {key: str(tmp_path / value) if key in ("base", "tower") else value for key, value in options.items()}
    own = {key: options.pop(key) for key in ("dtype", "samples") if key in options}
    with pytest.raises(OlivineError) as raised:
        import_model(Import(folder, tmp_path / "o", ImportOptions(**options), **{"samples": 1, **own}))
    message = str(raised.value)
    assert said in message
    assert "\n" not in message
    assert raised.value.exit_code == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "o"))]


@pytest.mark.parametrize("file", ["pytorch_model-00002-of-00003.bin", "mm_projector.bin", "adapter_model.bin"])
def test_a_pickle_that_would_run_code_is_not_run(sound, tmp_path, monkeypatch, file):
    name = {"p": "sharded", "m": "stage-1", "a": "lora"}[file[0]]
    shutil.copytree(sound / name, tmp_path / name)
    (tmp_path / name / file).write_bytes(pickle.dumps({"weight": Runs()}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="more than tensors"):
        import_model(Import(tmp_path / name, tmp_path / "o"))
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_an_existing_output_is_never_replaced(sound, tmp_path):
    (tmp_path / "o").mkdir()
    with pytest.raises(RequestError, match="exists"):
        import_model(Import(sound / "v1.5", tmp_path / "o"))


def test_a_full_disk_is_seen_before_anything_is_written(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(RequestError, match=r"0\.0 GB are free"):
        import_model(Import(sound / "v1.5", tmp_path / "o"))
    assert not list(tmp_path.iterdir())


def test_what_nothing_can_prove_needs_force(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("olivine.conversion.import_proof.not_written_out", lambda _published: "the tower 'other'")
    with pytest.raises(OlivineError, match="nothing to compare with: the tower 'other'"):
        import_model(Import(sound / "v1.5", tmp_path / "o"))
    assert not list(tmp_path.iterdir())
    made = import_model(Import(sound / "v1.5", tmp_path / "o", force=True))
    assert made.proof is None
    assert "the tower 'other'" in json.loads((tmp_path / "o" / "import.json").read_text())["unproven"]


def test_the_command_says_what_it_did(sound, tmp_path, run):
    code, out, err = run("import", sound / "2b", "--output", tmp_path / "o", "--samples", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["proof"]["passed"] is True
    said = " ".join(err.split())
    for part in (
        "layout: transformers LLaVA",
        "repaired: projector's last layer",
        "not known: the chat template",
        "done:",
    ):
        assert part in said


def test_the_command_ends_with_one_line(sound, tmp_path, run):
    code, out, err = run("import", sound / "clip", "--output", tmp_path / "o")
    assert (code, out) == (2, "")
    assert err.startswith("error: FOLDER:")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_olivines_is_not_imported(sound, tmp_path):
    import_model(Import(sound / "v1.5", tmp_path / "o", samples=1))
    with pytest.raises(RequestError, match="is a checkpoint of Olivine's already"):
        import_model(Import(tmp_path / "o", tmp_path / "again"))
