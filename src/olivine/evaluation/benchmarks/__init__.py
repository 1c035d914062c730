"""The benchmarks by name."""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from olivine.errors import RequestError
from olivine.evaluation.benchmarks.ai2d import AI2D
from olivine.evaluation.benchmarks.base import Benchmark
from olivine.evaluation.benchmarks.exact_match import ExactMatch
from olivine.evaluation.benchmarks.gqa import GQA
from olivine.evaluation.benchmarks.hallusionbench import HallusionBench
from olivine.evaluation.benchmarks.mmbench import MMBench
from olivine.evaluation.benchmarks.mme import MME
from olivine.evaluation.benchmarks.mmmu import MMMU
from olivine.evaluation.benchmarks.mmstar import MMStar
from olivine.evaluation.benchmarks.mmvet import MMVet
from olivine.evaluation.benchmarks.mmvp import MMVP
from olivine.evaluation.benchmarks.ocid_ref import OCIDRef
from olivine.evaluation.benchmarks.pope import POPE
from olivine.evaluation.benchmarks.refcoco import RefCOCO
from olivine.evaluation.benchmarks.scienceqa import ScienceQA
from olivine.evaluation.benchmarks.seed import SEEDBench
from olivine.evaluation.benchmarks.tallyqa import TallyQA
from olivine.evaluation.benchmarks.textvqa import TextVQA
from olivine.evaluation.benchmarks.vizwiz import VizWiz
from olivine.evaluation.benchmarks.vqav2 import VQAv2
from olivine.evaluation.benchmarks.vsr import VSR

_ALL: tuple[type[Benchmark], ...] = (
    *(AI2D, ExactMatch, GQA, HallusionBench, MMBench, MME, MMMU, MMStar, MMVet, MMVP),
    *(OCIDRef, POPE, RefCOCO, ScienceQA, SEEDBench, TallyQA, TextVQA, VizWiz, VQAv2, VSR),
)
_BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


def names() -> list[str]:
    """Return every benchmark's name."""
    return sorted(_BENCHMARKS)


def get(name: str, **options: Any) -> Benchmark:
    """Return the benchmark of that name, made with the options that are not None.

    Raises:
        RequestError: there is none (the message has the nearest valid name), or it has no such option.
    """
    benchmark = find(name)
    given = {option: value for option, value in options.items() if value is not None}
    _require_known(given, [benchmark])
    return benchmark(**given)


def get_all(requested: Sequence[str], **options: Any) -> list[Benchmark]:
    """Return the benchmarks of those names, each made with the options that it has and that are not None.

    Raises:
        RequestError: a name is unknown, or an option that none of them has.
    """
    benchmarks = [find(name) for name in requested]
    given = {option: value for option, value in options.items() if value is not None}
    _require_known(given, benchmarks)
    return [b(**{option: value for option, value in given.items() if option in _options(b)}) for b in benchmarks]


def find(name: str) -> type[Benchmark]:
    """Return the class of the benchmark of that name.

    Raises:
        RequestError: there is none (the message has the nearest valid name).
    """
    if name not in _BENCHMARKS:
        nearest = difflib.get_close_matches(name, _BENCHMARKS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise RequestError(f"no benchmark {name!r}.{hint} Valid: {', '.join(names())}.")
    return _BENCHMARKS[name]


def _options(benchmark: type[Benchmark]) -> frozenset[str]:
    return frozenset(inspect.signature(benchmark).parameters)


def _require_known(options: Iterable[str], benchmarks: Sequence[type[Benchmark]]) -> None:
    known = frozenset[str]().union(*(_options(benchmark) for benchmark in benchmarks))
    for option in options:
        if option not in known:
            names = ", ".join(benchmark.name for benchmark in benchmarks)
            raise RequestError(f"--{option.replace('_', '-')}: not an option of {names}.")


__all__ = ["Benchmark", "find", "get", "get_all", "names"]
