"""The interface of a method: from a case to one score for each image token.

The methods are in the other files of this package, one each; `registry` lists them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from olivine.explanation.case import Case


@dataclass(frozen=True, slots=True)
class Work:
    """What a method runs for one explained token.

    Attributes:
        forwards: sequences that run forward only.
        backwards: sequences that run forward and backward.
        sequences: how many of them can run at once.
        weights: whose attention weights are kept: of no layer, of one query in each, or all of each.
        every_layer: whether every layer's hidden states are kept.
    """

    forwards: int = 0
    backwards: int = 0
    sequences: int = 1
    weights: Literal["none", "rows", "all"] = "none"
    every_layer: bool = False


class Method(ABC):
    """A method. Derive from it and offer the class under the entry-point group `olivine.explanations`, by its `name`.

    Attributes:
        name: its name in commands and tables.
        about: what it computes, in one line.
        control: whether it looks at nothing, and serves to compare with.
        signed: whether a negative score speaks against the answer; otherwise only the order has a meaning.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    control: ClassVar[bool] = False
    signed: ClassVar[bool] = True

    @abstractmethod
    def token_scores(self, case: Case) -> Tensor:
        """Return one score for each image token, `[image tokens]` fp32 on the CPU: the higher, the more it matters.

        Deterministic; it does not depend on what runs beside it. Tokens that have no place in the map are scored too.
        """

    @abstractmethod
    def work(self, image_tokens: int) -> Work:
        """Return what it runs for an image of this many tokens."""
