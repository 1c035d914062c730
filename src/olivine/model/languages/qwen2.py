"""Qwen2 and Qwen2.5: biases on queries, keys and values; windows only with `use_sliding_window`."""

from olivine.model.languages.family import LanguageFamily, Template


class Qwen2(LanguageFamily):
    """Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115); no token begins a sequence."""

    name = "Qwen2"
    model_types = ("qwen2",)
    templates = (Template("chatml", ("<|im_start|>", "<|im_end|>")),)
