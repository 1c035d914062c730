"""The data sources of a recipe as a run reads them: each once, with what was skipped.

How a source is read is in `data.sources`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console

from olivine.data.sources import Skipped, fingerprint, read_samples, usable
from olivine.recipe import Recipe
from olivine.records import Sample


class RecipeData:
    """The recipe's sources, each read once."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe = recipe
        self._console = console
        self._samples: dict[str, Sequence[Sample]] = {}
        self._skipped: dict[str, Skipped] = {}

    def samples(self, name: str) -> Sequence[Sample]:
        """Return a source's samples, read at the first call.

        Raises:
            DataError: the source cannot be read, or under `on_error: stop` an item is broken.
        """
        if name not in self._samples:
            self._skipped[name] = Skipped()
            path, skipped = self._recipe.data[name].json_, self._skipped[name]
            with self._console.status(f"data {name}: reading {path}") as status:

                def show_progress(done: int, total: int) -> None:
                    status.update(f"data {name}: reading {path}, {done / max(1, total):.0%}")

                self._samples[name] = read_samples(self._recipe.data[name], skipped, show_progress)
            count = len(self._samples[name])
            self._console.print(
                f"data {name}: {count:,} samples, {skipped.describe()} <- {path}", highlight=False, markup=False
            )
            if skipped.unread:
                self._console.print(f"data {name}: {skipped.describe_unread()}", highlight=False, markup=False)
        return self._samples[name]

    def skipped_before(self, name: str) -> str:
        """Describe, for the closing line, the samples skipped while the source was read; empty if none were."""
        skipped = self._skipped.get(name)
        return f"{skipped.describe()} as {name} was read, then " if skipped and skipped.total else ""

    def texts(self) -> Iterator[str]:
        """Yield every turn's text of every source, in the recipe's order."""
        for name, source in self._recipe.data.items():
            for sample in usable(self.samples(name), source):
                for turn in sample.conversation:
                    yield turn.text

    def provenance(self, names: Iterable[str]) -> dict[str, Any]:
        """Return what a run records about its sources: their paths, content hashes, and what was skipped."""
        return {
            name: {
                "json": str(self._recipe.data[name].json_),
                "sha256": fingerprint(self._recipe.data[name]),
                "samples": len(self.samples(name)),
                "skipped": self._skipped[name].describe(),
                "skipped_examples": self._skipped[name].examples,
                "unread": dict(self._skipped[name].unread),
            }
            for name in sorted(names)
        }
