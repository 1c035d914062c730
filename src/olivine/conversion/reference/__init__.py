"""Published models run as their own time ran them, written out in plain PyTorch over the files' own tensors.

The proof of an import compares with it, so nothing here goes through what the import itself does: names are looked up
in the files by their endings, configurations are read as they are written, images are fitted as LLaVA's code does.
"""
