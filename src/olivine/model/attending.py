"""Another attention function for a while. The functions themselves are in the modules `*attention`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attending(language: Any, implementation: str) -> Iterator[None]:
    """Let a language model attend by a registered implementation inside the block, and as before outside it."""
    before = language.config._attn_implementation
    language.set_attn_implementation(implementation)
    try:
        yield
    finally:
        language.set_attn_implementation(before)
