"""Replay draws of items from the table: how exact, and how honest, is each estimator?

    OMP_NUM_THREADS=1 python -m experiments.estimation.coverage FOLDER

Every replay is one study: base, sources and uniform average on four shares of items, then one
search's recipes in its order, each on `n` fresh items of each task's 1,000. The truth is the mean
over all 1,000.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from automerge.estimation import tango_interval, wilson_interval
from automerge.estimation.intervals import t_quantile
from automerge.estimation.scoreboard import Scoreboard
from automerge.items import BASELINE_SHARES
from automerge.objective import Estimate, ItemScores, Objective, standard_error
from experiments.estimation.results import save
from experiments.estimation.scores import Scores, Table, read_table

Floats = NDArray[np.float64]

NAMES = ("sorting", "clock", "median", "facts")
OBJECTIVES = tuple(Objective(name, name, "acc", "none", "maximize") for name in NAMES)
SIZES = (30, 50, 100, 200, 300)
REPLAYS = 5
SEARCHED = 194
LEVEL = 0.90
BEST = 0.1
SUPERPOPULATION_SIZES = (50, 100, 200, 400)
SUPERPOPULATION_LEVELS = (0.90, 0.95)
PAIRS = 200
DRAWS_A_PAIR = 500


@dataclass(frozen=True)
class Study:
    """The recipes of one search: (recipes, objectives, items), baselines first."""

    scores: Scores
    positions: Floats
    baselines: int

    @property
    def truth(self) -> Floats:
        """Means over all items, (recipes, objectives)."""
        return np.asarray(self.scores.mean(axis=2))

    @property
    def best(self) -> NDArray[np.bool_]:
        """The searched recipes of the best tenth by their mean over objectives."""
        overall = self.truth[self.baselines :].mean(axis=1)
        return np.asarray(overall >= np.quantile(overall, 1 - BEST))


def studies(table: Table) -> Iterator[tuple[str, Study]]:
    """One study a search that is in the table, and one of random recipes."""
    first = table.rows("first")
    for stream in dict.fromkeys(table.streams):
        rows = table.rows(stream)[:SEARCHED]
        if stream != "first" and len(rows) >= SEARCHED // 2:
            chosen = np.concatenate([first, rows])
            yield stream, Study(table.scores[chosen], table.positions[chosen], len(first))


Draw = Callable[[np.random.Generator, int, NDArray[np.intp]], NDArray[np.intp]]
"""Items of an objective, so many of them, given their strata."""


def simple_draw(rng: np.random.Generator, n: int, strata: NDArray[np.intp]) -> NDArray[np.intp]:
    """`n` of the items, all alike."""
    return np.sort(rng.permutation(len(strata))[:n])


def stratified_draw(rng: np.random.Generator, n: int, strata: NDArray[np.intp]) -> NDArray[np.intp]:
    """`n` of the items, strata in proportion: systematically, after a shuffle within strata."""
    order = np.lexsort((rng.random(len(strata)), strata))
    at = (np.arange(n) + rng.random()) * len(strata) / n
    return np.sort(order[at.astype(np.intp)])


def parents_strata(study: Study) -> NDArray[np.intp]:
    """How many of base and sources are right on an item, (objectives, items)."""
    return np.asarray(study.scores[: study.baselines - 1].sum(axis=0, dtype=np.intp))


@dataclass(frozen=True)
class Replay:
    """What each estimator said: name → (recipes, objectives) values and standard errors."""

    values: dict[str, Floats]
    errors: dict[str, Floats]


def replay(study: Study, n: int, seed: int) -> Replay:
    """Draw items for all recipes, and estimate."""
    values: dict[str, Floats] = {}
    errors: dict[str, Floats] = {}
    for draw, suffix in ((simple_draw, ""), (stratified_draw, ", stratified")):
        found = _estimates(study, n, np.random.default_rng([n, seed]), draw)
        for name, estimates in found.items():
            values[name + suffix] = np.array([[e.value for e in row] for row in estimates])
            errors[name + suffix] = np.array([[e.stderr for e in row] for row in estimates])
    return Replay(values, errors)


def _estimates(
    study: Study, n: int, rng: np.random.Generator, draw: Draw
) -> dict[str, list[list[Estimate]]]:
    n_items = study.scores.shape[2]
    strata = parents_strata(study)
    board = Scoreboard(
        OBJECTIVES, {o.name: [(o.task, i) for i in range(n_items)] for o in OBJECTIVES}
    )
    plain, told = [], []
    for number, (rows, position) in enumerate(zip(study.scores, study.positions, strict=True)):
        size = min(n_items, n * (BASELINE_SHARES if number < study.baselines else 1))
        shown, means = {}, []
        for objective, row, groups in zip(OBJECTIVES, rows, strata, strict=True):
            seen = draw(rng, size, groups)
            values = row[seen].astype(np.float64)
            items = tuple((objective.task, int(i)) for i in seen)
            shown[objective.name] = ItemScores(items, tuple(values.tolist()))
            shrink = np.sqrt(1 - size / n_items)
            means.append(Estimate(values.mean(), standard_error(values) * shrink, size))
        board.add(None if np.isnan(position).any() else position, shown)
        plain.append(means)
        told.append(list(board.estimates(number).values()))
    final = [list(board.estimates(number).values()) for number in range(len(study.scores))]
    return {"mean": plain, "control variates, when told": told, "control variates": final}


def summarise_replays(table: Table, n: int) -> dict[str, dict[str, float]]:
    """Variance ratios and coverage of searched recipes, over all studies and replays."""
    errors: dict[str, list[Floats]] = {}
    stderrs: dict[str, list[Floats]] = {}
    best: list[NDArray[np.bool_]] = []
    for _, study in studies(table):
        for seed in range(REPLAYS):
            found = replay(study, n, seed)
            best.append(study.best)
            for name in found.values:
                off = found.values[name] - study.truth
                errors.setdefault(name, []).append(off[study.baselines :])
                stderrs.setdefault(name, []).append(found.errors[name][study.baselines :])
    chosen = np.concatenate(best)
    plain = np.concatenate(errors["mean"])
    summary = {}
    for name in errors:
        off, stderr = np.concatenate(errors[name]), np.concatenate(stderrs[name])
        normal = np.abs(off) <= stats.norm.ppf((1 + LEVEL) / 2) * stderr
        student = np.abs(off) <= t_quantile(LEVEL, n - 2) * stderr
        summary[name] = {
            "variance ratio": ratio(off, plain),
            "variance ratio, best tenth": ratio(off[chosen], plain[chosen]),
            "coverage": float(normal.mean()),
            "coverage, best tenth": float(normal[chosen].mean()),
            "coverage, Student": float(student.mean()),
            "coverage, Student, best tenth": float(student[chosen].mean()),
            "bias": float(off.mean()),
            **{
                f"coverage, {objective}": float(column.mean())
                for objective, column in zip(NAMES, normal.T, strict=True)
            },
            **{
                f"variance ratio, {objective}": ratio(mine, theirs)
                for objective, mine, theirs in zip(NAMES, off.T, plain.T, strict=True)
            },
        }
    return summary


def ratio(errors: Floats, plain: Floats) -> float:
    """Mean square error against the plain mean's."""
    return float((errors**2).mean() / (plain**2).mean())


