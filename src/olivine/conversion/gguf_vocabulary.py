"""A tokenizer as GGUF metadata: tokens, types, scores or merges, and the chat template llama.cpp can run.

Tokenizers of two kinds are known: BPE with byte fallback, as Gemma's and Llama 2's, and byte-level BPE whose splitting
llama.cpp has under a name.
"""

import json
from pathlib import Path
from typing import Any

from olivine.conversion.gguf_file import gguf_library
from olivine.errors import RequestError
from olivine.files import read_json

#: llama.cpp's names of how texts are split before merging, by our language families.
_SPLITTING = {"qwen2": "qwen2", "qwen3": "qwen2", "smollm3": "smaug-bpe"}


def add_vocabulary(writer: Any, folder: Path, rows: int, family: str, ends: tuple[int, ...]) -> None:
    """Write the tokenizer of a model folder.

    Args:
        writer: a `gguf.GGUFWriter`.
        folder: holds tokenizer.json and tokenizer_config.json.
        rows: of the embedding; ids beyond the tokenizer's become unused tokens.
        family: model type of the language model.
        ends: ids that end a reply.

    Raises:
        RequestError: llama.cpp has no tokenizer of this kind.
    """
    values = read_json(folder / "tokenizer.json")
    model, special = values["model"], {token["id"]: token for token in values.get("added_tokens", [])}
    if model.get("type") != "BPE":
        raise RequestError(f"{folder}: tokenizer.json: a {model.get('type')!r} model; only BPE is exported.")
    names: dict[int, str] = {number: token for token, number in model["vocab"].items()}
    names |= {number: token["content"] for number, token in special.items()}
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, model, names, special, rows)
    else:
        _add_byte_level(writer, model, names, special, rows, family, folder)
    _add_special_ids(writer, folder, values, names, ends)


def begins_with_space(folder: Path) -> bool:
    """Whether a tokenizer puts a space before a text's first word, and nowhere else, as Llama 2's does.

    llama.cpp would put one behind every image and marker too, so that it is told of none, and the chat template begins
    with one.
    """
    splitting = read_json(folder / "tokenizer.json").get("pre_tokenizer") or {}
    return splitting.get("type") == "Metaspace" and splitting.get("prepend_scheme") == "first"


def _add_sentencepiece(writer: Any, model: Any, names: Any, special: Any, rows: int) -> None:
    """As llama.cpp's `llama` tokenizer: pieces merge by score, so that a merge's rank is its token's score."""
    kinds = gguf_library().TokenType
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    unknown = model.get("unk_token")
    tokens, scores, types = [], [], []
    for number in range(rows):
        name = names.get(number, f"<unused_row_{number}>")
        tokens.append(name.encode())
        scores.append(-float(ranks.get(name, len(ranks))))
        if number not in names:
            types.append(kinds.UNUSED)
        elif name == unknown:
            types.append(kinds.UNKNOWN)
        elif number in special:
            types.append(kinds.CONTROL if special[number].get("special") else kinds.USER_DEFINED)
        elif len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            types.append(kinds.BYTE)
        else:
            types.append(kinds.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(False)


def _add_byte_level(writer: Any, model: Any, names: Any, special: Any, rows: int, family: str, folder: Path) -> None:
    kinds = gguf_library().TokenType
    splitting = _SPLITTING.get(family)
    if splitting is None and any(token["content"] == "<|begin_of_text|>" for token in special.values()):
        splitting = "llama-bpe"
    if splitting is None:
        raise RequestError(
            f"{folder}: tokenizer.json: byte-level BPE of a {family!r}; llama.cpp splits texts by a name for each "
            f"family, and only {', '.join(sorted({*_SPLITTING, 'llama 3'}))} are known here."
        )
    tokens = [names.get(number, f"<unused_row_{number}>").encode() for number in range(rows)]
    types = [
        kinds.UNUSED
        if number not in names
        else (kinds.CONTROL if special[number].get("special") else kinds.USER_DEFINED)
        if number in special
        else kinds.NORMAL
        for number in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])


def _add_special_ids(writer: Any, folder: Path, values: Any, names: dict[int, str], ends: tuple[int, ...]) -> None:
    config = read_json(folder / "tokenizer_config.json")
    ids = {token: number for number, token in names.items()}

    def number(key: str) -> int | None:
        token = config.get(key)
        return ids.get(token["content"] if isinstance(token, dict) else token) if token else None

    add = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for key, function in add.items():
        found = number(key)
        if found is not None:
            function(found)
    others = [end for end in ends if end != number("eos_token")]
    if len(others) > 1:
        raise RequestError(
            f"{folder}: replies end with {len(ends)} tokens; llama.cpp takes two, one of them the end of sequence."
        )
    if others:
        writer.add_eot_token_id(others[0])
    begins = "TemplateProcessing" in json.dumps(values.get("post_processor")) and number("bos_token") is not None
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)
