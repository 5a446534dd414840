"""Values on items no search sees, and what is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automerge import pareto
from automerge.arrays import Floats
from automerge.estimation.differences import paired_difference
from automerge.executors import Executor, outcome_of
from automerge.objective import ItemScores, Objective, estimate, goals
from automerge.recipe import Profile, Recipe, RecipeSource, single, uniform_average
from automerge.session.open import Session
from automerge.trial import Job, Measured, Part

MARGIN = 0.02
"""How far behind the base the corner of the hypervolume lies, relative to the base's loss."""
SWEEP = tuple(round(0.1 * step, 1) for step in range(1, 16))
"""Weights given to all sources alike: base + w Σ task vectors."""

Scores = Mapping[str, ItemScores]


@dataclass(frozen=True)
class Truth:
    """Measures recipes on all items of a part, each recipe once: scores are kept in a folder.

    The parts are the same in all studies of a zoo, since a hash of the items' content makes them.
    """

    session: Session
    executor: Executor
    folder: Path

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return goals(self.session.plan.objectives)

    def scores(self, recipe: Recipe, part: Part = "test") -> Scores | None:
        """Item scores of every objective; None for a merge that is broken."""
        split = self.session.store.study.begun.inputs.split
        file = self.folder / f"{split[:8]}-{part}-{recipe.id}.json"
        if not file.is_file():
            of = self.session.plan.items
            items = {"search": of.search, "select": of.select, "test": of.test.for_files()}[part]
            outcome = outcome_of(self.executor, Job(-1, recipe, part, items))
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(_plain(outcome)), encoding="utf-8")
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: ItemScores(
                tuple((task, doc) for task, doc in items),
                tuple(values),
                None if weights is None else tuple(weights),
            )
            for name, (items, values, weights) in kept.items()
        } or None

    def losses(self, recipe: Recipe, part: Part = "test") -> Floats:
        """One loss an objective, relative to the base's: 1 is the base, lower is better.

        Bits per byte and the like are divided by the base's; of accuracies, the errors are.
        """
        own, base = self.scores(recipe, part), self.scores(single("base"), part)
        assert base is not None
        if own is None:
            return np.full(len(self.objectives), math.inf)
        return np.array([_loss(o, own[o.name]) / _loss(o, base[o.name]) for o in self.objectives])

    def gain(self, one: Recipe, other: Recipe) -> tuple[float, float]:
        """How much lower the mean of one model's relative losses is, and the standard error."""
        a, b, base = self.scores(one), self.scores(other), self.scores(single("base"))
        assert base is not None
        if a is None or b is None:
            return -math.inf, math.nan
        gains, variances = [], []
        for o in self.objectives:
            found = paired_difference(a[o.name], b[o.name], o.aggregation)
            scale = _loss(o, base[o.name])
            gains.append(-o.loss(found.difference) / scale)
            variances.append((found.stderr / scale) ** 2)
        return float(np.mean(gains)), math.sqrt(sum(variances)) / len(gains)


def _plain(outcome: object) -> dict[str, object]:
    if not isinstance(outcome, Measured):
        return {}
    return {name: [s.items, s.values, s.weights] for name, s in outcome.scores.items()}


def _loss(objective: Objective, scores: ItemScores) -> float:
    value = estimate(scores, objective.aggregation).value
    return 1 - value if objective.direction == "maximize" else value


def volume(rows: Sequence[Floats]) -> float:
    """Hypervolume within a box whose corner is `MARGIN` behind the base in every objective."""
    points = np.array(rows)
    return pareto.hypervolume(points, np.full(points.shape[1], 1 + MARGIN))


def reference_recipes(sources: Sequence[str]) -> dict[str, Recipe]:
    """What a search is compared with and always has: parents and the uniform average."""
    return {
        **{name: single(name) for name in ("base", *sources)},
        "uniform": uniform_average(sources),
    }


def sweep_recipes(sources: Sequence[str]) -> list[Recipe]:
    """One coefficient for all sources."""
    return [
        Recipe(
            "task_arithmetic",
            tuple(RecipeSource(name, {"weight": Profile.of(weight)}) for name in sources),
            base="base",
        )
        for weight in SWEEP
    ]


def greedy_soup(truth: Truth, sources: Sequence[str]) -> Recipe:
    """Average the sources that help, best first, on select items (Wortsman et al. 2022, alg. 1).

    Losses are means over the objectives, relative to the base's.
    """

    def loss(recipe: Recipe) -> float:
        return float(truth.losses(recipe, "select").mean())

    ranked = sorted(sources, key=lambda name: loss(single(name)))
    kept = ranked[:1]
    best = loss(single(kept[0]))
    for name in ranked[1:]:
        tried = loss(uniform_average([*kept, name]))
        if tried <= best:
            kept, best = [*kept, name], tried
    return single(kept[0]) if len(kept) == 1 else uniform_average(kept)
