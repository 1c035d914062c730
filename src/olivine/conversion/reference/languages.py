"""Gemma 1 and language models in Llama's form (Llama, Mistral, Qwen2), written out, with peft's low-rank updates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from olivine.conversion.reference.raw_weights import RawWeights, times_rows
from olivine.conversion.reference.towers import activate

#: What each type's configuration means where it leaves something out (transformers 4.36 to 4.57).
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"heads": 16, "shared": 16, "eps": 1e-6, "tied": True, "head_dim": 256},
    "llama": {"heads": 32, "shared": None, "eps": 1e-6, "tied": False, "head_dim": None},
    "mistral": {"heads": 32, "shared": 8, "eps": 1e-6, "tied": False, "head_dim": None},
    "qwen2": {"heads": 32, "shared": 32, "eps": 1e-6, "tied": False, "head_dim": None},
}
LANGUAGES = tuple(_DEFAULTS)
#: No prompt of a proof has more tokens; attention windows at least this wide change nothing.
LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's token ids, and the features `[tokens, hidden]` of its image, which stand at `start` and after."""

    ids: Sequence[int]
    features: Tensor
    start: int


@dataclass(frozen=True)
class ReferenceLanguage:
    """A language model.

    Attributes:
        weights: hold it.
        model_type: a key of `LANGUAGES`.
        values: its configuration as written.
        activation: of its MLP in training.
        scales_all: everything that it is given is multiplied by sqrt(hidden), as Gemma did before transformers 5.4;
            otherwise a Gemma multiplies token embeddings alone.
        updates, scale: low-rank updates, and what they are multiplied by.
    """

    weights: RawWeights
    model_type: str
    values: Mapping[str, Any]
    activation: str
    scales_all: bool
    updates: RawWeights | None = None
    scale: float = 1.0
    _settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Read the configuration."""
        own, values = _DEFAULTS[self.model_type], self.values
        heads = values.get("num_attention_heads") or own["heads"]
        shared = values.get("num_key_value_heads") or own["shared"] or heads
        head_dim = values.get("head_dim") or own["head_dim"]
        eps = values.get("rms_norm_eps", own["eps"])
        settings = {"heads": heads, "shared": shared, "head_dim": head_dim, "eps": eps, "theta": _theta(values)}
        object.__setattr__(self, "_settings", settings)

    def logits(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return the logits `[vocabulary]` of the token behind each prompt.

        Raises:
            RunError: tensors are not found.
        """
        at = self.weights.prefix("embed_tokens.weight")
        states = [self._embedded(f"{at}embed_tokens.weight", prompt) for prompt in prompts]
        layers = sum(name.endswith(".input_layernorm.weight") for name in self.weights)
        for number in range(layers):
            block = _Block(self, f"{at}layers.{number}.")
            states = [block(each) for each in states]
        last = self.norm(torch.stack([each[-1] for each in states]), f"{at}norm")
        return list(times_rows(last, self.weights, self._head(f"{at}embed_tokens.weight")))

    def _head(self, table: str) -> str:
        stored = [name for name in self.weights if f".{name}".endswith(".lm_head.weight")]
        tied = self.values.get("tie_word_embeddings", _DEFAULTS[self.model_type]["tied"])
        if tied or not stored:
            return table
        return stored[0]

    def _embedded(self, table: str, prompt: Prompt) -> Tensor:
        length = len(prompt.features)
        ids = list(prompt.ids)
        # Image positions are overwritten, and need no row of their own.
        ids[prompt.start : prompt.start + length] = [0] * length
        rows = {each: self.weights.rows(table, each, each + 1)[0] for each in set(ids)}
        states = torch.stack([rows[each] for each in ids])
        scale = states.shape[-1] ** 0.5
        if self.model_type == "gemma" and not self.scales_all:
            states = states * scale
        states[prompt.start : prompt.start + length] = prompt.features
        return states * scale if self.model_type == "gemma" and self.scales_all else states

    def norm(self, states: Tensor, name: str) -> Tensor:
        """Return normed states; Gemma's weights are around zero."""
        weight = self.weights.get(f"{name}.weight") + (self.model_type == "gemma")
        return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self._settings["eps"]) * weight

    @property
    def settings(self) -> Mapping[str, Any]:
        """Sizes of its attention."""
        return self._settings

    def matrices(self, name: str) -> list[Tensor]:
        """Return a linear layer's weight, and what its update is made of."""
        found = [self.weights.get(name)]
        if self.updates is not None:
            inner = name.removesuffix(".weight").rpartition("layers.")[2]
            for side in ("A", "B"):
                endings = (f"layers.{inner}.lora_{side}.weight", f"layers.{inner}.lora_{side}.default.weight")
                found += [self.updates.get(each) for each in self.updates if each.endswith(endings)]
        return found


