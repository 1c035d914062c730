"""Today's model of a published one: its configuration, and every tensor planned under the hub's names.

What a folder holds is for `layouts` to say; writing is in `importing`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from olivine.conversion.published import Adapter, Published, Repair
from olivine.conversion.raw_tensors import RawTensor
from olivine.conversion.tensor_stream import PlannedTensor, as_stored, extended, scaled
from olivine.errors import RequestError

#: transformers' name of the exact GELU that its Gemma does not rewrite to the tanh form.
EXACT_GELU = "gelu_python"
#: Rows of an embedding are a multiple of this, as LLaVA-Gemma's conversion has it.
_MULTIPLE = 64
_INNER = {"clip_vision_model": "vision_model.", "siglip_vision_model": "vision_model."}


def text_values(published: Published, rows: int) -> dict[str, Any]:
    """Return the language model's configuration for today's transformers; repairs are added to the published model's.

    Args:
        published: the model.
        rows: of the embedding.
    """
    values = {**published.text, "vocab_size": rows}
    if published.text["model_type"] != "gemma":
        values["hidden_activation" if "hidden_act" not in values else "hidden_act"] = published.activation
        return values
    values.pop("hidden_activation", None)
    values["hidden_act"] = EXACT_GELU if published.activation == "gelu" else published.activation
    if published.activation == "gelu" and published.text_as_written.get("hidden_act") != EXACT_GELU:
        published.repairs.append(
            Repair(
                f"language model's activation written as {EXACT_GELU} (exact GELU)",
                "the model was trained with the exact form; transformers 5 turns every other spelling of it in a Gemma "
                "into the tanh approximation",
            )
        )
    return values


def embedding_rows(published: Published, tokens: int) -> int:
    """Return how many rows the embedding needs for a tokenizer of `tokens` ids; a larger one stays as it is."""
    stored = embedding(published).shape[0]
    if tokens <= stored:
        return stored
    rows = -(-tokens // _MULTIPLE) * _MULTIPLE
    published.repairs.append(
        Repair(
            f"embedding extended from {stored:,} to {rows:,} rows (each new one the mean of the old)",
            "<image> is a token of the tokenizer in transformers; LLaVA's own code has it as -200 without a row",
        )
    )
    return rows


def planned_tensors(published: Published, rows: int, dtype: torch.dtype | None) -> list[PlannedTensor]:
    """Return every tensor of the model under the hub's names, in the order in which it is written.

    Args:
        published: the model; repairs are added to it.
        rows: of the embedding.
        dtype: to write; None keeps that of each part.

    Raises:
        RequestError: a head differs from the embedding that it is tied to.
    """
    planned = [*_tower(published), *_projector(published), *_language(published, rows)]
    kept = dtype or _common_dtype(published)
    return [replace(each, dtype=kept) for each in planned]


def _common_dtype(published: Published) -> torch.dtype:
    """Return the one dtype of a checkpoint: the language model's."""
    stored = embedding(published).dtype
    return torch.float32 if stored == torch.float64 else stored


def embedding(published: Published) -> RawTensor:
    """Return the language model's embedding.

    Raises:
        RequestError: it is missing.
    """
    name = "embed_tokens.weight"
    if name not in published.language:
        raise RequestError(f"FOLDER: {published.folder}: the language model's {name} is missing. Fetch it again.")
    return published.language[name]


def _tower(published: Published) -> list[PlannedTensor]:
    inner = _INNER.get(published.vision["model_type"], "")
    return [
        as_stored(f"vision_tower.{inner}{name}", tensor, tensor.dtype)
        for name, tensor in sorted(published.tower.items())
        if not name.endswith("position_ids")
    ]


