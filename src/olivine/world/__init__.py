"""The embedded world: drawn scenes with exact ground truth, their wording and questions, benchmark files.

Nothing here uses models; the tiny backbones trained on it come from `world.pretraining`.
"""
