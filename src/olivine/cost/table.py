"""An estimate as lines of text; the figures are computed in `estimate`."""

import re
from collections.abc import Iterator

from olivine.cost.estimate import Estimate, StageEstimate
from olivine.field_identity import Identity, strongest
from olivine.recipe import Recipe

#: The keys of the settings in a suggestion.
_KEY = re.compile(r"[\w-]+(?:\.[\w-]+)+(?==)")


def lines(made: Estimate) -> Iterator[str]:
    """Yield the lines of every stage, then the totals."""
    where = (
        f"{made.count} x {made.device.name} ({made.device.memory / 1e9:.0f} GB, {made.device.peak / 1e12:g} TFLOP/s)"
    )
    yield f"on {where}, at {100 * made.utilisation:.0f} % of the peak (an assumption)"
    yield f"an image: {made.image_tokens:,} tokens of the language model's sequence"
    for stage in made.stages:
        yield ""
        yield from _stage(stage, made.device.memory)
    yield ""
    yield f"total: {sum(s.operations for s in made.stages):.3g} operations, {made.hours:.2f} hours"


def _stage(stage: StageEstimate, memory: float) -> Iterator[str]:
    yield f"stage {stage.name}: {stage.steps:,} steps, {stage.tokens:,.0f} tokens, {stage.hours:.2f} hours"
    for state, modules in (("trains", stage.trained), ("frozen", stage.frozen)):
        for module, size in modules.items():
            rate = f" at {stage.rates[module]:g}" if state == "trains" and module in stage.rates else ""
            yield f"  {module:12} {size:>15,} parameters, {state}{rate}"
    lengths = stage.lengths
    yield f"  lengths: {lengths.tokens:.0f} tokens per sample, {lengths.labels:.0f} labelled ({lengths.source})"
    for use, memory_bytes in stage.memory.items():
        yield f"  {use:12} {memory_bytes / 1e9:8.2f} GB per device"
    verdict = "fits" if stage.fits else "DOES NOT FIT"
    yield f"  {'at the peak':12} {stage.peak / 1e9:8.2f} GB of {memory / 1e9:.0f}: {verdict}"
    for suggestion in stage.suggestions:
        yield f"  try: {suggestion}{_for_a_begun_run(suggestion)}"


def _for_a_begun_run(suggestion: str) -> str:
    """Say whether a begun run may be resumed with the settings that a suggestion names; empty if it names none."""
    keys = _KEY.findall(suggestion)
    if not keys:
        return ""
    together = strongest(Recipe, keys)
    if together is Identity.ANOTHER_OUTPUT:
        return " (in a new run)"
    return f" (a begun run may be resumed with it: {together.value})"
