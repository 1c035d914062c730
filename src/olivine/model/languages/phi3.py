"""Phi-3 to Phi-4: queries, keys and values in one linear layer, gate and up in another; one window for all layers."""

from typing import Any

from olivine.model.languages.family import LanguageFamily, Template, one_window


class Phi3(LanguageFamily):
    """Phi-3 (arXiv:2404.14219). With `longrope`, samples are limited to the length where its frequencies change."""

    name = "Phi-3"
    model_types = ("phi3",)
    templates = (
        Template("phi3", ("<|user|>", "<|end|>")),
        Template("chatml", ("<|im_start|>", "<|im_end|>")),
    )
    joined_layers = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}  # noqa: RUF012

    def windows(self, config: Any) -> tuple[int | None, ...]:
        """Return `sliding_window` for every layer."""
        return one_window(config)
