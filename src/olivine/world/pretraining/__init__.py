"""Pretraining of the embedded world's tiny backbones: two towers (CLIP, DINOv2) and Gemma-shaped language models.

What they are trained on is drawn in `world`; the recipes that use them know nothing of how they came to be.
"""
