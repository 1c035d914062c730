"""Random generators seeded by content, so that the same data give the same figures on every run."""

import hashlib

import numpy as np


def generator(*content: bytes | str) -> np.random.Generator:
    """Return a random generator seeded by `content` alone."""
    digest = hashlib.sha256()
    for part in content:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return np.random.default_rng(int.from_bytes(digest.digest()[:16], "big"))
