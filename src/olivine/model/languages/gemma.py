"""Gemma 1: scaled token embeddings, shared key-value heads; no window, no cap."""

from olivine.model.languages.family import LanguageFamily, Template


class Gemma(LanguageFamily):
    """Gemma 1 (arXiv:2403.08295)."""

    name = "Gemma"
    model_types = ("gemma",)
    templates = (Template("gemma"),)
    scales_embeddings = True
