"""Explanations: which image tokens an answer depends on, how far to trust such a map, and where two models disagree."""
