"""Options that take one value may be given only once: of two values, neither is the obvious one.

The options themselves are defined by each command.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import typer.core

from olivine.errors import RequestError

_Function = TypeVar("_Function", bound=Callable[..., Any])


class OnceCommand(typer.core.TyperCommand):
    """A command that refuses a flag or single-value option that is given twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does, after checking that no option is repeated.

        Raises:
            RequestError: an option is repeated.
        """
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        seen = set()
        for parameter in order:
            if parameter.param_type_name != "option" or getattr(parameter, "multiple", False):
                continue
            if parameter.name in seen:
                name = max(parameter.opts, key=len)
                raise RequestError(f"{name}: given more than once, but it takes one value. Give it once.")
            seen.add(parameter.name)
        return super().parse_args(ctx, args)


class OnceTyper(typer.Typer):
    """A set of commands that are all `OnceCommand`s."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[_Function], _Function]:
        """Add a command, as `typer.Typer.command` does."""
        return super().command(name, **{"cls": OnceCommand, **options})
