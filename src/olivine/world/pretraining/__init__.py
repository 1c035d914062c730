"""Pretraining of the embedded world's tiny backbones: two towers (CLIP, DINOv2) and Gemma-shaped language models.

Their data are drawn in `world`; the recipes that use them do not depend on how they were made.
"""
