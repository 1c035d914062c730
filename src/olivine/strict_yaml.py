"""Strict YAML for recipes, studies and published tables: within bounds, each mistake with its line.

What the values must be is up to the caller.
"""

import re
import stat
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from olivine.errors import RequestError

#: Far more than any recipe or study has, far less than would do harm.
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 4_000_000, 64, 200_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS, _MERGE = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}, "tag:yaml.org,2002:merge"
#: YAML 1.1 reads 010 as eight and 1:30 as ninety; which is never what was meant.
_MISREAD = re.compile(r"[-+]?(0[0-9_]+|.*:.*)")


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file.

    Args:
        path: the file.
        what: what it should be, for messages: "recipe", "study".

    Raises:
        RequestError: it is missing, not a regular file, not UTF-8 text, larger than 4 MB, or not valid (see
            `parse_yaml`).
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RequestError(f"{path}: this is a directory; expected a {what} in YAML, a file.")
        if not stat.S_ISREG(mode):
            raise RequestError(f"{path}: not a regular file; expected a {what} in YAML.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"{path}: {what} not found. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise RequestError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if len(content) > MAX_BYTES:
        raise RequestError(f"{path}: more than {MAX_BYTES:,} bytes; expected a {what}. Is it another file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8 text (byte {error.start}); expected a {what} in YAML.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Return the plain values of one YAML document, None for an empty one.

    Duplicate keys, aliases that contain themselves or expand without bound, nesting beyond 64 levels, control
    characters, and numbers that YAML 1.1 reads differently (`010`) are mistakes here.

    Raises:
        RequestError: it is not valid; the message starts with `where` and names the line.
    """
    try:
        _check_size(text, where)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(loader, node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context)
        # Some problems are the second half of a sentence: "but found another document".
        whole = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        raise _mistake(where, error.problem_mark or error.context_mark, whole) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RequestError(
            f"{where}: not valid YAML at line {line} (character {_code(error.character)}: {error.reason})."
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # an impossible date, an integer that is too long
        raise RequestError(f"{where}: not valid YAML ({str(error).splitlines()[0]}).") from None


def _check_size(text: str, where: str) -> None:
    """Check nesting and the expansion of aliases from the events alone: nothing is built, nothing recurses."""
    sizes: dict[str | None, int | None] = {}  # values by anchor; None while it is still open
    stack: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        mark, count = event.start_mark, 0
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append((event.anchor, 1))
            sizes[event.anchor] = None
            if len(stack) > MAX_DEPTH + 1:
                raise _mistake(where, mark, f"nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = stack.pop()
            sizes[anchor] = count
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = count = 1
        elif isinstance(event, yaml.AliasEvent):
            aliased = sizes.get(event.anchor, 1)  # the composer reports an undefined one
            if aliased is None:
                raise _mistake(where, mark, f"alias *{event.anchor} is inside what it refers to")
            count = aliased
        stack[-1] = stack[-1][0], stack[-1][1] + count
        if stack[-1][1] > MAX_VALUES:
            raise _mistake(where, mark, f"more than {MAX_VALUES:,} values once its aliases are expanded")


def _check_nodes(loader: Any, root: Any, where: str) -> None:
    """Check for duplicate keys, and scalars that are not what they seem."""
    for node in _nodes(root):
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node, where)
        elif isinstance(node, yaml.MappingNode):
            first: dict[Hashable, Any] = {}
            for key_node, _ in node.value:
                if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                    continue
                key = loader.construct_object(key_node)
                if key in first:
                    before = first[key].start_mark.line + 1
                    problem = f"key {key_node.value!r} is given twice, first at line {before}"
                    raise _mistake(where, key_node.start_mark, problem)
                first[key] = key_node


def _check_scalar(node: Any, where: str) -> None:
    odd = next((c for c in node.value if (c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0" or _lone(c)), None)
    if odd is not None:
        raise _mistake(where, node.start_mark, f"a value contains the character {_code(odd)}")
    if node.tag in _NUMBERS and not node.style and _MISREAD.fullmatch(node.value):
        raise _mistake(
            where, node.start_mark, f"{node.value} is not a decimal number in YAML; write one, or text in quotes"
        )


def _nodes(root: Any) -> Iterator[Any]:
    """Yield every node once, however many aliases refer to it."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.ScalarNode):
            continue
        for entry in node.value:
            for child in entry if isinstance(entry, tuple) else (entry,):
                if id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)


def _lone(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _code(character: Any) -> str:
    return f"U+{ord(character) if isinstance(character, str) else int(character):04X}"


def _mistake(where: str, mark: Any, problem: str) -> RequestError:
    location = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    problem = "".join(c if c.isprintable() else _code(c) for c in problem)  # a tag may contain any character
    return RequestError(f"{where}: not valid YAML{location} ({problem}).")
