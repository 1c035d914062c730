"""A benchmark's own options: which there are, and values for them from `KEY=VALUE` texts or a study's YAML.

An option is a parameter of the benchmark's constructor that is a text, a number or a path; judges are made elsewhere.
"""

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from olivine.errors import RequestError, unknown_name
from olivine.evaluation.benchmarks.base import Benchmark

_KINDS: dict[type, str] = {str: "text", int: "number", Path: "path"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: what kind of value it takes, and its default (None: not set)."""

    name: str
    kind: type
    default: Any

    def describe(self) -> str:
        """Return the option as help pages write it."""
        default = "" if self.default is None else f", default {self.default}"
        return f"{self.name} ({_KINDS[self.kind]}{default})"


def options_of(benchmark: type[Benchmark]) -> dict[str, Option]:
    """Return the options of a benchmark by name."""
    hints = get_type_hints(benchmark.__init__)
    found = {}
    for name, parameter in inspect.signature(benchmark).parameters.items():
        kind = _plain(hints.get(name))
        if kind is not None:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            found[name] = Option(name, kind, default)
    return found


def parse_options(benchmark: type[Benchmark], given: Sequence[str]) -> dict[str, Any]:
    """Return the values of `KEY=VALUE` texts.

    Raises:
        RequestError: a text without `=`, a key given twice, or as `checked_options`.
    """
    values: dict[str, Any] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise RequestError(f"--set {text}: expected KEY=VALUE. Options of {benchmark.name}: {_listed(benchmark)}.")
        if key in values:
            raise RequestError(f"--set {key}: given twice; give it once.")
        values[key] = value
    return checked_options(benchmark, values, "--set")


def checked_options(benchmark: type[Benchmark], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return option values in the types that the benchmark takes; `where` begins messages.

    Raises:
        RequestError: the benchmark has no such option (with the nearest one), or a value is of another kind.
    """
    known = options_of(benchmark)
    values = {}
    for key, value in given.items():
        if key not in known:
            hint = unknown_name(key, known) if known else f"{benchmark.name} has no options."
            raise RequestError(f"{where} {key}: {hint}")
        try:
            values[key] = known[key].kind(value)
        except (TypeError, ValueError):
            raise RequestError(f"{where} {key}: expected a {_KINDS[known[key].kind]}; got {value!r}.") from None
    return values


def _listed(benchmark: type[Benchmark]) -> str:
    return ", ".join(option.describe() for option in options_of(benchmark).values()) or "none"


def _plain(hint: Any) -> type | None:
    """Return the plain type that a parameter takes, None for anything that a text cannot give."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        hint = rest[0] if len(rest) == 1 else None
    return hint if hint in _KINDS else None
