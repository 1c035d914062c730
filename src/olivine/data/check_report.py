"""What checking a data set found: counts by kind, a few of each by name.

The checking itself is in `check`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olivine.data.item_error import ItemError, shortened

#: Examples named per kind of problem.
NAMED = 10


@dataclass(slots=True)
class Report:
    """Problems by kind. `broken` items would stop a run (or be skipped); `notes` would not.

    `unread` has keys, columns or members that nothing reads, with the number of items that have them; `images_read`
    says how images were checked, and `kept` how many of them an earlier check had read.
    """

    path: Path
    items: int = 0
    text_only: int = 0
    turns: int = 0
    images: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unread: Counter[str] = field(default_factory=Counter)
    longest: int | None = None
    images_read: str = "headers"
    kept: int = 0
    seconds: float = 0.0

    @property
    def trainable(self) -> int:
        """Items that could be trained on."""
        return self.items - self.broken.total()

    def add_broken(self, error: ItemError) -> None:
        """Count an item that could not be trained on."""
        self.add(self.broken, error.kind, 1, [str(error)])

    def note(self, kind: str, message: str) -> None:
        """Count something noteworthy that stops nothing."""
        self.add(self.notes, kind, 1, [message])

    def add(self, counts: Counter[str], kind: str, count: int, messages: Sequence[str]) -> None:
        """Count several of a kind, of which some are named."""
        counts[kind] += count
        remaining = NAMED - len(self.named[kind])
        self.named[kind] += messages[: max(0, remaining)]

    def summary(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        unsupervised = self.broken.total()
        return {
            "file": str(self.path),
            "items": self.items,
            "trainable": self.trainable,
            "text_only": self.text_only,
            "turns": self.turns,
            "images": self.images,
            "unsupervised": unsupervised,
            "unsupervised_share": unsupervised / self.items if self.items else 0.0,
            "broken": dict(self.broken),
            "notes": dict(self.notes),
            "named": {kind: messages for kind, messages in self.named.items() if messages},
            "unread": dict(self.unread),
            "longest": self.longest,
            "images_read": self.images_read,
            "images_kept": self.kept,
            "seconds": round(self.seconds, 2),
        }

    def lines(self) -> list[str]:
        """Return the report as text lines; the last line shows that it is complete."""
        share = 100 * self.broken.total() / self.items if self.items else 0.0
        lines = [
            f"{self.path}: {self.items:,} items, {self.turns:,} turns, {self.images:,} images, "
            f"{self.text_only:,} text-only",
            f"not trainable as they are: {self.broken.total():,} ({share:.2f} %)",
        ]
        for kind, count in [*self.broken.most_common(), *self.notes.most_common()]:
            lines.append(f"  {kind}: {count:,}" + ("" if kind in self.broken else " (note)"))
            lines += [f"    {message}" for message in self.named[kind]]
        for key, count in self.unread.most_common():
            lines.append(f"  not read: {shortened(repr(key), 60)} of {count:,} items")
        if self.longest is not None:
            lines.append(f"longest sample: {self.longest:,} tokens")
        else:
            lines.append("lengths were not checked (name a --tokenizer)")
        if self.images_read == "headers" and self.images:
            lines.append("images: headers read (--full decodes every image as training does)")
        elif self.images:
            lines.append(f"images: every one decoded and fitted, {self.kept:,} of them by an earlier check")
        lines.append(f"checked in {self.seconds:.0f} s: {self.trainable:,} of {self.items:,} items can be trained on")
        return lines
