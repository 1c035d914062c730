"""What a change of a field does to the result: declared once, on the field; read by resuming, studies and plans.

The fields are in `recipe` and `ablation.study`; what to do about a change is decided by each reader.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from olivine.schema_mistakes import types_of


class Identity(Enum):
    """What comes out if a field has another value; each member's value says it in words."""

    #: The same bits, if anything comes out: may change before a run is resumed; not part of any step's identity.
    SAME_BITS = "the same bits"
    #: The same sums over the same whole samples, perhaps rounded differently: may change before a run is resumed, is
    #: then recorded in its provenance, and is part of the identity of a study's steps.
    SAME_MATHEMATICS = "the same mathematics, perhaps rounded differently"
    #: The result differs: refused when a run is resumed, and another step in a study.
    ANOTHER_OUTPUT = "another output"


@dataclass(frozen=True, slots=True)
class Decides:
    """The class of a field, and what it decides, in words that complete the sentence "it decides ..."."""

    identity: Identity
    what: str


@dataclass(frozen=True, slots=True)
class Change:
    """A field whose value has changed; entries of lists are identified by their `name`."""

    key: str
    before: Any
    now: Any
    decides: Decides


def same_bits(what: str) -> Decides:
    """Declare that a field leaves every bit of the output as it is."""
    return Decides(Identity.SAME_BITS, what)


def same_mathematics(what: str) -> Decides:
    """Declare that a field decides at most the last bits."""
    return Decides(Identity.SAME_MATHEMATICS, what)


def another_output(what: str) -> Decides:
    """Declare that a field decides the result."""
    return Decides(Identity.ANOTHER_OUTPUT, what)


class IdentifiedSection(BaseModel):
    """A section of a recipe whose every field has a class, except plain sections, whose own fields have one.

    Raises:
        TypeError: when the class is defined, if a field has no class, or two.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            declared = [entry for entry in field.metadata if isinstance(entry, Decides)]
            if len(declared) != (not _is_plain_section(field)):
                raise TypeError(
                    f"{cls.__name__}.{name}: expected one of same_bits, same_mathematics and another_output in its "
                    "annotation (none for a plain section); resuming and studies read it there"
                )


def fields(schema: type[BaseModel], where: str = "") -> Iterator[tuple[str, Decides]]:
    """Yield every field of a schema that has a class, with its dotted key; `*` stands for an entry's name."""
    for name, field in schema.model_fields.items():
        key = f"{where}{field.alias or name}"
        declared = _declared(field)
        if declared is not None:
            yield key, declared
        section, in_collection = _below(field)
        if section is not None:
            yield from fields(section, f"{key}.*." if in_collection else f"{key}.")


def decides(schema: type[BaseModel], key: str | Sequence[str]) -> Decides:
    """Return the class of a field by its dotted key, such as `stages.align.lr`, or by the parts of the key.

    What is inside a value has that value's class. A key that the schema lacks (an earlier version's) is assumed to
    decide the output.
    """
    section: type[BaseModel] | None = schema
    found, in_collection = another_output("a whole section"), False
    for step in key.split(".") if isinstance(key, str) else key:
        if section is None:
            break
        if in_collection:
            in_collection = False
            continue
        field = next((f for name, f in section.model_fields.items() if step in (name, f.alias)), None)
        if field is None:
            return another_output("what this version does not know")
        found = _declared(field) or found
        section, in_collection = _below(field)
    return found


def strongest(schema: type[BaseModel], keys: Iterable[str]) -> Identity:
    """Return the combined effect of changes of several fields."""
    order = list(Identity)
    return max((decides(schema, key).identity for key in keys), key=order.index, default=Identity.SAME_BITS)


def changes(schema: type[BaseModel], before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return every field on which two files' plain values differ, by key."""
    found = (
        Change(".".join(path), old, new, decides(schema, path)) for path, old, new in _differences(before, now, ())
    )
    return sorted(found, key=lambda change: change.key)


def decisive(section: BaseModel) -> dict[str, Any]:
    """Return a section's plain values without those that leave every bit as it is."""
    return _decisive(section.model_dump(mode="json", by_alias=True), type(section))


def _decisive(values: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    kept = {}
    for name, field in schema.model_fields.items():
        declared, key = _declared(field), field.alias or name
        if declared is None or declared.identity is not Identity.SAME_BITS:
            kept[key] = _decisive_value(values[key], *_below(field))
    return kept


def _decisive_value(value: Any, section: type[BaseModel] | None, in_collection: bool) -> Any:
    if section is None:
        return value
    if not in_collection:
        return _decisive(value, section) if isinstance(value, dict) else value
    if isinstance(value, dict):
        return {name: _decisive(entry, section) for name, entry in value.items()}
    return [_decisive(entry, section) for entry in value]


def _differences(before: Any, now: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            yield from _differences(before.get(key), now.get(key), (*where, str(key)))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            name = old.get("name", index) if isinstance(old, dict) else index
            yield from _differences(old, new, (*where, str(name)))
    elif before != now:
        yield where, before, now


def _declared(field: FieldInfo) -> Decides | None:
    return next((entry for entry in field.metadata if isinstance(entry, Decides)), None)


def _is_plain_section(field: FieldInfo) -> bool:
    kinds = types_of(field.annotation)
    return len(kinds) == 1 and _is_section(kinds[0])


def _below(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """Return the section that a field's value is or contains, and whether it contains several, by name."""
    for kind in types_of(field.annotation):
        if _is_section(kind):
            return kind, False
        if get_origin(kind) in (dict, tuple, list):
            for inner in get_args(kind):
                for section in types_of(inner):
                    if _is_section(section):
                        return section, True
    return None, False


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