class _Block:
    """One layer, its weights read once."""

    def __init__(self, model: ReferenceLanguage, at: str) -> None:
        self._model, self._at = model, at
        names = [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")]
        self._matrices = {name: model.matrices(f"{at}{name}.weight") for name in names}
        self._biases = {
            name: model.weights.get(f"{at}{name}.bias") for name in names if f"{at}{name}.bias" in model.weights
        }

    def __call__(self, states: Tensor) -> Tensor:
        """Return `[tokens, hidden]` after the layer."""
        model, at = self._model, self._at
        states = states + self._attention(model.norm(states, f"{at}input_layernorm"))
        normed = model.norm(states, f"{at}post_attention_layernorm")
        gate = activate(self._linear("mlp.gate_proj", normed), model.activation)
        return states + self._linear("mlp.down_proj", gate * self._linear("mlp.up_proj", normed))

    def _linear(self, name: str, states: Tensor) -> Tensor:
        weight, *update = self._matrices[name]
        made = states @ weight.T
        if update:
            down, up = update
            made = made + self._model.scale * (states @ down.T @ up.T)
        return made + self._biases[name] if name in self._biases else made

    def _attention(self, states: Tensor) -> Tensor:
        settings = self._model.settings
        heads, shared = settings["heads"], settings["shared"]
        query = _rotated(self._linear("self_attn.q_proj", states).unflatten(-1, (heads, -1)), settings["theta"])
        key = _rotated(self._linear("self_attn.k_proj", states).unflatten(-1, (shared, -1)), settings["theta"])
        value = self._linear("self_attn.v_proj", states).unflatten(-1, (shared, -1)).transpose(0, 1)
        key, value = (each.repeat_interleave(heads // shared, 0) for each in (key, value))
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ value
        return self._linear("self_attn.o_proj", mixed.transpose(0, 1).flatten(1))


def _rotated(states: Tensor, theta: float) -> Tensor:
    """Return `[tokens, heads, width]` rotated by position, `[heads, tokens, width]`."""
    half = states.shape[-1] // 2
    frequencies = 1 / theta ** (torch.arange(half, dtype=torch.float32) * 2 / states.shape[-1])
    angles = torch.outer(torch.arange(len(states), dtype=torch.float32), frequencies).repeat(1, 2)
    states = states.transpose(0, 1)
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * angles.cos() + turned * angles.sin()


def language_not_written_out(model_type: str, values: Mapping[str, Any]) -> str | None:
    """Return what of a language model's configuration as written is not written out here; None if all is."""
    if model_type not in LANGUAGES:
        return f"the language model {model_type!r}"
    kind = (values.get("rope_parameters") or {}).get("rope_type", "default")
    if values.get("rope_scaling") is not None or kind != "default":
        return "scaled rotary frequencies (rope_scaling)"
    window = values.get("sliding_window")
    windowed = values.get("use_sliding_window", False) if model_type == "qwen2" else window is not None
    if windowed and (window or 0) < LONGEST:
        return f"an attention window of {window}"
    return None


def _theta(values: Mapping[str, Any]) -> float:
    """Return the base of the rotary frequencies."""
    newer = values.get("rope_parameters") or {}
    return float(newer.get("rope_theta") or values.get("rope_theta") or 10000.0)
