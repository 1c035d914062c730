"""Gemma 2: every other layer has a sliding window; scores and logits are softly capped."""

from olivine.model.languages.family import LanguageFamily, Template


class Gemma2(LanguageFamily):
    """Gemma 2 (arXiv:2408.00118, section 2).

    Its final cap is part of its own loss, and so of the loss here. Plain transformers' LLaVA does not apply it: greedy
    answers are the same, since the cap keeps the order of logits; probabilities are not.
    """

    name = "Gemma 2"
    model_types = ("gemma2",)
    templates = (Template("gemma"),)
    scales_embeddings = True
    caps_attention = True
    caps_logits = True
