"""What a Jinja chat template does with the contents of turns, followed once instead of rendered each time.

The template runs in a sandbox on contents that cannot be looked into unnoticed: it may write them, strip them, join
them with text and ask a few questions of them, and every question is recorded with its answer. Another conversation of
the same roles that gives the same answers is written in the same way: nothing else reached the template. Whatever else
a template does with contents raises `Untraceable`, and it must be rendered. Cutting and labelling is in `own_template`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: A stripping method and what it strips.
_Step = tuple[Callable[[str, str | None], str], str | None]
#: A question: the turn, what was stripped of it before, the method asked, its argument.
_Question = tuple[int, tuple[_Step, ...], Callable[[str, str], bool], str]

_FRAGMENT = re.compile("\ue000([0-9]+)\ue001")
#: Tests whose answer is the same for every string.
_TYPE_TESTS = frozenset(
    [
        "boolean",
        "callable",
        "defined",
        "false",
        "float",
        "integer",
        "iterable",
        "mapping",
        "none",
        "number",
        "sequence",
        "string",
        "true",
        "undefined",
    ]
)
#: What turns written text into a value that a template could look into.
_CAPTURING: tuple[type[nodes.Node], ...] = (
    nodes.Macro,
    nodes.CallBlock,
    nodes.AssignBlock,
    nodes.FilterBlock,
    nodes.Block,
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.ScopedEvalContextModifier,
)


class Untraceable(Exception):  # noqa: N818
    """A template does with contents what cannot be followed."""


def _refuse(*_: Any, **__: Any) -> Any:
    raise Untraceable


@dataclass
class _Run:
    """One run: the questions so far, and what was written."""

    answers: dict[_Question, bool] = field(default_factory=dict)
    written: list["_Content"] = field(default_factory=list)


class _Opaque:
    """A value made of contents. All that Python or Jinja could do with it raises, but for what subclasses define."""

    __slots__ = ("_parts",)
    __str__ = __repr__ = __format__ = __len__ = __iter__ = __getitem__ = __contains__ = __bool__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse
    __mod__ = __rmod__ = __mul__ = __rmul__ = __index__ = __getattr__ = _refuse

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._parts = parts

    def __add__(self, other: Any) -> "_Opaque":
        return _Opaque((*self._parts, *_parts_of(other)))

    def __radd__(self, other: Any) -> "_Opaque":
        return _Opaque((*_parts_of(other), *self._parts))


class _Content(_Opaque):
    """A turn's text, stripped or not."""

    __slots__ = ("_run", "_steps", "_text", "_turn")
    __hash__ = _refuse

    def __init__(self, run: _Run, turn: int, text: str, steps: tuple[_Step, ...] = ()) -> None:
        super().__init__((self,))
        self._run, self._turn, self._text, self._steps = run, turn, text, steps

    def _ask(self, method: Callable[[str, str], bool], argument: Any) -> bool:
        if type(argument) is not str:
            raise Untraceable
        answer = method(self._text, argument)
        self._run.answers[self._turn, self._steps, method, argument] = answer
        return answer

    def _stripped(self, method: Callable[[str, str | None], str], chars: Any) -> "_Content":
        if chars is not None and type(chars) is not str:
            raise Untraceable
        return _Content(self._run, self._turn, method(self._text, chars), (*self._steps, (method, chars)))

    def __contains__(self, argument: Any) -> bool:
        return self._ask(str.__contains__, argument)

    def __eq__(self, other: object) -> bool:
        return self._ask(str.__eq__, other)

    def __ne__(self, other: object) -> bool:
        return self._ask(str.__ne__, other)

    def __bool__(self) -> bool:
        return self._ask(str.__ne__, "")

    def startswith(self, argument: Any) -> bool:
        return self._ask(str.startswith, argument)

    def endswith(self, argument: Any) -> bool:
        return self._ask(str.endswith, argument)

    def strip(self, chars: Any = None) -> "_Content":
        return self._stripped(str.strip, chars)

    def lstrip(self, chars: Any = None) -> "_Content":
        return self._stripped(str.lstrip, chars)

    def rstrip(self, chars: Any = None) -> "_Content":
        return self._stripped(str.rstrip, chars)


