"""Detection of loss spikes: a loss that is not finite, or far above its recent values.

What happens then (the batch's samples are recorded, the run stops) is in `stage`.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable

#: Losses that the running median is taken over.
WINDOW = 64
#: Before this many losses are known, none is called a spike: the first steps of a stage fall steeply.
FEWEST = 16


class LossSpikeDetector:
    """A check of each step's loss before it changes any weight.

    Args:
        factor: a loss above `factor` times the running median is a spike; None disables the check.
        before: losses of earlier steps, oldest first (for a resumed run).
    """

    def __init__(self, factor: float | None, before: Iterable[float] = ()) -> None:
        self._factor = factor
        self._losses = deque(before, maxlen=WINDOW)

    def problem(self, loss: float, norm: float) -> str | None:
        """Return what is wrong with a step, in words; if nothing is, remember the loss and return None."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss}, gradient norm {norm}"
        if self._factor is not None and len(self._losses) >= FEWEST:
            median = statistics.median(self._losses)
            if loss > self._factor * median:
                return (
                    f"loss {loss:.4g} is {loss / median:.1f} times the running median {median:.4g} "
                    f"(optimizer.spike: {self._factor:g})"
                )
        self._losses.append(loss)
        return None
