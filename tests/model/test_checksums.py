"""A model folder that was changed after it was written is refused or reported."""

import json
import logging

import pytest
import torch
from model_folders import WEIGHTS, built, edit_json, edit_tensors, published
from transformers import LlavaForConditionalGeneration

from olivine.errors import DataError
from olivine.model import checkpoint
from olivine.model.tokenizers import load_tokenizer
from olivine.testing import tiny_vlm


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tiny_vlm(), tmp_path / "llava")
    return tmp_path / "llava"


def flip(path):
    content = bytearray(path.read_bytes())
    content[int(len(content) * 0.7)] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_flipped_bit_is_named(folder, name):
    flip(folder / name)
    with pytest.raises(DataError, match=f"{name}: content differs from the checksum"):
        checkpoint.load(folder)


def test_a_truncated_file_is_named_with_its_length(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(DataError, match=f"{WEIGHTS} has {len(content) - 100:,} bytes instead of {len(content):,}"):
        checkpoint.load(folder)


def test_a_missing_file_is_named(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"{WEIGHTS} is missing"):
        checkpoint.load(folder)


def test_edited_weights_are_named_and_can_be_accepted(folder, caplog):
    edit_tensors(folder, lambda tensors: {name: tensor * 1 + 0.5 for name, tensor in tensors.items()})
    with pytest.raises(DataError, match=f'{WEIGHTS}.*remove "files"'):
        checkpoint.load(folder)
    edit_json(folder / "olivine.json", files=None)
    with caplog.at_level(logging.WARNING):
        checkpoint.load(folder)
    assert [record.message for record in caplog.records if "unverified" in record.message] != []


def test_an_unchanged_folder_is_read_without_a_message(folder, caplog):
    with caplog.at_level(logging.WARNING):
        checkpoint.load(folder)
    assert not [record for record in caplog.records if record.name.startswith("olivine")]


def test_a_folder_without_checksums_says_so_in_one_line_on_stderr(folder, monkeypatch, capsys):
    edit_json(folder / "olivine.json", files=None)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # remove pytest's own; the command line has none
    checkpoint.load(folder)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "unverified" in line] == lines
    assert len(lines) == 1


@pytest.mark.parametrize(
    "name", ["added_tokens.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
)
def test_a_file_added_to_a_finished_folder_is_named(folder, name):
    (folder / name).write_text("{}")
    with pytest.raises(DataError, match=f"{name}: has no checksum"):
        checkpoint.load(folder)


def test_files_that_loading_does_not_read_may_be_added(folder):
    (folder / "README.md").write_text("Trained on a rainy day.")
    checkpoint.load(folder)


def test_an_empty_list_of_checksums_verifies_nothing(folder):
    content = json.loads((folder / "olivine.json").read_text())
    (folder / "olivine.json").write_text(json.dumps({**content, "files": {}}))
    with pytest.raises(DataError, match=f"{WEIGHTS}.*has no checksum"):
        checkpoint.load(folder)


@pytest.mark.parametrize("part", ["tower", "language model", "tokenizer"])
def test_a_flipped_bit_is_named_where_the_folder_provides_a_module(folder, part):
    flip(folder / ("tokenizer.json" if part == "tokenizer" else WEIGHTS))
    uses = {
        "tower": lambda: built(str(folder), published("gemma")),
        "language model": lambda: built(published("clip"), str(folder)),
        "tokenizer": lambda: load_tokenizer(str(folder), "key"),
    }
    with pytest.raises(DataError, match="content differs from the checksum"):
        uses[part]()


def test_a_module_needs_no_other_files_of_the_folder(folder):
    (folder / WEIGHTS).unlink()  # as after downloading only a tokenizer
    assert len(load_tokenizer(str(folder), "key"))


def test_a_module_from_a_folder_without_checksums_is_reported_as_unverified(folder, caplog):
    edit_json(folder / "olivine.json", files=None)
    with caplog.at_level(logging.WARNING):
        load_tokenizer(str(folder), "key")
    assert [record.message for record in caplog.records if "unverified" in record.message] != []


def test_a_folder_with_checksums_stays_plain_transformers(folder):
    plain = LlavaForConditionalGeneration.from_pretrained(folder).state_dict()
    own = checkpoint.load(folder).model.state_dict()
    assert all(torch.equal(own[name], plain[name]) for name in own)
