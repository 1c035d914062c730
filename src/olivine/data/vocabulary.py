"""A byte-pair tokenizer in Gemma's id layout, trained on given texts: for randomly initialised models.

Tokenizers of published models are loaded with those models, in `model`.
"""

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from olivine.errors import RequestError

#: Gemma's first 473 ids: control tokens, unused ones, turn markers at 106 and 107, newline at 108, bytes from 217;
#: then the space.
_FIXED = (
    ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    + [f"<unused{i}>" for i in range(101)]
    + ["<start_of_turn>", "<end_of_turn>", "\n"]
    + [f"<unused{i}>" for i in range(101, 209)]
    + [f"<0x{byte:02X}>" for byte in range(256)]
    # The space, by its own symbol: without this piece it would fall back to the three bytes of that symbol.
    + ["▁"]
)
IMAGE_TOKEN = "<image>"  # noqa: S105
#: In every prompt, so each should be one token, as in Gemma; no corpus of conversations contains them.
_ROLE_WORDS = ("user", "model")
_ROLE_COUNT = 100_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a tokenizer of at most `vocab_size` ids, `<image>` (the last one) included.

    The same texts in the same order give the same tokenizer. Any text can be encoded: what was not seen falls back to
    bytes.

    Raises:
        RequestError: `vocab_size` leaves no room after Gemma's fixed ids.
    """
    from transformers import GemmaTokenizer

    free_ids = vocab_size - len(_FIXED) - 1
    if free_ids < 0:
        raise RequestError(f"vocab_size {vocab_size}: expected at least {len(_FIXED) + 1} (control tokens and bytes).")
    pieces, merges = _learn_merges(texts, free_ids)
    vocab = {piece: index for index, piece in enumerate([*_FIXED, *pieces])}
    return GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        add_bos_token=True,
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>", IMAGE_TOKEN],
    )


def byte_tokenizer() -> Any:
    """Return a tokenizer of the same layout without merges, so text is its bytes. For viewing data without a model."""
    return train_tokenizer([], len(_FIXED) + 1)


def _learn_merges(texts: Iterable[str], free_ids: int) -> tuple[list[str], list[tuple[str, str]]]:
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Merges never cross a word, a newline or a punctuation mark; encoding then needs no splitting.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=max(free_ids, 1), special_tokens=[], show_progress=False)
    learner.train_from_iterator(chain(texts, _ROLE_WORDS * _ROLE_COUNT), trainer)
    model = json.loads(learner.to_str())["model"]
    # Newline and space have fixed ids.
    pieces = [piece for piece in sorted(model["vocab"], key=model["vocab"].__getitem__) if piece not in _FIXED]
    kept = set(pieces[:free_ids])
    kept |= {"▁"}
    merges = [(left, right) for left, right in model["merges"] if {left, right, left + right} <= kept]
    return pieces[:free_ids], merges
