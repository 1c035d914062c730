"""Simulate how often intervals over questions and training runs hold the truth, with two to five seeds.

Answers are sums of a part of the seed, a part of the cluster, and the rest, all normal. `satterthwaite` is the
interval that was replaced: one Student quantile for both variances together.

    python benchmarks/seed_coverage.py --out benchmarks/results/seed-coverage.json
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from olivine.files import write_json
from olivine.statistics import standard_errors, t_quantile
from olivine.statistics.power import half_width

SEEDS, CLUSTERS = (2, 3, 5), (15, 60, 300)
#: Standard deviations of the seed's part, the cluster's, and the rest.
DEVIATIONS = ((0, 2, 1), (0.1, 2, 1), (0.3, 2, 1), (1, 0.2, 3), (0, 0.2, 3), (1, 1, 1))


def case(seeds: int, clusters: int, deviations: tuple[float, float, float], simulations: int) -> dict[str, object]:
    """Return coverage and mean half-width, the latter as a multiple of what a known variance gives."""
    random = np.random.default_rng([seeds, clusters, *(int(10 * value) for value in deviations)])
    of_seed, of_cluster, rest = deviations
    truth = 1.96 * np.sqrt(of_seed**2 / seeds + of_cluster**2 / clusters + rest**2 / (seeds * clusters))
    found: dict[str, list[tuple[bool, float]]] = {"interval": [], "satterthwaite": []}
    for _ in range(simulations):
        values = random.normal(0, 1, (seeds, 1)) * of_seed + random.normal(0, 1, clusters) * of_cluster
        values = values + random.normal(0, 1, (seeds, clusters)) * rest
        about, mean = standard_errors(values), abs(float(values.mean()))
        pooled = t_quantile(0.975, round(about.degrees_of_freedom, 1)) * about.total
        for name, reach in (("interval", half_width(about, 0.975)), ("satterthwaite", pooled)):
            found[name].append((mean <= reach, reach / truth))
    means = {name: np.mean(pairs, axis=0).round(4).tolist() for name, pairs in found.items()}
    row = {name: {"coverage": coverage, "width": width} for name, (coverage, width) in means.items()}
    return {"seeds": seeds, "clusters": clusters, "deviations": deviations, **row}


def main() -> None:
    """Simulate every case and print the extremes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="100 simulations")
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--out", type=Path, help="write the JSON there")
    given = parser.parse_args()
    simulations = 100 if given.quick else given.simulations
    rows = [case(*which, simulations) for which in product(SEEDS, CLUSTERS, DEVIATIONS)]
    ratios = {
        f"{seeds} seeds": {
            f"lowest coverage, {name}": min(row[name]["coverage"] for row in rows if row["seeds"] == seeds)
            for name in ("interval", "satterthwaite")
        }
        for seeds in SEEDS
    }
    found = {"simulations": simulations, "ratios": ratios, "rows": rows, "device": "cpu"}
    if given.out:
        write_json(given.out, found)
    print(json.dumps(found if given.json else ratios, indent=None if given.json else 1))


if __name__ == "__main__":
    main()
