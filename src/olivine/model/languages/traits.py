"""What is particular in a language model's attention and head, read from its configuration."""

from dataclasses import dataclass
from typing import Any

from olivine.model.languages.registry import family_of


@dataclass(frozen=True, slots=True)
class LanguageTraits:
    """Windows, soft caps and the longest sample of a language model.

    Attributes:
        windows: for each layer how many tokens a query sees, itself included; None for all before it.
        cap: soft cap of attention scores.
        final_cap: soft cap of the head's logits, in the loss.
        longest: most tokens of a sample; None for any number.
    """

    windows: tuple[int | None, ...]
    cap: float | None
    final_cap: float | None
    longest: int | None

    @property
    def plain(self) -> bool:
        """Whether every layer's attention is causal and nothing else."""
        return self.cap is None and not any(self.windows)

    def masked(self, grouped: bool) -> bool:
        """Return whether a packed sequence must carry `PackedMasks`; `grouped`: attention by groups, not by spans."""
        return self.cap is not None or (grouped and any(self.windows))


def language_traits(config: Any) -> LanguageTraits:
    """Return the traits of a configuration that its family has checked."""
    family = family_of(config)
    return LanguageTraits(
        family.windows(config), family.attention_cap(config), family.final_cap(config), family.longest(config)
    )
