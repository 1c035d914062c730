"""SmolLM3: every fourth layer has no rotary positions; windows only with `use_sliding_window`."""

from olivine.model.languages.family import LanguageFamily, Template


class SmolLM3(LanguageFamily):
    """SmolLM3. (SmolLM2 is a Llama by its layout.)"""

    name = "SmolLM3"
    model_types = ("smollm3",)
    templates = (Template("chatml", ("<|im_start|>", "<|im_end|>")),)