def _projector(published: Published) -> list[PlannedTensor]:
    planned = {name: as_stored(name, tensor, tensor.dtype) for name, tensor in published.projector.items()}
    if published.connector is not None:
        return _named(planned)
    last = "linear_2" if "linear_2.weight" in planned else "linear_1"
    if published.image_scale == "sqrt-hidden":
        width = int(published.text["hidden_size"])
        for name in (f"{last}.weight", f"{last}.bias"):
            if name in planned:
                planned[name] = scaled(planned[name], math.sqrt(width))
        published.repairs.append(
            Repair(
                f"projector's last layer times sqrt({width}) = {math.sqrt(width):.2f}",
                "Gemma multiplied image features by it in training, as it did everything it was given; transformers "
                "from 5.4 on multiplies token embeddings alone",
            )
        )
    if last == "linear_1":
        # transformers' projector has two layers: the second is the identity, with no activation between.
        width = planned["linear_1.weight"].shape[0]
        planned["linear_2.weight"] = _computed("linear_2.weight", torch.eye(width))
        planned["linear_2.bias"] = _computed("linear_2.bias", torch.zeros(width))
    return _named(planned)


def _named(planned: Mapping[str, PlannedTensor]) -> list[PlannedTensor]:
    return [replace(each, name=f"multi_modal_projector.{name}") for name, each in sorted(planned.items())]


def _computed(name: str, tensor: torch.Tensor) -> PlannedTensor:
    return PlannedTensor(name, tuple(tensor.shape), tensor.dtype, lambda start, stop: tensor[start:stop])


def _language(published: Published, rows: int) -> list[PlannedTensor]:
    tied = bool(published.text.get("tie_word_embeddings"))
    planned = []
    for name, tensor in sorted(published.language.items()):
        if name == "lm_head.weight":
            if tied:
                _check_tied(published, tensor)
                continue
            head = as_stored("language_model.lm_head.weight", tensor, tensor.dtype)
            planned.append(extended(head, rows) if rows > tensor.shape[0] else head)
            continue
        each = as_stored(f"language_model.model.{name}", tensor, tensor.dtype)
        if name in published.adapters:
            each = _merged(each, published.adapters[name])
        if name == "embed_tokens.weight" and rows > tensor.shape[0]:
            each = extended(each, rows)
        planned.append(each)
    return planned


def _merged(planned: PlannedTensor, adapter: Adapter) -> PlannedTensor:
    def rows(start: int, stop: int) -> torch.Tensor:
        return planned.rows(start, stop).float() + adapter.delta(start, stop)

    return PlannedTensor(planned.name, planned.shape, planned.dtype, rows)


def _check_tied(published: Published, head: RawTensor) -> None:
    """Require a stored copy of a tied head, which is dropped, to be one."""
    table = embedding(published)
    step = 4096
    same = head.shape == table.shape and all(
        torch.equal(head.rows(start, stop), table.rows(start, stop))
        for start in range(0, head.shape[0], step)
        for stop in [min(start + step, head.shape[0])]
    )
    if not same:
        raise RequestError(
            f"FOLDER: {published.folder}: config.json ties the head to the embedding (tie_word_embeddings), but the "
            "files hold two different tables. Set tie_word_embeddings to false there if both were trained."
        )


def under_file_names(
    planned: Sequence[PlannedTensor], expected: Mapping[str, tuple[str, tuple[int, ...]]], where: str
) -> list[PlannedTensor]:
    """Compare what will be written with what the model of the configuration has, and name it as files have it.

    Args:
        planned: under the hub's names.
        expected: name in the file and shape by the hub's name.
        where: begins messages.

    Raises:
        RequestError: tensors are missing, unknown or of another shape; the message names one.
    """
    found = {each.name: each.shape for each in planned}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise RequestError(f"{where}: {len(missing)} weights are missing ({missing[0]}, ...). Fetch the folder again.")
    if unknown:
        raise RequestError(
            f"{where}: {len(unknown)} weights have no place in the model that config.json describes "
            f"({unknown[0]}, ...). Give the configuration that belongs to these files."
        )
    for name, shape in found.items():
        if shape != expected[name][1]:
            raise RequestError(
                f"{where}: {name} is {list(shape)}, but config.json describes {list(expected[name][1])}. Give the "
                "configuration that belongs to these files."
            )
    return [replace(each, name=expected[each.name][0]) for each in planned]
