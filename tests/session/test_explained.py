"""Where a gain comes from, against losses of a real model whose weights are switched one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from automerge.config import load_with_options
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource
from automerge.report.gains import LINE, gains, weight_coordinates
from automerge.session.open import open_session
from automerge.store.result import TrialResult
from automerge.study.explanation import on_line
from automerge.trial import Job, Measured, Steering, Trial
from tests.zoo import write_zoo

FAR = Recipe(
    "task_arithmetic",
    tuple(
        RecipeSource(name, {"weight": Profile.of(knots)})
        for name, knots in (("left", [0.9, 0.1]), ("right", [0.0, 0.5]), ("adapter", [0.8, 0.4]))
    ),
    "base",
)
OWN = on_line(FAR, 0.1)
"""Near enough that terms of third order are small in a random model, whose losses are rough."""


def switched(recipe: Recipe, other: Recipe, at: Coordinate) -> Recipe:
    """The recipe with one number of the other."""
    sources = []
    for own, theirs in zip(recipe.sources, other.sources, strict=True):
        knots = list(own.knobs["weight"].parts[0][1])
        if own.name == at.source:
            knots[at.knot] = theirs.knobs["weight"].parts[0][1][at.knot]
        sources.append(replace(own, knobs={"weight": Profile.of(knots)}))
    return replace(recipe, sources=tuple(sources))


def test_contributions_are_what_switching_each_weight_changes(tmp_path: Path) -> None:
    """A weight is worth the mean of switching it first and switching it last, to third order."""
    config = load_with_options(
        write_zoo(tmp_path), {"out": str(tmp_path / "run"), "sampler": "descent"}
    )
    session = open_session(config, "test")
    with session.store:
        executor = session.executor(lambda _: None)
        try:
            items = {"choose": session.plan.items.search["choose"]}

            def measured(recipe: Recipe) -> Measured:
                executor.submit(Job(0, recipe, "search", items, steering=Steering({"choose": 1.0})))
                while (finished := executor.next_finished(1.0)) is None:
                    pass
                assert isinstance(finished[1], Measured)
                return finished[1]

            def loss(recipe: Recipe) -> float:
                [slope] = measured(recipe).slopes.values()
                return slope.loss

            equal = on_line(OWN, 0.0)
            start, end = loss(equal), loss(OWN)
            numbers = weight_coordinates(OWN)
            first = [start - loss(switched(equal, OWN, c)) for c in numbers]
            last = [loss(switched(OWN, equal, c)) - end for c in numbers]
            line = tuple(measured(on_line(OWN, t)) for t in LINE)
        finally:
            executor.close()
    trial = TrialResult(Trial(0, OWN, "sampler", "trial-0"), {}, explained=line)
    found = gains(trial, session.store.study.begun.inputs.n_layers)
    assert found is not None
    assert found.holds
    oracle = (np.array(first) + np.array(last)) / 2 / start
    own = np.array([sum(v or 0.0 for v in row.values) for row in found.rows])
    assert np.abs(own - oracle.reshape(3, 2).sum(axis=1)).max() < 0.1 * np.abs(oracle).sum()
