"""Llama 2 and 3, Vicuna, SmolLM2, and other models of their layout; no window, no cap."""

from olivine.model.languages.family import LanguageFamily, Template


class Llama(LanguageFamily):
    """Llama 2 (arXiv:2307.09288) and its successors of the same model type."""

    name = "Llama"
    model_types = ("llama",)
    templates = (
        Template("llama3", ("<|start_header_id|>", "<|eot_id|>")),
        Template("chatml", ("<|im_start|>", "<|im_end|>")),
        Template("vicuna"),
    )
