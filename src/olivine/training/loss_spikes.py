"""A loss watched as it comes: not finite, or far above what it has lately been.

What happens then (the batch's samples written down, the run stopped) is in `stage`.
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
    """Says what is wrong with a step, before it changes any weight.

    Args:
        factor: a loss above `factor` times the running median is a spike; None calls nothing one.
        before: losses of earlier steps, oldest first (of a run that is resumed).
    """

    def __init__(self, factor: float | None, before: Iterable[float] = ()) -> None:
        self._factor = factor
        self._losses = deque(before, maxlen=WINDOW)

    def problem(self, loss: float, norm: float) -> str | None:
        """What is wrong, in words; None where nothing is, and the loss is then remembered."""
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
