"""A byte-pair tokenizer in Gemma's id layout, trained on given texts: for models that start at random.

Tokenizers of published models are loaded beside those models, in `model`.
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
    # The space, by its own name: were it not a piece, it would fall back to the three bytes of that name.
    + ["▁"]
)
IMAGE_TOKEN = "<image>"  # noqa: S105
#: In every prompt, so each is to be one token, as it is in Gemma; no corpus of conversations spells them out.
_ROLE_WORDS = ("user", "model")
_ROLE_COUNT = 100_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a tokenizer of at most `vocab_size` ids, `<image>` (the last one) included.

    The same texts in the same order give the same tokenizer. Any text can be written: what was not seen falls back
    to bytes.

    Raises:
        RequestError: `vocab_size` leaves no room behind Gemma's fixed ids.
    """
    from transformers import GemmaTokenizer

    room = vocab_size - len(_FIXED) - 1
    if room < 0:
        raise RequestError(f"vocab_size {vocab_size}: expected at least {len(_FIXED) + 1} (control tokens and bytes).")
    pieces, merges = _learn_merges(texts, room)
    vocab = {piece: index for index, piece in enumerate([*_FIXED, *pieces])}
    return GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        add_bos_token=True,
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>", IMAGE_TOKEN],
    )


def byte_tokenizer() -> Any:
    """The same layout without any merge: every text is its bytes. For looking at data without a model."""
    return train_tokenizer([], len(_FIXED) + 1)


def _learn_merges(texts: Iterable[str], room: int) -> tuple[list[str], list[tuple[str, str]]]:
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Merges never cross a word, a newline or a punctuation mark; encoding needs no splitting to keep to that.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=max(room, 1), special_tokens=[], show_progress=False)
    learner.train_from_iterator(chain(texts, _ROLE_WORDS * _ROLE_COUNT), trainer)
    model = json.loads(learner.to_str())["model"]
    # Newline and space have their fixed places.
    pieces = [piece for piece in sorted(model["vocab"], key=model["vocab"].__getitem__) if piece not in _FIXED]
    kept = set(pieces[:room])
    kept |= {"▁"}
    merges = [(left, right) for left, right in model["merges"] if {left, right, left + right} <= kept]
    return pieces[:room], merges