def summarise_pairs(table: Table) -> dict[str, float]:
    """Variance of a difference on common items, in shares of its variance on separate items."""
    found: dict[str, list[float]] = {"all": [], "best tenth": []}
    rng = np.random.default_rng(0)
    for _, study in studies(table):
        searched = study.scores[study.baselines :].astype(np.float64)
        for name, rows in (("all", searched), ("best tenth", searched[study.best])):
            for _ in range(PAIRS):
                one, other = rows[rng.choice(len(rows), 2, replace=False)]
                common = (one - other).var(axis=1)
                apart = one.var(axis=1) + other.var(axis=1)
                found[name].append(common.mean() / apart.mean())
    return {name: float(np.mean(ratios)) for name, ratios in found.items()}


def wilson_coverage(table: Table, n: int, level: float) -> dict[str, float]:
    """Exact coverage of the score interval over all recipes and tasks, each p with its binomial."""
    limits = np.array([wilson_interval(k, n, level) for k in range(n + 1)])
    p = table.scores.mean(axis=2).ravel()[:, None]
    inside = (limits[None, :, 0] <= p) & (p <= limits[None, :, 1])
    covered = (stats.binom.pmf(np.arange(n + 1)[None], n, p) * inside).sum(axis=1)
    return {"mean": float(covered.mean()), "lowest": float(covered.min())}


def tango_coverage(table: Table, n: int, level: float) -> dict[str, float]:
    """Coverage of Tango's interval for pairs of recipes on items drawn with replacement."""
    rng = np.random.default_rng([n, round(100 * level)])
    limits: dict[tuple[int, int], tuple[float, float]] = {}
    covered = []
    for _ in range(PAIRS):
        one, other = rng.choice(len(table.scores), 2, replace=False)
        objective = rng.integers(len(NAMES))
        a, b = table.scores[one, objective], table.scores[other, objective]
        only_a, only_b = float((a > b).mean()), float((a < b).mean())
        drawn = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=DRAWS_A_PAIR)
        hits = 0
        for x, y in drawn[:, :2].tolist():
            if (x, y) not in limits:
                limits[x, y] = tango_interval(x, y, n, level)
            low, high = limits[x, y]
            hits += low <= only_a - only_b <= high
        covered.append(hits / DRAWS_A_PAIR)
    return {"mean": float(np.mean(covered)), "lowest tenth": float(np.quantile(covered, 0.1))}


def main(folder: Path) -> None:
    table = read_table(folder)
    save(
        "table",
        {
            "recipes": len(table.scores),
            "items": table.scores.shape[2],
            "streams": {s: len(table.rows(s)) for s in dict.fromkeys(table.streams)},
        },
    )
    save("pool", {str(n): summarise_replays(table, n) for n in SIZES})
    save("pairs", summarise_pairs(table))
    save(
        "superpopulation",
        {
            f"{level:.0%}, n = {n}": {
                "Wilson": wilson_coverage(table, n, level),
                "Tango": tango_coverage(table, n, level),
            }
            for level in SUPERPOPULATION_LEVELS
            for n in SUPERPOPULATION_SIZES
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
