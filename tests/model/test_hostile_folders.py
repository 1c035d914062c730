"""Damaged or malicious folders: no code runs, no stack trace, and the file or key is named."""

import json
import os
import pickle
import struct

import pytest
import torch
from model_folders import WEIGHTS, backbone, built, built_with, edit_json, published
from safetensors.torch import load_file

from olivine.errors import DataError, OlivineError, RequestError
from olivine.files import atomic_folder
from olivine.model import checkpoint
from olivine.model.pickled import convert
from olivine.model.tokenizers import load_tokenizer
from olivine.testing import llama_tokenizer, tiny_vlm


class Touch:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["clip", "gemma"])
@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_pickled_backbones_are_never_opened(tmp_path, name, write):
    folder, ran = backbone(name, tmp_path / "part"), tmp_path / "ran"
    (folder / WEIGHTS).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        (pickle.dump if write == "pickle" else torch.save)({"a": Touch(ran)}, file)
    with pytest.raises(RequestError, match=r"pickled .*olivine.model.pickled"):
        built_with(folder)
    with pytest.raises(RequestError, match=r"contains more than tensors"):
        convert(str(folder), tmp_path / "converted")
    assert not ran.exists()
    assert not (tmp_path / "converted").exists()


def test_a_pickled_checkpoint_is_refused(tmp_path):
    folder = tmp_path / "llava"
    checkpoint.save(tiny_vlm(), folder)
    edit_json(folder / "olivine.json", files=None)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(RequestError, match=r"pickled"):
        checkpoint.load(folder)


def test_pickled_tensors_are_converted_on_request(tmp_path):
    folder = backbone("clip", tmp_path / "part")
    before = built_with(folder).tower.state_dict()
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    convert(str(folder), tmp_path / "converted")
    after = built_with(tmp_path / "converted").tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def header_edited(change):
    def edit(path):
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        names = sorted(name for name in header if name != "__metadata__")
        change(header, names)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return edit


def overlap(header, names):
    first, second = header[names[0]], header[names[1]]
    second.update(shape=first["shape"], data_offsets=first["data_offsets"])


def as_folder(path):
    path.unlink()
    path.mkdir()


SAFETENSORS = {
    "a header of a terabyte": lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "empty": lambda path: path.write_bytes(b""),
    "an unknown dtype": header_edited(lambda header, names: header[names[0]].update(dtype="F99")),
    "offsets beyond the file": header_edited(lambda header, names: header[names[0]].update(data_offsets=[0, 1 << 50])),
    "overlapping tensors": header_edited(overlap),
    "a negative shape": header_edited(lambda header, names: header[names[0]].update(shape=[-1, 4])),
    "longer than its header says": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 64),
    "a folder": as_folder,
}


