"""Named components that packages outside the core provide, found through entry points.

A *named source* is a model module that a recipe names as `SCHEME:NAME` instead of by a folder or a hub id. A package
provides a scheme under the entry-point group `olivine.sources`: the entry's name is the scheme, its object a function
from the name to the folder. The embedded world's `world:...` sources are registered like any other package's.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from olivine.errors import RequestError, unknown_name

SOURCES = "olivine.sources"
#: At least two letters, so that a Windows drive letter is not a scheme.
_NAMED = re.compile(r"(?P<scheme>[a-z][a-z0-9-]+):(?P<name>(?!//).*)", re.DOTALL)


def locate(source: str) -> str:
    """Return the folder of a named source; a folder or a hub id is returned unchanged.

    Raises:
        RequestError: no installed package provides the scheme, or it has no such name.
    """
    named = _NAMED.fullmatch(source)
    if named is None:
        return source
    schemes = offered(SOURCES)
    if named["scheme"] not in schemes:
        raise RequestError(
            f"{source}: no installed package provides sources called '{named['scheme']}:...'. "
            f"{unknown_name(named['scheme'], schemes) if schemes else 'None is installed.'}"
        )
    find: Callable[[str], str] = load(SOURCES, named["scheme"])
    return find(named["name"])


@cache
def offered(group: str) -> tuple[str, ...]:
    """Return the names that installed packages provide in an entry-point group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


@cache
def load(group: str, name: str) -> Any:
    """Import and return what is provided under a name.

    Raises:
        RequestError: two packages provide it, or the package that does cannot be imported.
    """
    entries = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(entries) != 1:
        raise RequestError(
            f"{group}: {len(entries)} packages provide {name!r} ({', '.join(sorted(entries))}); keep one."
        )
    (entry,) = entries.values()
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"{group}: {name!r} is provided by {entry.value}, which cannot be imported: {error}"
        ) from None
