"""How well scores on a few items rank merges by their accuracy on the others.

    python -m experiments.margins.ranking FOLDER NAME

The merges are a table's random draws; the temperatures are shares of the median |margin| of base
and sources. Spearman's correlation, its mean over random parts of the items, by objective.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import stats

from automerge.estimation.margins import right_probability
from experiments.margins.results import save
from experiments.margins.table import Floats, Merges, read

SIZES = (40, 80, 160)
PARTS = 40
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def smooth_scores(table: Merges, at: int) -> dict[str, Floats]:
    """Scores of the draws on all items of an objective, by their name: (draws, items)."""
    draws = table.margins[table.firsts :, at]
    median = float(np.median(np.abs(table.margins[: table.firsts - 1, at])))
    tempered = {f"{share:g} × median": share * median for share in SHARES}
    return {
        "accuracy": table.scores[table.firsts :, at],
        "margin": draws,
        **{
            f"τ = {name}": right_probability(draws, temperature)
            for name, temperature in {"1": 1.0, **tempered}.items()
        },
    }


def correlations(table: Merges, at: int, n: int) -> dict[str, float]:
    """Mean correlation with accuracy on the other items, by score."""
    scores = smooth_scores(table, at)
    truth = scores["accuracy"]
    rng = np.random.default_rng([n, at])
    found: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(PARTS):
        order = rng.permutation(truth.shape[1])
        few, others = order[:n], order[n:]
        expected = truth[:, others].mean(axis=1)
        for name, values in scores.items():
            found[name].append(stats.spearmanr(values[:, few].mean(axis=1), expected).statistic)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(folder: Path, zoo: str) -> None:
    table = read(folder)
    draws = table.scores[table.firsts :]
    medians = np.median(np.abs(table.margins[: table.firsts - 1]), axis=(0, 2))
    save(
        zoo,
        "table",
        {
            "merges": len(table.scores),
            "items": table.scores.shape[2],
            "objectives": {
                name: {
                    "mean": float(draws[:, at].mean()),
                    "spread": float(draws[:, at].mean(axis=1).std()),
                    "median margin": float(medians[at]),
                }
                for at, name in enumerate(table.names)
            },
        },
    )
    for n in SIZES:
        found = {name: correlations(table, at, n) for at, name in enumerate(table.names)}
        save(zoo, "ranking", str(n), found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
