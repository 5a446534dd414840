"""The slope of a group's smooth loss, against differences of it on a live model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from automerge.config import load_with_options
from automerge.executors import outcome_of
from automerge.recipe import Coordinate, Profile, Recipe, RecipeSource
from automerge.samplers.goals import Kind, combined, shares
from automerge.session.open import open_session
from automerge.trial import Job, Measured, Steering
from tests.zoo import write_zoo

RECIPE = Recipe(
    "task_arithmetic",
    tuple(
        RecipeSource(name, {"weight": Profile.of(knots)})
        for name, knots in (("left", [0.5, 0.2]), ("right", [0.1, 0.4]), ("adapter", [0.6, 0.3]))
    ),
    "base",
)
FACTORS, WIDTH = np.array([0.8, 0.05]), 0.3
"""What a unit of each member's loss is worth, and how rounded the largest is."""


def moved(at: Coordinate, by: float) -> Recipe:
    sources = []
    for own in RECIPE.sources:
        knots = list(own.knobs["weight"].parts[0][1])
        if own.name == at.source:
            knots[at.knot] += by
        sources.append(replace(own, knobs={"weight": Profile.of(knots)}))
    return replace(RECIPE, sources=tuple(sources))


def test_slopes_of_a_group_are_differences_of_its_loss_on_a_live_model(tmp_path: Path) -> None:
    file = write_zoo(tmp_path)
    group = "groups: [{name: both, worst: [choose, say], relative: true}]\n"
    file.write_text(file.read_text() + group)
    config = load_with_options(file, {"out": str(tmp_path / "run"), "sampler": "auto"})
    session = open_session(config, "test")
    with session.store:
        assert (session.sampler, session.slopes) == ("descent", "follow both")
        executor = session.executor(lambda _: None)
        try:
            search = session.plan.items.search
            items = {task: ids[:12] for task, ids in search.items()}

            def measured(recipe: Recipe) -> Measured:
                job = Job(0, recipe, "search", items, steering=Steering({"choose": 1.0}))
                outcome = outcome_of(executor, job)
                assert isinstance(outcome, Measured)
                return outcome

            def losses(recipe: Recipe) -> np.ndarray:
                found = measured(recipe).slopes
                return FACTORS * [found[name].loss for name in ("choose", "say")]

            at, found = losses(RECIPE)[None], measured(RECIPE).slopes
            by = [found[name].by for name in ("choose", "say")]
            h, kinds = 0.02, dict[Kind, tuple[list[float], list[float]]]()
            for c in RECIPE.coordinates:
                above, below = losses(moved(c, h))[None], losses(moved(c, -h))[None]
                kind: Kind
                for kind in ("mean", "worst"):
                    own, expected = kinds.setdefault(kind, ([], []))
                    parts = shares(kind, at, WIDTH)[0] * FACTORS
                    own.append(float(parts @ [slopes[c] for slopes in by]))
                    change = combined(kind, above, WIDTH) - combined(kind, below, WIDTH)
                    expected.append(float(change[0]) / (2 * h))
        finally:
            executor.close()
    for own, expected in kinds.values():
        assert max(map(abs, expected)) > 0
        # Weights of the live model are rounded, and differences err by h² of a third derivative.
        assert own == pytest.approx(expected, abs=0.05 * max(map(abs, expected)))
