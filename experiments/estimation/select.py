"""How well is a shortlist chosen from real merges, by scheme and number of items a candidate?

    OMP_NUM_THREADS=1 python -m experiments.estimation.select FOLDER

The recipes are the table's, so no sampler profits or suffers: only the choice of twelve is judged,
by the hypervolume of their means over all items, and by how far their scores flatter them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from automerge import pareto
from automerge.estimation.scoreboard import Scoreboard
from automerge.items import BASELINE_SHARES
from automerge.objective import ItemScores, estimates, losses
from experiments.estimation.coverage import OBJECTIVES, Floats, Study, studies
from experiments.estimation.results import save
from experiments.estimation.scores import read_table

SIZES = (30, 50, 100, 200, 300, 500)
REPLAYS = 10
SHORTLIST = 12
SCHEMES = ("control variates", "fresh", "fixed")


def believed(study: Study, n: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Losses of every recipe as each scheme sees them, (recipes, objectives)."""
    n_items = study.scores.shape[2]
    pool = {o.name: [(o.task, i) for i in range(n_items)] for o in OBJECTIVES}
    board = Scoreboard(OBJECTIVES, pool)
    fresh = []
    for number, (rows, position) in enumerate(zip(study.scores, study.positions, strict=True)):
        size = min(n_items, n * (BASELINE_SHARES if number < study.baselines else 1))
        shown = {}
        for objective, row in zip(OBJECTIVES, rows, strict=True):
            seen = rng.permutation(n_items)[:size]
            values = tuple(row[seen].astype(float).tolist())
            shown[objective.name] = ItemScores(
                tuple((objective.task, int(i)) for i in seen), values
            )
        board.add(None if np.isnan(position).any() else position, shown)
        fresh.append(losses(OBJECTIVES, estimates(OBJECTIVES, shown)))
    subsets = [rng.permutation(n_items)[:n] for _ in OBJECTIVES]
    fixed = [
        [-row[subset].mean() for row, subset in zip(rows, subsets, strict=True)]
        for rows in study.scores
    ]
    ours = [losses(OBJECTIVES, board.estimates(i)) for i in range(len(study.scores))]
    return dict(zip(SCHEMES, (np.array(ours), np.array(fresh), np.array(fixed)), strict=True))


def judge(study: Study, losses_seen: Floats) -> tuple[float, float]:
    """The shortlist's true hypervolume, as a share of the best shortlist's; its optimism."""
    truth = -study.truth
    searched = np.arange(study.baselines, len(truth))
    bound = truth[: study.baselines].max(axis=0)

    def volume(chosen: NDArray[np.intp]) -> float:
        return pareto.hypervolume(truth[chosen], bound)

    def shortlist(seen: Floats) -> NDArray[np.intp]:
        reference = pareto.reference_point(seen)
        return searched[pareto.greedy_subset(seen[searched], SHORTLIST, reference)]

    chosen = shortlist(losses_seen)
    flattery = float((truth[chosen] - losses_seen[chosen]).mean())
    return volume(chosen) / volume(shortlist(truth)), flattery


def main(folder: Path) -> None:
    table = read_table(folder)
    found: dict[str, dict[str, dict[str, float]]] = {scheme: {} for scheme in SCHEMES}
    for n in SIZES:
        judged: dict[str, list[tuple[float, float]]] = {scheme: [] for scheme in SCHEMES}
        for _, study in studies(table):
            for seed in range(REPLAYS):
                seen = believed(study, n, np.random.default_rng([n, seed]))
                for scheme, rows in seen.items():
                    judged[scheme].append(judge(study, rows))
        for scheme, pairs in judged.items():
            shares, flattery = np.array(pairs).T
            found[scheme][str(n)] = {
                "hypervolume": float(shares.mean()),
                "standard error": float(shares.std(ddof=1) / np.sqrt(len(shares))),
                "optimism": float(flattery.mean()),
            }
            print(n, scheme, found[scheme][str(n)], flush=True)
    save("selection", found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
