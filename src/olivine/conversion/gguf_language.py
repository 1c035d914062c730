"""A language model as a GGUF file of llama.cpp's architecture for its family."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olivine.conversion.gguf_file import GgufFile, as_arrays, gguf_library
from olivine.conversion.gguf_vocabulary import add_vocabulary
from olivine.errors import RequestError
from olivine.model.vlm import VisionLanguageModel

#: Our families, their architecture in llama.cpp, and whether queries and keys are stored for rotating neighbours.
_ARCHITECTURES = {"gemma": ("GEMMA", False), "llama": ("LLAMA", True), "qwen2": ("QWEN2", False)}


def image_scale(config: Any) -> float:
    """Return what llama.cpp's graph of a family multiplies image features by, as it does token embeddings.

    transformers from 5.4 on multiplies token embeddings alone.
    """
    return float(config.hidden_size) ** 0.5 if config.model_type == "gemma" else 1.0


def language_file(vlm: VisionLanguageModel, folder: Path, chat_template: str, name: str) -> GgufFile:
    """Return the language model's file.

    Args:
        vlm: the model.
        folder: its model folder, whose tokenizer files are read.
        chat_template: Jinja that llama.cpp can run.
        name: what llama.cpp shows.

    Raises:
        RequestError: llama.cpp's graph of the family, or this exporter, cannot hold it.
    """
    config = vlm.language.config
    check_language(config)
    gguf = gguf_library()
    architecture, neighbours = _ARCHITECTURES[config.model_type]
    kind = gguf.MODEL_ARCH[architecture]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    state = as_arrays(vlm.language.state_dict())
    if not config.tie_word_embeddings:
        state["lm_head.weight"] = as_arrays({"head": vlm.model.lm_head.weight})["head"]
    tensors = {}
    for key, tensor in state.items():
        long = key if key.startswith("lm_head.") else f"model.{key}"
        new = names.get_name(long, try_suffixes=(".weight", ".bias"))
        assert new is not None, f"{long}: no name in llama.cpp's {architecture}"
        tensors[new] = _stored(key, tensor, config, neighbours=neighbours)

    def fields(writer: Any) -> None:
        _add_sizes(writer, config, name)
        ends = tuple(sorted(vlm.stop_ids(vlm.encoder())))
        add_vocabulary(writer, folder, vlm.model.get_input_embeddings().num_embeddings, config.model_type, ends)
        writer.add_chat_template(chat_template)

    return GgufFile(gguf.MODEL_ARCH_NAMES[kind], tensors, fields)


def _stored(key: str, tensor: NDArray[np.float32], config: Any, *, neighbours: bool) -> NDArray[np.float32]:
    if config.model_type == "gemma" and key.endswith("norm.weight"):
        return tensor + 1  # Gemma's norms store their distance from one
    if neighbours and (".q_proj." in key or ".k_proj." in key):
        heads = config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _add_sizes(writer: Any, config: Any, name: str) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def check_language(config: Any) -> None:
    """Refuse a language model that this exporter, or llama.cpp's graph of its family, cannot hold.

    Raises:
        RequestError: the message names what.
    """
    if config.model_type not in _ARCHITECTURES:
        raise RequestError(
            f"--to gguf: language model {config.model_type!r} is not supported; supported: "
            f"{', '.join(sorted(_ARCHITECTURES))}. Export --to transformers instead."
        )
    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise RequestError(f"--to gguf: rope_type {kind!r} is not supported; only 'default' is.")
    if any(getattr(config, "layer_types", None) or ()) and set(config.layer_types) != {"full_attention"}:
        raise RequestError("--to gguf: attention within a sliding window is not supported.")
    if config.model_type == "gemma" and config.hidden_act not in ("gelu", "gelu_pytorch_tanh"):
        raise RequestError(
            f"--to gguf: hidden_act is {config.hidden_act!r}; llama.cpp's Gemma computes the tanh form of GELU alone."
        )
