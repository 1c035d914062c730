"""Qwen3: normalised queries and keys, a configured head width; windows only with `use_sliding_window`."""

from olivine.model.languages.family import LanguageFamily, Template


class Qwen3(LanguageFamily):
    """Qwen3, dense (arXiv:2505.09388); no token begins a sequence."""

    name = "Qwen3"
    model_types = ("qwen3",)
    templates = (Template("chatml", ("<|im_start|>", "<|im_end|>")),)
