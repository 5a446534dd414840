"""Where the gain of the model to take comes from: slopes along the line from equal weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from automerge.items import SLOPE_PASSES
from automerge.recipe import Profile, Recipe
from automerge.report.choice import choose
from automerge.report.gains import LINE, WEIGHT, weight_coordinates
from automerge.report.summary import summarise
from automerge.store.read_result import study_result
from automerge.store.result import StudyResult
from automerge.study.context import Context
from automerge.study.measuring import Measuring
from automerge.trial import BASELINES, NO_ROOM, Items, Measured, Steering, Trial

ITEMS = -1
"""Items are drawn for a trial number that no search has: a trial's own items would flatter it."""


class Explanation:
    """The phase after the test, which changes no result."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._plan = context.plan
        self._stop = context.stop
        self._measuring = Measuring(context)

    def run(self, trials: Mapping[int, Trial], steering: Callable[[Items], Steering]) -> None:
        """Measure slopes for the model to take, on the same items at each point of the line.

        Nothing is measured where the search followed no slopes, or the weights are equal.

        Args:
            trials: all trials of the study.
            steering: what losses on some items are made from.
        """
        if not any(trial.slopes for trial in trials.values()):
            return
        result = study_result(self._store.path.parent, self._store, state="running")
        if not _has_slopes(result) or (chosen := _chosen(result, trials)) is None:
            return
        plan = self._plan
        items = plan.draw.draw(plan.items.search, ITEMS, 1 / SLOPE_PASSES)
        steered = steering(items)
        for block, at in enumerate(LINE):
            if self._stop() or chosen.number in self._store.failed("explain"):
                return
            moved = replace(chosen, recipe=on_line(chosen.recipe, at))
            later = len(LINE) - block - 1
            self._measuring.measure("explain", {chosen.number: moved}, items, block, later, steered)


def _has_slopes(result: StudyResult) -> bool:
    """Return whether any trial was measured with slopes, and none lacked room for them."""
    outcomes = [t.outcomes.get("search") for t in result.trials if t.trial.slopes]
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    lacking = any(NO_ROOM in outcome.notes for outcome in measured)
    return not lacking and any(outcome.slopes for outcome in measured)


def _chosen(result: StudyResult, trials: Mapping[int, Trial]) -> Trial | None:
    """Return the model to take, if it has weights that are not all equal."""
    choice = choose(summarise(result))
    chosen = next((t for t in trials.values() if choice and t.name == choice.name), None)
    if chosen is None or chosen.origin in BASELINES or not weight_coordinates(chosen.recipe):
        return None
    return None if on_line(chosen.recipe, 0.0) == chosen.recipe else chosen


def on_line(recipe: Recipe, at: float) -> Recipe:
    """Return the recipe with its weights moved towards equal ones.

    Args:
        recipe: a source without a weight stays as it is.
        at: 0 where each weight is 1 / number of sources, 1 where they are the recipe's.
    """
    equal = 1 / len(recipe.sources)

    def moved(profile: Profile) -> Profile:
        return Profile(
            tuple(
                (selector, tuple((1 - at) * equal + at * knot for knot in knots))
                for selector, knots in profile.parts
            )
        )

    return replace(
        recipe,
        sources=tuple(
            replace(s, knobs={k: moved(v) if k == WEIGHT else v for k, v in s.knobs.items()})
            for s in recipe.sources
        ),
    )
