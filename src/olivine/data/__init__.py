"""From files to packed batches: sources, images, chat templates with their label masks, packing.

No model weights here; a tokenizer and the number of tokens an image takes are all that is known of the model.
"""
