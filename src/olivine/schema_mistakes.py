"""What is wrong with a recipe or a study, in the file's own terms; pydantic finds it, this module explains it.

A suggested key is one of the same section; a key that belongs to another section is reported with that section.
"""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from olivine.errors import nearest_name


def explain(error: ValidationError, values: Any, root: type[BaseModel]) -> str:
    """Return what is wrong with a YAML file, one problem per line.

    Args:
        error: pydantic's findings.
        values: the file's plain values.
        root: the schema of the whole file.
    """
    return "\n".join(f"  {_explain(dict(detail), values, root)}" for detail in error.errors())


def _explain(detail: dict[str, Any], values: Any, root: type[BaseModel]) -> str:
    """Explain one problem: stages by name, unions by their keys, the nearest valid name."""
    location: list[str] = []
    value: Any = values
    for step in detail["loc"]:
        if isinstance(step, int) and isinstance(value, list | tuple):
            value = value[step]
            location.append(str(value.get("name", step)) if isinstance(value, dict) else str(step))
        elif isinstance(value, Mapping) and step in value:
            location.append(str(step))
            value = value[step]
        elif detail["type"] in {"missing", "extra_forbidden"} and step == detail["loc"][-1]:
            location.append(str(step))
        # Any other step is pydantic's own name for a branch of a union.
    where = ".".join(location) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"{where}: {_unknown_key(str(detail['loc'][-1]), detail['loc'][:-1], root)}"
    if detail["type"] == "missing":
        return f"{where}: missing; it is required."
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if isinstance(detail["input"], dict | list | tuple) else f" (got {detail['input']!r})"
    return f"{where}: {message[0].lower() + message[1:]}{given}"


def _unknown_key(name: str, section: Sequence[Any], root: type[BaseModel]) -> str:
    here: list[Any] = [root]
    for step in section:
        below = [inner for kind in here for inner in _below(kind, step)]
        here = below or here  # nothing below: a union's branch by its name
    known = sorted({key for kind in here if _is_section(kind) for key in _keys(kind)})
    elsewhere = [section_path for section_path, keys in _sections(root, "") if name in keys]
    near = nearest_name(name, known)
    if elsewhere:
        hint = f" It is a key of {' and of '.join(elsewhere)}, not of this section."
    elif near:
        hint = f" Did you mean {near!r}?"
    else:
        hint = " There is no such setting."
    return f"unknown name {name!r}.{hint} Valid: {', '.join(known)}."


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, set[str]]]:
    """Yield every section below a schema: its dotted path and its keys."""
    yield path or "the file itself", set(_keys(model))
    for key, field in _keys(model).items():
        for kind in types_of(field):
            many = get_origin(kind) in (dict, tuple, list)
            for inner in _elements(kind) if many else [kind]:
                if _is_section(inner):
                    yield from _sections(inner, f"{path}.{key}".lstrip(".") + (".NAME" if many else ""))


def _below(kind: Any, step: Any) -> list[Any]:
    """Return the types of the value at a key or index of a value of this type."""
    if _is_section(kind):
        fields = _keys(kind)
        return types_of(fields[step]) if step in fields else []
    if get_origin(kind) is dict or (get_origin(kind) in (tuple, list) and isinstance(step, int)):
        return _elements(kind)
    return []


def _elements(kind: Any) -> list[Any]:
    """Return the types of a container's values."""
    inner = get_args(kind)[1:] if get_origin(kind) is dict else get_args(kind)
    return [unwrapped for one in inner if one is not Ellipsis for unwrapped in types_of(one)]


def _keys(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def types_of(annotation: Any) -> list[Any]:
    """Return the types that a value may have, without annotations."""
    if get_origin(annotation) is Annotated:
        return types_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for branch in get_args(annotation) for kind in types_of(branch)]
    return [annotation]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
