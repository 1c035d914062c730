"""Simulate how often intervals hold the truth and tests find what is not there, where clusters make it hard.

Every cell of a grid (clusters, their sizes, the rate, the correlation within clusters) is drawn many times; a score, a
difference between two equal models, and a difference between two that are not are estimated from each draw by the
package's own functions. Beside them stand the percentile bootstrap that they replaced (`before`) and the oracle: the
width between the 2.5 % and 97.5 % quantiles of the estimate itself, which no one but a simulation knows.

    python benchmarks/coverage.py --out benchmarks/results/coverage.json
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from olivine.files import write_json
from olivine.statistics import (
    Array,
    correlated,
    difference_interval,
    mean_interval,
    ratio_values,
    sign_flip,
    t_quantile,
)

CLUSTERS, SIZES, RATES = (15, 30, 60, 100), ("equal", "lognormal", "one holds 40 %"), (0.5, 0.97, 0.02)
#: The share of the variance of an answer that all answers of a cluster have in common.
CORRELATIONS = (0.05, 0.5)
RESAMPLES, FLIPS = 1000, 1999


def drawn_sizes(kind: str, clusters: int, simulations: int, random: np.random.Generator) -> Array:
    """Return the answers of each cluster, `[clusters, simulations]`."""
    if kind == "lognormal":
        return np.clip(np.round(random.lognormal(1.2, 1.5, (clusters, simulations))), 1, 400)
    sizes = np.full((clusters, simulations), 5.0)
    if kind == "one holds 40 %":
        sizes[0] = round(5 * (clusters - 1) * 0.4 / 0.6)
    return sizes


def models(rate: float, other: float, correlation: float, sizes: Array, random: np.random.Generator) -> list[Array]:
    """Return the right answers of two models: (first, second, both), each `[clusters, simulations]`.

    A cluster has a difficulty drawn from a beta distribution, which half of the clusters share between the models. The
    second model's mean is `other`.
    """
    concentration = 1 / correlation - 1
    ranks = random.random((3, *sizes.shape))
    shared = np.where(random.random(sizes.shape) < 0.5, ranks[0], ranks[1])
    chances = [_beta(mean, concentration, ranks_of) for mean, ranks_of in ((rate, ranks[0]), (other, shared))]
    counts = sizes.astype(int)
    first, second = (random.binomial(counts, chance) for chance in chances)
    both = random.hypergeometric(first, counts - first, second)
    return [found.astype(float) for found in (first, second, both)]


def _beta(mean: float, concentration: float, ranks: Array) -> Array:
    from scipy.special import betaincinv

    grid = np.linspace(0, 1, 4001)  # betaincinv of every single rank would take minutes
    quantiles = betaincinv(mean * concentration, (1 - mean) * concentration, grid)
    return np.interp(ranks, grid, quantiles)


def before(values: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Return the replaced method's intervals: percentiles of a cluster bootstrap, widened to Student's."""
    clusters = len(values)
    means = random.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES) @ values / clusters
    widened = t_quantile(0.975, clusters - 1) * math.sqrt(clusters / (clusters - 1))
    tail = 0.5 * math.erfc(widened / math.sqrt(2))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def judged(ends: tuple[Array, Array], truth: float) -> dict[str, float]:
    """Return coverage, mean width and the share of intervals without a width."""
    low, high = ends
    held = (low - 1e-12 <= truth) & (truth <= high + 1e-12)
    return {
        "coverage": round(float(held.mean()), 4),
        "width": round(float((high - low).mean()), 4),
        "no width": round(float((high - low < 1e-9).mean()), 4),
    }


def difference(first: Array, second: Array, both: Array, sizes: Array) -> tuple[Array, Array]:
    """Return the package's interval of second minus first."""
    up, down = second - both, first - both
    return difference_interval((up, up), (down, down), sizes)


def cell(clusters: int, kind: str, rate: float, correlation: float, simulations: int) -> dict[str, Any]:
    """Return what happened in one cell."""
    random = np.random.default_rng([clusters, len(kind), int(1000 * rate), int(1000 * correlation)])
    sizes = drawn_sizes(kind, clusters, simulations, random)
    first, second, both = models(rate, rate, correlation, sizes, random)
    row: dict[str, Any] = {"clusters": clusters, "sizes": kind, "rate": rate, "correlation": correlation}
    total = sizes.sum(axis=0)
    row["score"] = judged(mean_interval(first, first, sizes), rate)
    row["score before"] = judged(before(ratio_values(first, sizes), random), rate)
    row["score oracle"] = oracle(first.sum(axis=0) / total)
    row["equal models"] = judged(difference(first, second, both, sizes), 0.0)
    change = ratio_values(second, sizes) - ratio_values(first, sizes)
    row["equal models before"] = judged(before(change, random), 0.0)
    row["equal models oracle"] = oracle((second - first).sum(axis=0) / total)
    p, mid = sign_flip(second - first, random, flips=FLIPS)
    row["test"] = {
        "size": share(p),
        "size of mid-p": share(mid),
        "size before": share(sign_flip(change, random, flips=FLIPS)[0]),
    }
    other = 0.6 if rate == 0.5 else (0.9 if rate > 0.5 else rate + 0.06)
    first, second, both = models(rate, other, correlation, sizes, random)
    row["unequal models"] = judged(difference(first, second, both, sizes), other - rate)
    change = ratio_values(second, sizes) - ratio_values(first, sizes)
    row["unequal models before"] = judged(before(change, random), other - rate)
    row["unequal models oracle"] = oracle((second - first).sum(axis=0) / total)
    return row


