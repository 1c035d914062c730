"""The benchmarks by name."""

import difflib

from olivine.errors import RequestError
from olivine.evaluate.benchmarks.base import Benchmark
from olivine.evaluate.benchmarks.exact_match import ExactMatch

_BENCHMARKS: dict[str, type[Benchmark]] = {benchmark.name: benchmark for benchmark in (ExactMatch,)}


def names() -> list[str]:
    """Every benchmark's name."""
    return sorted(_BENCHMARKS)


def get(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        RequestError: there is none; the message has the nearest valid name.
    """
    if name not in _BENCHMARKS:
        nearest = difflib.get_close_matches(name, _BENCHMARKS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise RequestError(f"no benchmark {name!r}.{hint} Valid: {', '.join(names())}.")
    return _BENCHMARKS[name]()


__all__ = ["Benchmark", "get", "names"]