class _Sandbox(ImmutableSandboxedEnvironment):
    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, _Opaque):
            raise Untraceable
        return super().getitem(obj, argument)


def _parts_of(value: Any) -> tuple[Any, ...]:
    if isinstance(value, _Opaque):
        return value._parts
    if type(value) is not str:
        raise Untraceable
    return (value,)


@dataclass(frozen=True)
class Trace:
    """How a template writes conversations of certain roles whose contents answer its questions alike.

    Attributes:
        parts: its own text around the contents: one more than turns.
    """

    parts: tuple[str, ...]
    _steps: tuple[tuple[_Step, ...], ...]
    _answers: tuple[tuple[_Question, bool], ...]

    def contents(self, contents: Sequence[str]) -> list[str] | None:
        """Return the contents as the template writes them, None where their answers are others."""
        for (turn, steps, method, argument), answer in self._answers:
            if method(_strip(contents[turn], steps), argument) is not answer:
                return None
        return [_strip(text, steps) if steps else text for text, steps in zip(contents, self._steps, strict=True)]


def _strip(text: str, steps: tuple[_Step, ...]) -> str:
    for method, chars in steps:
        text = method(text, chars)
    return text


def trace(source: str, roles: Sequence[str], contents: Sequence[str], **variables: Any) -> Trace:
    """Return how a template writes these contents and all that answer its questions alike.

    Args:
        source: the Jinja template.
        roles: one for each turn.
        contents: one for each turn.
        variables: whatever else the template may read.

    Raises:
        Untraceable: it does with contents what cannot be followed, or fails.
    """
    run = _Run()
    messages = [
        {"role": role, "content": _Content(run, turn, text)}
        for turn, (role, text) in enumerate(zip(roles, contents, strict=True))
    ]
    try:
        text = _compiled(source).render(messages=messages, **variables)
    except Exception as error:
        raise Untraceable from error
    parts = _FRAGMENT.split(text)
    if parts[1::2] != [str(index) for index in range(len(run.written))]:
        raise Untraceable
    if [one._turn for one in run.written] != list(range(len(roles))):
        raise Untraceable
    return Trace(tuple(parts[::2]), tuple(one._steps for one in run.written), tuple(run.answers.items()))


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], finalize=_written
    )
    test: Any
    for name, test in environment.tests.items():
        environment.tests[name] = _type_test(test) if name in _TYPE_TESTS else _without_contents(test)
    for name, found in environment.filters.items():
        environment.filters[name] = _without_contents(found)
    environment.filters["trim"] = _trim(environment.filters["trim"])
    environment.filters.update(tojson=_refuse, random=_refuse)
    environment.globals.update(raise_exception=_refuse, strftime_now=_refuse, lipsum=_refuse)
    syntax = environment.parse(source)
    if any(True for _ in syntax.find_all(_CAPTURING)) or any(loop.recursive for loop in syntax.find_all(nodes.For)):
        raise Untraceable
    return environment.from_string(source)


def _written(value: Any) -> Any:
    """Return what is written for a value: marks where contents stand."""
    if not isinstance(value, _Opaque):
        return value
    marked = []
    for part in value._parts:
        if isinstance(part, _Content):
            marked.append(f"\ue000{len(part._run.written)}\ue001")
            part._run.written.append(part)
        else:
            marked.append(part)
    return "".join(marked)


def _type_test(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    def asked(value: Any) -> Any:
        return test("" if isinstance(value, _Opaque) else value)

    return asked


def _without_contents(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(value, _Opaque) for value in (*arguments, *named.values())):
            raise Untraceable
        return function(*arguments, **named)

    return called


def _trim(usual: Callable[..., Any]) -> Callable[..., Any]:
    def trim(value: Any, chars: Any = None) -> Any:
        return value.strip(chars) if isinstance(value, _Content) else usual(value, chars)

    return trim
