"""The interface of a family of language models; one subclass per family, each in its own file.

`registry` lists the families; how a window or a soft cap is computed is in `model/attention.py` and
`model/position_attention.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from olivine.errors import RequestError, unknown_name

FULL, SLIDING = "full_attention", "sliding_attention"
#: Options of transformers' configurations that no attention path here computes, and the values that turn them off.
_NOT_COMPUTED: Mapping[str, tuple[Any, ...]] = {
    "attention_chunk_size": (None,),
    "use_bidirectional_attention": (None, False),
    "attention_sinks": (None, False),
    "num_kv_shared_layers": (None, 0),
    "use_mamba": (None, False),
}
#: Rotary frequencies that depend on the longest sequence of a batch: one sample would change another's.
_BY_BATCH = ("dynamic",)


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template that a family's models were tuned with, recognised by tokens that their tokenizers then have."""

    name: str
    tokens: tuple[str, ...] = ()


class LanguageFamily:
    """A family of decoder-only language models.

    A subclass states what is particular. The layout is transformers' own for all of them: a backbone under `model` with
    `embed_tokens`, `layers` and `norm`, and a head `lm_head`.

    Attributes:
        name: what it is commonly called.
        model_types: transformers' `model_type` of its configurations.
        templates: those its models were tuned with, by preference; the first whose tokens the tokenizer has is taken.
        scales_embeddings: whether token embeddings (not image features) are multiplied by sqrt(hidden).
        caps_attention: whether its attention computes `attn_logit_softcapping`.
        caps_logits: whether its own head computes `final_logit_softcapping`.
        joined_layers: linear layers that hold several of the usual ones, by name.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    templates: ClassVar[tuple[Template, ...]] = ()
    scales_embeddings: ClassVar[bool] = False
    caps_attention: ClassVar[bool] = False
    caps_logits: ClassVar[bool] = False
    joined_layers: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def windows(self, config: Any) -> tuple[int | None, ...]:
        """Return for each layer how many tokens a query sees, itself included; None for all before it."""
        layers: int = config.num_hidden_layers
        kinds: Sequence[str] = getattr(config, "layer_types", None) or [FULL] * layers
        return tuple(config.sliding_window if kind == SLIDING else None for kind in kinds[:layers])

    def attention_cap(self, config: Any) -> float | None:
        """Return the soft cap of attention scores, cap * tanh(score / cap); None for none."""
        return getattr(config, "attn_logit_softcapping", None)

    def final_cap(self, config: Any) -> float | None:
        """Return the soft cap of the head's logits; None for none."""
        return getattr(config, "final_logit_softcapping", None)

    def longest(self, config: Any) -> int | None:
        """Return the longest sample, in tokens, whose rotary frequencies do not depend on its length; None for any."""
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") != "longrope":
            return None
        return rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)

    def check(self, config: Any, key: str) -> None:
        """Refuse a configuration with an option that is not computed here.

        Raises:
            RequestError: the message begins with `key` and names the option.
        """
        for name, none in _NOT_COMPUTED.items():
            if getattr(config, name, None) not in none:
                raise RequestError(f"{key}: {name} is {getattr(config, name)!r}, which is not supported.")
        unknown = sorted(set(getattr(config, "layer_types", None) or ()) - {FULL, SLIDING})
        if unknown:
            raise RequestError(f"{key}: layer_types: unsupported {', '.join(unknown)}. Supported: {FULL}, {SLIDING}.")
        self._check_windows(config, key)
        caps = ((self.caps_attention, "attn_logit_softcapping"), (self.caps_logits, "final_logit_softcapping"))
        for computed, name in caps:
            value = getattr(config, name, None)
            if value is not None and not computed:
                raise RequestError(f"{key}: {name} is {value}, which transformers' {self.name} ignores. Remove it.")
            if value is not None and not value > 0:
                raise RequestError(f"{key}: {name} is {value}; expected a positive number or null.")
        if _rope_types(config) & set(_BY_BATCH):
            raise RequestError(
                f"{key}: rope_type 'dynamic' changes a sample's positions by the longest one beside it, and is not "
                "supported. Use 'linear', 'yarn', 'llama3' or 'longrope'."
            )

    def _check_windows(self, config: Any, key: str) -> None:
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and len(kinds) < config.num_hidden_layers:
            raise RequestError(f"{key}: layer_types names {len(kinds)} layers of {config.num_hidden_layers}.")
        for window in set(self.windows(config)) - {None}:
            if isinstance(window, bool) or not isinstance(window, int) or window < 1:
                raise RequestError(f"{key}: sliding_window is {window!r}; expected a whole number from 1.")
        if kinds is not None and SLIDING in kinds and config.sliding_window is None:
            raise RequestError(f"{key}: layer_types has {SLIDING} layers, but sliding_window is null.")

    def template(self, vocabulary: Collection[str], known: Collection[str], key: str) -> str:
        """Return the template that a tokenizer's model was tuned with.

        Args:
            vocabulary: the tokenizer's tokens.
            known: names of templates.
            key: its name in messages.

        Raises:
            RequestError: none of the family's templates fits.
        """
        for template in self.templates:
            if template.name in known and all(token in vocabulary for token in template.tokens):
                return template.name
        raise RequestError(
            f"{key}: which one this {self.name} was tuned with is unknown: its tokenizer has the marks of none. "
            f"Name it. Valid: {', '.join(sorted(known))}."
        )

    def linear_layers(self, names: Sequence[str], present: Collection[str]) -> tuple[str, ...]:
        """Return the names of linear layers as this family has them.

        Where one layer holds several of the usual ones (Phi-3: q, k and v in `qkv_proj`) and all of these are named,
        it replaces them; a name without such a layer is kept, and the caller checks it.
        """
        found = list(dict.fromkeys(names))
        for joined, parts in self.joined_layers.items():
            if joined in present and all(part in found for part in parts):
                place = found.index(parts[0])
                found = [name for name in found if name not in parts]
                found.insert(place, joined)
        return tuple(found)


def one_window(config: Any) -> tuple[int | None, ...]:
    """Return the windows of a family whose `sliding_window` holds for every layer."""
    return (config.sliding_window,) * config.num_hidden_layers


def unsupported(model_type: str, supported: Sequence[str], key: str, why: str | None = None) -> RequestError:
    """Return the error for a model type of no family."""
    reason = f": {why}" if why else ""
    listed = f"Supported: {', '.join(supported)}." if why else unknown_name(model_type, supported)
    return RequestError(f"{key}: unsupported language model {model_type!r}{reason}. {listed}")


def _rope_types(config: Any) -> set[Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    return {one.get("rope_type") for one in (rope, *nested)}
