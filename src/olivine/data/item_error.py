"""The error of a single broken item, and how messages quote data.

What happens to broken items is the source's policy (`sources`).
"""

from olivine.errors import DataError


class ItemError(DataError):
    """The error of one broken item; `kind` is the category it is counted under."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type["ItemError"], tuple[str, str]]:
        return ItemError, (self.kind, str(self))


def shortened(text: str, most: int = 120) -> str:
    """Return a text, truncated if it is too long for a message."""
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text):,} characters)"
