"""Named things that packages outside the core bring along, found through entry points.

A *named source* is a model module that a recipe calls `SCHEME:NAME` instead of by a folder or a hub id. A package
offers a scheme under the entry-point group `olivine.sources`: the entry's name is the scheme, its object a function
from the name to the folder. What the embedded world offers as `world:...` enters here as any other package's would.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from olivine.errors import RequestError, unknown_name

SOURCES = "olivine.sources"
#: At least two letters, so that a drive of Windows is none.
_NAMED = re.compile(r"(?P<scheme>[a-z][a-z0-9-]+):(?P<name>(?!//).*)", re.DOTALL)


def locate(source: str) -> str:
    """Return the folder of a named source; a folder or a hub id comes back as it is.

    Raises:
        RequestError: no installed package offers the scheme, or it knows no such name.
    """
    named = _NAMED.fullmatch(source)
    if named is None:
        return source
    schemes = offered(SOURCES)
    if named["scheme"] not in schemes:
        raise RequestError(
            f"{source}: no installed package offers sources called '{named['scheme']}:...'. "
            f"{unknown_name(named['scheme'], schemes) if schemes else 'None is installed.'}"
        )
    find: Callable[[str], str] = load(SOURCES, named["scheme"])
    return find(named["name"])


@cache
def offered(group: str) -> tuple[str, ...]:
    """Return the names under which installed packages offer something in an entry-point group, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


@cache
def load(group: str, name: str) -> Any:
    """Import and return what is offered under a name.

    Raises:
        RequestError: two packages offer it, or the package that does cannot be imported.
    """
    entries = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(entries) != 1:
        raise RequestError(f"{group}: {len(entries)} packages offer {name!r} ({', '.join(sorted(entries))}); keep one.")
    (entry,) = entries.values()
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"{group}: {name!r} is offered by {entry.value}, which cannot be imported: {error}"
        ) from None
