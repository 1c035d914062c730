"""A small design in which every permitted pair of levels of two factors occurs at least once, found greedily.

The tests define the levels and what is tested of each combination.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

#: Whether two levels, each with its factor, may occur in one combination.
Permitted = Callable[[tuple[str, str], tuple[str, str]], bool]


def pairwise_design(
    factors: Mapping[str, Sequence[str]], permitted: Permitted = lambda _, __: True
) -> list[dict[str, str]]:
    """Return combinations, one level of each factor, that cover every permitted pair; the same ones each time.

    Each starts from a pair that is not yet covered; every other factor then takes the level that covers the most pairs
    not yet covered; ties go to the least used level.
    """
    open_pairs = {
        frozenset(pair): pair
        for first, second in combinations(factors, 2)
        for pair in product(_levels(factors, first), _levels(factors, second))
        if permitted(*pair)
    }
    used = {level: 0 for factor in factors for level in _levels(factors, factor)}
    design = []
    while open_pairs:
        chosen = dict(next(iter(open_pairs.values())))
        for factor in factors:
            if factor in chosen:
                continue
            candidates = [
                level for level in _levels(factors, factor) if all(permitted(one, level) for one in chosen.items())
            ]
            if not candidates:
                raise ValueError(f"no level of {factor} may stand beside {chosen}")
            new = {level: sum(frozenset((one, level)) in open_pairs for one in chosen.items()) for level in candidates}
            best = max(candidates, key=lambda level: (new[level], -used[level]))
            chosen[factor] = best[1]
        for pair in combinations(chosen.items(), 2):
            open_pairs.pop(frozenset(pair), None)
        for level in chosen.items():
            used[level] += 1
        design.append({factor: chosen[factor] for factor in factors})
    return design


def _levels(factors: Mapping[str, Sequence[str]], factor: str) -> list[tuple[str, str]]:
    return [(factor, level) for level in factors[factor]]
