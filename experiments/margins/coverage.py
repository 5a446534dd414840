"""Replay draws of items from a table: what margins are worth to the search's estimates.

    OMP_NUM_THREADS=1 python -m experiments.margins.coverage FOLDER NAME [--replays 4] [--warm 20]

Every replay is one study: base, sources and uniform average on four shares of items, then the draws
in an order of their own, each on n fresh items per objective. The truth is the mean over all items.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from automerge.estimation.neighbours import control_variates, nearest, predictions
from automerge.estimation.scoreboard import Scoreboard
from automerge.items import BASELINE_SHARES
from automerge.objective import Estimate, ItemScores, Objective
from experiments.margins.results import save
from experiments.margins.table import Floats, Merges, read

SIZES = (25, 35, 50, 70, 100, 140)
LEVEL = 1.6449
BEFORE, SCORES, MARGINS = "before", "factors of scores", "factors of margins"
ESTIMATORS = ("mean", BEFORE, SCORES, MARGINS)


def objectives(table: Merges) -> tuple[Objective, ...]:
    """The objectives of a table."""
    return tuple(Objective(name, name, "acc", "none", "maximize") for name in table.names)


def neighbours(rows: Floats, position: Floats, positions: Floats, candidate: int) -> Estimate:
    """Estimate as before there were margins: from similar candidates' scores and the items' means.

    Args:
        rows: (candidates, items), NaN where not seen.
        position: the candidate's.
        positions: of all candidates.
        candidate: its number.
    """
    distances = np.sqrt(((positions - position) ** 2).sum(axis=1))
    distances[~np.isfinite(distances)] = np.inf
    distances[candidate] = np.inf
    donors = nearest(distances)
    others = np.delete(rows, candidate, axis=0)
    counts = np.isfinite(others).sum(axis=0)
    overall = np.nansum(others) / counts.sum()
    means = (np.nansum(others, axis=0) + overall) / (counts + 1)
    predicted = predictions(rows[donors], distances[donors], means)
    return control_variates(rows[candidate], np.stack([predicted, means]))


def replay(table: Merges, n: int, seed: int, warm: int) -> dict[str, Floats]:
    """Draw items for all merges, and estimate when told and at the end.

    The first `warm` draws are not counted: a study's first estimates have little to learn from.

    Returns:
        (draws, objectives, 2): error and standard error, by estimator and ", when told".
    """
    rng = np.random.default_rng([n, seed])
    n_items = table.scores.shape[2]
    order = np.append(
        np.arange(table.firsts), table.firsts + rng.permutation(len(table.scores) - table.firsts)
    )
    scores, margins, positions = (x[order] for x in (table.scores, table.margins, table.positions))
    goals = objectives(table)
    pool = {o.name: [(o.task, i) for i in range(n_items)] for o in goals}
    boards = {SCORES: Scoreboard(goals, pool), MARGINS: Scoreboard(goals, pool)}
    rows = np.full(scores.shape, np.nan)
    found: dict[str, list[list[Estimate]]] = {}

    def note(suffix: str, candidate: int, until: int) -> None:
        own = rows[:until]
        for name, estimates in {
            "mean": [control_variates(row, np.zeros((1, n_items))) for row in own[candidate]],
            BEFORE: [
                neighbours(own[:, at], positions[candidate], positions[:until], candidate)
                for at in range(len(goals))
            ],
            **{k: list(board.estimates(candidate).values()) for k, board in boards.items()},
        }.items():
            found.setdefault(name + suffix, []).append(estimates)

    for candidate in range(len(scores)):
        size = min(n_items, n * (BASELINE_SHARES if candidate < table.firsts else 1))
        shown, near = {}, {}
        for at, objective in enumerate(goals):
            seen = np.sort(rng.permutation(n_items)[:size])
            rows[candidate, at, seen] = scores[candidate, at, seen]
            items = tuple((objective.task, int(i)) for i in seen)
            shown[objective.name] = ItemScores(items, tuple(scores[candidate, at, seen].tolist()))
            near[objective.name] = ItemScores(items, tuple(margins[candidate, at, seen].tolist()))
        place = None if np.isnan(positions[candidate]).any() else positions[candidate]
        is_parent = candidate < table.firsts - 1
        boards[SCORES].add(place, shown)
        boards[MARGINS].add(place, shown, near, is_parent=is_parent)
        if candidate >= table.firsts + warm:
            note(", when told", candidate, candidate + 1)
    for board in boards.values():
        board.settle()
    first = table.firsts + warm
    for candidate in range(first, len(scores)):
        note("", candidate, len(scores))
    truth = scores[first:].mean(axis=2)
    return {
        name: np.array(
            [
                [(e.value - t, e.stderr) for e, t in zip(row, true, strict=True)]
                for row, true in zip(estimates, truth, strict=True)
            ]
        )
        for name, estimates in found.items()
    }


def summarise(table: Merges, n: int, replays: int, warm: int) -> dict[str, dict[str, float]]:
    """Root mean square error, coverage and bias by estimator, over all draws and replays."""
    found: dict[str, list[Floats]] = {}
    for seed in range(replays):
        for name, errors in replay(table, n, seed, warm).items():
            found.setdefault(name, []).append(errors)
    summary = {}
    for name, parts in found.items():
        off, stderr = np.moveaxis(np.concatenate(parts), 2, 0)
        summary[name] = {
            "error": float(np.sqrt((off**2).mean())),
            "stderr": float(np.sqrt((stderr**2).mean())),
            "coverage": float((np.abs(off) <= LEVEL * stderr).mean()),
            "bias": float(off.mean()),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--replays", type=int, default=4)
    parser.add_argument("--warm", type=int, default=20)
    args = parser.parse_args()
    table = read(args.folder)
    for n in SIZES:
        if n * BASELINE_SHARES <= table.scores.shape[2]:
            save(args.name, "estimates", str(n), summarise(table, n, args.replays, args.warm))


if __name__ == "__main__":
    main()