@pytest.mark.parametrize("damage", SAFETENSORS)
def test_damaged_safetensors_are_named(tmp_path, damage):
    folder = backbone("gemma", tmp_path / "part")
    SAFETENSORS[damage](folder / WEIGHTS)
    with pytest.raises(RequestError, match=r"damaged or cut short|no weights there") as caught:
        built_with(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("model_type", [None, "evilmodel"])
def test_code_in_a_folder_is_never_run(tmp_path, model_type, monkeypatch):
    """Nor does transformers ask whether to run it: an answer would be read from the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    folder, ran = backbone("gemma", tmp_path / "part"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nfrom transformers import GemmaConfig as Config\n")
    own = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit_json(folder / "config.json", auto_map=own, **({"model_type": model_type} if model_type else {}))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    if model_type:
        with pytest.raises(RequestError, match=r"'evilmodel'.*auto_map.*never run"):
            built_with(folder)
    else:
        built_with(folder)
    assert not ran.exists()


CONFIGURATIONS = {
    "kernels from the hub": ({"attn_implementation": "evil/kernel"}, "names code on the hub"),
    "quantised": ({"quantization_config": {"load_in_4bit": True}}, "quantised"),
    "no model type": ({"model_type": None}, "model_type is missing"),
    "a width of a billion": ({"hidden_size": 10**9}, "hidden_size"),
    "a negative width": ({"hidden_size": -128}, "hidden_size"),
    "a width of words": ({"hidden_size": "wide"}, "hidden_size"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers"),
    "a million layers": ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads"),
    "a vocabulary of a trillion": ({"vocab_size": 10**12}, "vocab_size"),
    "more weights than there are": ({"hidden_size": 2**16, "intermediate_size": 2**16}, "config.json describes"),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_impossible_configurations_are_refused_before_memory_is_allocated(tmp_path, kind):
    folder = backbone("gemma", tmp_path / "part")
    values, message = CONFIGURATIONS[kind]
    edit_json(folder / "config.json", **values)
    with pytest.raises(RequestError, match=message) as caught:
        built(published("clip"), str(folder))
    assert "model.language.from" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "", "\x00\x01", '"text"'])
def test_an_invalid_configuration_file_is_refused(tmp_path, text):
    folder = backbone("gemma", tmp_path / "part")
    (folder / "config.json").write_text(text)
    with pytest.raises(RequestError, match=r"config.json"):
        built(published("clip"), str(folder))


def test_an_adapter_is_no_model(tmp_path):
    folder = backbone("gemma", tmp_path / "part")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere/else", "peft_type": "LORA"}')
    with pytest.raises(RequestError, match=r"adapter"):
        built_with(folder)


PREPROCESSORS = {
    "a mean of one channel": '{"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}',
    "a mean of words": '{"image_mean": "x"}',
    "a standard deviation of zero": '{"image_std": [0, 0, 0]}',
    "a negative standard deviation": '{"image_std": [-1, 1, 1]}',
    "a mean that is no number": '{"image_mean": [NaN, 0, 0]}',
    "an infinite standard deviation": '{"image_std": [Infinity, 1, 1]}',
    "means of byte values": '{"image_mean": [123.7, 116.3, 103.5]}',
    "a size of a billion": '{"crop_size": {"height": 1e9}}',
    "a negative size": '{"crop_size": -16}',
    "no square": '{"crop_size": {"height": 96, "width": 48}}',
    "another scale of pixels": '{"rescale_factor": 0.00784}',
    "no scale of pixels": '{"do_rescale": false}',
    "no normalisation": '{"do_normalize": false}',
    "a list": "[1, 2]",
    "a cut file": "{",
}


@pytest.mark.parametrize("kind", PREPROCESSORS)
def test_bad_preprocessor_values_are_refused(tmp_path, kind):
    folder = backbone("clip", tmp_path / "part")
    (folder / "preprocessor_config.json").write_text(PREPROCESSORS[kind])
    with pytest.raises(RequestError, match=r"preprocessor_config.json"):
        built_with(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


TOKENIZERS = {
    "cut": lambda folder: cut(folder / "tokenizer.json"),
    "a list": lambda folder: (folder / "tokenizer.json").write_text("[]"),
    "an empty object": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "none": lambda folder: (folder / "tokenizer.json").unlink(),
    "a broken configuration": lambda folder: (folder / "tokenizer_config.json").write_text("{"),
    "a list for a configuration": lambda folder: (folder / "tokenizer_config.json").write_text("[3]"),
}


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_damaged_tokenizers_are_refused(tmp_path, damage):
    folder = backbone("gemma", tmp_path / "part")
    TOKENIZERS[damage](folder)
    with pytest.raises(OlivineError, match=r"tokenizer"):
        built_with(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    tokenizer = load_tokenizer(published("gemma"), "key")
    tokenizer.add_tokens([f"new{number}" for number in range(40)])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(RequestError, match=r"model.language.tokenizer: .* embedding has .* rows"):
        built(published("clip"), published("gemma"), str(tmp_path / "larger"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llava"
    checkpoint.save(tiny_vlm(), folder)
    return folder


IMAGE = {"size": 16, "fit": "pad", "mean": [0.5] * 3, "std": [0.5] * 3}
COMPANIONS = {
    "an empty object": ({}, "template"),
    "a list": ([], "olivine.json"),
    "an unknown template": ({"template": "gemmma", "image": IMAGE}, "Did you mean 'gemma'"),
    "a template of a wrong type": ({"template": 3, "image": IMAGE}, "template"),
    "an unknown fit": ({"template": "gemma", "image": {**IMAGE, "fit": "bend"}}, "image.fit"),
    "a size of words": ({"template": "gemma", "image": {**IMAGE, "size": "large"}}, "image.size"),
    "a size of another tower": ({"template": "gemma", "image": {**IMAGE, "size": 32}}, "image.size"),
    "one mean": ({"template": "gemma", "image": {**IMAGE, "mean": [0.5]}}, "image.mean"),
    "a standard deviation of zero": ({"template": "gemma", "image": {**IMAGE, "std": [0, 1, 1]}}, "image.std"),
    "checksums of no kind": ({"template": "gemma", "image": IMAGE, "files": {WEIGHTS: "abc"}}, "files"),
    "checksums outside": (
        {"template": "gemma", "image": IMAGE, "files": {"../x": {"bytes": 1, "sha256": "0" * 64}}},
        "no file of the folder",
    ),
}


@pytest.mark.parametrize("kind", COMPANIONS)
def test_a_bad_olivine_json_is_refused(saved, kind):
    content, message = COMPANIONS[kind]
    path = saved / "olivine.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            checkpoint.load(saved)
    finally:
        path.write_text(before)


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    folder = tmp_path / "llava"
    checkpoint.save(tiny_vlm(), folder)
    edit_json(folder / "olivine.json", files=None)
    llama_tokenizer().save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(OlivineError, match=r"tokenizer"):
        checkpoint.load(folder)


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to a file", "broken link", "folder with files"])
@pytest.mark.parametrize("name", [".checkpoint.partial", ".checkpoint.replaced"])
def test_existing_files_at_a_folders_path_are_replaced_and_links_are_not_followed(tmp_path, kind, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    planted, target = tmp_path / name, tmp_path / "checkpoint"
    target.mkdir()
    if kind == "file":
        planted.write_text("planted")
    elif kind == "folder with files":
        planted.mkdir()
        (planted / "old").write_text("old")
    else:
        aims = {"link to a folder": elsewhere, "link to a file": elsewhere / "kept", "broken link": tmp_path / "no"}
        planted.symlink_to(aims[kind])
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert (elsewhere / "kept").read_text() == "kept"
    assert not planted.exists()
    assert not planted.is_symlink()


@pytest.mark.parametrize("kind", ["link to a folder", "broken link"])
def test_a_link_instead_of_the_folder_is_replaced_and_not_followed(tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    target = tmp_path / "checkpoint"
    target.symlink_to(elsewhere if kind == "link to a folder" else tmp_path / "no")
    with atomic_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert not target.is_symlink()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
