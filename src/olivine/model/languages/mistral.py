"""Mistral: one window for all layers (version 0.1), or none (since 0.2)."""

from typing import Any

from olivine.model.languages.family import LanguageFamily, Template, one_window


class Mistral(LanguageFamily):
    """Mistral 7B (arXiv:2310.06825); no template is registered for it: Zephyr's and others' differ by model."""

    name = "Mistral"
    model_types = ("mistral",)
    templates = (Template("mistral", ("[INST]", "[/INST]")), Template("chatml", ("<|im_start|>", "<|im_end|>")))

    def windows(self, config: Any) -> tuple[int | None, ...]:
        """Return `sliding_window` for every layer."""
        return one_window(config)
