"""From files to packed batches: sources, images, chat templates with their label masks, packing.

No model weights here; all it knows of the model is its tokenizer and the number of tokens per image.
"""