def oracle(estimates: Array) -> float:
    """Return the width between the 2.5 % and 97.5 % quantiles of the estimate."""
    low, high = np.quantile(estimates, [0.025, 0.975])
    return round(float(high - low), 4)


def share(p: Array) -> float:
    """Return how often a test at 5 % rejects."""
    return round(float((p <= 0.05 + 1e-12).mean()), 4)


def forced_end(clusters: int, kind: str, rate: float, simulations: int) -> float:
    """Return how far (from 0, or from 1 at a high rate) the end of any interval must reach that always holds.

    Where no answer of the rare kind is seen, nothing tells the correlation. To hold the truth in 93 % of draws at the
    grid's high correlation too, the end must reach every rate at which seeing none is likelier than 7 % there; seeing
    some cannot pull it back. The mean width is then at least this, less the mean distance of the other end.
    """
    rare = min(rate, 1 - rate)
    random = np.random.default_rng([9, clusters, len(kind)])
    sizes = drawn_sizes(kind, clusters, simulations, random)
    concentration = 1 / max(CORRELATIONS) - 1
    found = rare
    for candidate in np.linspace(rare, 0.5, 200):
        chance = np.exp(_log_none(candidate, concentration, sizes).sum(axis=0)).mean()
        if chance <= 0.07:
            break
        found = candidate
    return round(float(found), 4)


def _log_none(rate: float, concentration: float, sizes: Array) -> Array:
    from scipy.special import betaln

    a, b = rate * concentration, (1 - rate) * concentration
    return betaln(a, b + sizes) - betaln(a, b)


def limits(row: dict[str, Any], of: str) -> tuple[float, str]:
    """Return the width that an interval of this cell may have, and of what it is a multiple.

    An interval of a difference is one that holds if it does so for equal and for unequal models alike.
    """
    kinds = ("score",) if of == "score" else ("equal models", "unequal models")
    if all(row[f"{kind} before"]["coverage"] >= 0.93 for kind in kinds):
        return 1.15 * row[f"{of} before"]["width"], "1.15 of before"
    return 1.5 * row[f"{of} oracle"], "1.5 of the oracle"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the extremes over all cells, and the cells that are wider than the target."""
    found: dict[str, Any] = {}
    for of in ("score", "equal models", "unequal models"):
        wide = [(row, *limits(row, of)) for row in rows]
        found[of] = {
            "lowest coverage": min(row[of]["coverage"] for row in rows),
            "lowest coverage before": min(row[f"{of} before"]["coverage"] for row in rows),
            "cells below .93": sum(row[of]["coverage"] < 0.93 for row in rows),
            "cells below .93 before": sum(row[f"{of} before"]["coverage"] < 0.93 for row in rows),
            "cells wider than the target": sum(row[of]["width"] > limit for row, limit, _ in wide),
            "widest, as a multiple of its target": round(max(row[of]["width"] / limit for row, limit, _ in wide), 2),
            "intervals without a width": max(row[of]["no width"] for row in rows),
        }
    sizes = [row["test"] for row in rows]
    halves = [
        row["test"]["size"] for row in rows if row["rate"] == 0.5 and row["sizes"] == "equal" and row["clusters"] >= 60
    ]
    found["test"] = {
        "largest size": max(row["size"] for row in sizes),
        "largest size of mid-p": max(row["size of mid-p"] for row in sizes),
        "largest size before": max(row["size before"] for row in sizes),
        "smallest size at rate .5 with 60 or more equal clusters": min(halves, default=None),
    }
    return found


def main() -> None:
    """Simulate every cell; print one line each, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="200 simulations of 15 and 60 clusters")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--prior", type=float, default=correlated.PRIOR, help="another prior correlation")
    parser.add_argument("--raised", type=float, default=correlated.RAISED, help="another share of its uncertainty")
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--out", type=Path, help="write the JSON there")
    given = parser.parse_args()
    correlated.PRIOR, correlated.RAISED = given.prior, given.raised
    simulations = 200 if given.quick else given.simulations
    rows = []
    for clusters in (15, 60) if given.quick else CLUSTERS:
        for kind in SIZES:
            for rate in given.rates:
                for correlation in CORRELATIONS:
                    row = cell(clusters, kind, rate, correlation, simulations)
                    if rate != 0.5:
                        row["forced end"] = forced_end(clusters, kind, rate, min(simulations, 1000))
                    rows.append(row)
                    if not given.json:
                        print(json.dumps(row), flush=True)
    parameters = {"prior": given.prior, "raised": given.raised}
    found = {"simulations": simulations, **parameters, "ratios": summary(rows), "rows": rows, "device": "cpu"}
    if given.out:
        write_json(given.out, found)
    print(json.dumps(found if given.json else found["ratios"], indent=None if given.json else 1))


if __name__ == "__main__":
    main()
