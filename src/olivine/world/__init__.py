"""The embedded world: drawn scenes with exact ground truth, what can be said and asked of them, benchmark files.

Nothing here knows of models; the tiny backbones that are trained on it come from `world.pretraining`.
"""
