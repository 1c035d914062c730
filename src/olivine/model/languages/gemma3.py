"""Gemma 3, the language model: five layers with a window to one without, each kind with its own rotary base."""

from olivine.model.languages.family import LanguageFamily, Template


class Gemma3(LanguageFamily):
    """Gemma 3 (arXiv:2503.19786), text only; from a folder with a vision tower, only the language model is taken."""

    name = "Gemma 3"
    model_types = ("gemma3_text",)
    templates = (Template("gemma"),)
    scales_embeddings = True
    caps_logits = True
