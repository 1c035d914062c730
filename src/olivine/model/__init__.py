"""The only room that touches `transformers` models: building, running, saving and loading them.

Everything goes through public interfaces; no model class is patched and no `forward` is overridden.
"""
