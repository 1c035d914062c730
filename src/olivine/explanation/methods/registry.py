"""Which methods there are: the package's own, and those of installed packages."""

from collections.abc import Sequence

from olivine.errors import RequestError, unknown_name
from olivine.explanation.methods.attention import Attention
from olivine.explanation.methods.base import Method
from olivine.explanation.methods.centre import Centre
from olivine.explanation.methods.gradient_input import GradientInput
from olivine.explanation.methods.greedy import Greedy
from olivine.explanation.methods.integrated_gradients import IntegratedGradients
from olivine.explanation.methods.logit_lens import LogitLens
from olivine.explanation.methods.occlusion import Occlusion
from olivine.explanation.methods.random_order import RandomOrder
from olivine.explanation.methods.relevancy import Relevancy, RelevancyOfLogProbability
from olivine.explanation.methods.rise import Rise
from olivine.explanation.methods.rollout import Rollout
from olivine.registry import load, offered

#: Entry points of this group are named by their method's name.
EXPLANATIONS = "olivine.explanations"
_GRADIENTS: tuple[type[Method], ...] = (IntegratedGradients, GradientInput, Relevancy, RelevancyOfLogProbability)
_OTHERS: tuple[type[Method], ...] = (Occlusion, Rise, Rollout, Attention, LogitLens, Greedy, RandomOrder, Centre)
_OWN: dict[str, type[Method]] = {method.name: method for method in (*_GRADIENTS, *_OTHERS)}
DEFAULT = IntegratedGradients.name


def method_names() -> tuple[str, ...]:
    """Return every method's name, the package's own first."""
    return (*_OWN, *(name for name in offered(EXPLANATIONS) if name not in _OWN))


def compared_names() -> tuple[str, ...]:
    """Return the names that `all` stands for: every method but the greedy search, whose time grows with the square."""
    return tuple(name for name in method_names() if name != Greedy.name)


def method(name: str) -> Method:
    """Return a method with its default options.

    Raises:
        RequestError: there is none of that name; the message suggests the nearest.
    """
    if name in _OWN:
        return _OWN[name]()
    if name in offered(EXPLANATIONS):
        found: Method = load(EXPLANATIONS, name)()
        return found
    raise RequestError(f"--methods: {unknown_name(name, method_names())}")


def chosen_methods(names: str | None, default: Sequence[str] = (DEFAULT,)) -> list[Method]:
    """Return the methods of comma-separated names; `all` is every one but the greedy search.

    Raises:
        RequestError: a name is unknown, or given twice.
    """
    given = [name for name in (names or "").split(",") if name] or list(default)
    listed = [one for name in given for one in (compared_names() if name == "all" else (name,))]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise RequestError(f"--methods: {', '.join(twice)} given more than once.")
    return [method(name) for name in listed]
