"""The error of a single broken item, and how messages quote what data hold.

What is done about it is the source's policy (`sources`).
"""

from olivine.errors import DataError


class ItemError(DataError):
    """One item is broken; `kind` names the way, for counting."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type["ItemError"], tuple[str, str]]:
        return ItemError, (self.kind, str(self))


def shortened(text: str, most: int = 120) -> str:
    """Return a text, cut where it is too long for a message."""
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text):,} characters)"
