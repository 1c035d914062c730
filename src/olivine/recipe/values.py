"""A recipe's plain values: merged over those of its base, and changed by dotted keys."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from olivine.errors import RequestError, unknown_name
from olivine.strict_yaml import parse_yaml


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`: mappings key by key, lists of named entries by name, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            # A model source is one unit: half of one configuration merged into another would be neither.
            merged[key] = value if key == "from" else merge(old, value)
        elif _is_named(old) and _is_named(value):
            merged[key] = _merge_named(old, value)
        else:
            merged[key] = value
    return merged


def _merge_named(base: list[dict[str, Any]], over: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {entry["name"]: entry for entry in base}
    for entry in over:
        by_name[entry["name"]] = merge(by_name.get(entry["name"], {}), entry)
    return list(by_name.values())


def _is_named(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "name" in v for v in value)


def change(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set `dotted.key` to `value` in a recipe's plain values; stages are addressed by name.

    Raises:
        RequestError: no such stage, or the key leads into a plain value; the message starts with `where`.
    """
    section: Any = values
    steps = key.split(".")
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if _is_named(section):
            names = [entry["name"] for entry in section]
            if step not in names:
                raise RequestError(f"{where}: {unknown_name(step, names)}")
            index = names.index(step)
            if last:
                section[index] = value
            section = section[index]
        elif isinstance(section, dict):
            if last:
                section[step] = value
            elif step not in section and section and steps[:depth] == ["data"]:
                # It would be a new source that nothing reads; a whole one may be set: data.NAME={json: ...}.
                raise RequestError(f"{where}: data: {unknown_name(step, section)}")
            else:
                if section.get(step) is None:  # a section that is turned off, as in a run's own record
                    section[step] = {}
                section = section[step]
        else:
            parent = ".".join(steps[:depth])
            raise RequestError(f"{where}: {parent} has no keys, so {step!r} cannot be set in it.")


def override(values: dict[str, Any], text: str) -> None:
    """Apply `dotted.key=value`, the value in YAML, to a recipe's plain values.

    Raises:
        RequestError: it is not of this form, or as `change`.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise RequestError(f"override {text!r}: expected KEY=VALUE, for example stages.align.lr=2e-3.")
    change(values, key, parse_yaml(value, f"override {text!r}"), f"override {text!r}")
