"""Tokenizers, read and checked: complete, without code of their own, and with a row of the embedding for every id.

Training a new one is in `data.vocabulary`.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from olivine.data.vocabulary import IMAGE_TOKEN
from olivine.errors import RequestError
from olivine.files import read_json
from olivine.model import quiet_loading
from olivine.model.companion import verify_module_files
from olivine.model.configuration import understood
from olivine.model.extra_tokens import extra_tokens
from olivine.model.hub import TOKENIZER, local_folder

_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
#: Each of these is a vocabulary; without any, transformers would create an empty tokenizer.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(source: str, key: str) -> Any:
    """Return a published or saved tokenizer; `key` is its name in messages.

    Raises:
        RequestError: it cannot be found or fetched, is damaged, or needs code of its own.
        DataError: it differs from the checksums beside it.
    """
    folder = local_folder(source, key, TOKENIZER)
    verify_module_files(folder, TOKENIZER)
    return folder_tokenizer(folder, key)


def folder_tokenizer(folder: Path, key: str) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        RequestError: as `load_tokenizer`.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise RequestError(f"{key}: {folder} holds no tokenizer (none of {', '.join(_VOCABULARIES)}).")
    for name in _JSON:
        if (folder / name).is_file() and not isinstance(read_json(folder / name), dict):
            raise RequestError(f"{key}: {folder / name}: expected an object.")
    with quiet_loading():
        tokenizer = understood(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
            f"{key}: the tokenizer in {folder} cannot be loaded",
        )
    # Another model's tokenizer class reads a foreign vocabulary as an empty one.
    if not tokenizer.get_vocab():
        raise RequestError(f"{key}: the tokenizer in {folder} has no tokens.")
    return tokenizer


def image_token(tokenizer: Any) -> int:
    """Return the id of `<image>`, which is added to the tokenizer if it has none."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"extra_special_tokens": [*extra_tokens(tokenizer), IMAGE_TOKEN]})
    token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return token_id


def check_vocabulary_rows(tokenizer: Any, rows: int, key: str) -> None:
    """Refuse a tokenizer with ids beyond the `rows` rows of a pretrained embedding; `<image>` needs no row.

    Raises:
        RequestError: the tokenizer belongs to another language model.
    """
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows and token != IMAGE_TOKEN)
    if beyond:
        raise RequestError(
            f"{key}: {len(beyond):,} of the tokenizer's tokens have ids from {beyond[0][0]:,} on "
            f"({beyond[0][1]!r}, ...), but the language model's embedding has {rows:,} rows. Give the tokenizer "
            "that belongs to it."
        )
