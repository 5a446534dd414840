"""A toy worker: scores follow from the recipe alone, in microseconds. A double at a real border."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from automerge.evaluation.base import Scored
from automerge.objective import ItemScores, Objective
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.trial import Failed, Items, Job, Measured, Outcome, Part, Slope, Timings, count_items
from automerge.worker.gate import score_in_order

OBJECTIVES = (
    Objective("first", "one", "acc", "none", "maximize"),
    Objective("second", "two", "acc", "none", "maximize"),
)
ITEMS: Items = {"one": tuple(range(40)), "two": tuple(range(0, 80, 2))}


def draw(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


def quality(recipe: Recipe, objective: str) -> float:
    """Each objective likes another source; both like the middle."""
    weights = {s.name: s.knobs["weight"].parts[0][1][0] for s in recipe.sources if s.knobs}
    total = sum(abs(w) for w in weights.values()) or 1.0
    share = weights.get({"first": "a", "second": "b"}[objective], 0.0) / total
    return 0.3 + 0.6 * share * (1.2 - 0.5 * share)


def scores(recipe: Recipe, items: Items) -> dict[str, ItemScores]:
    found = {}
    for objective in OBJECTIVES:
        level = quality(recipe, objective.name)
        ids = items.get(objective.task, ())
        values = tuple(float(draw(objective.task, i) < level) for i in ids)
        found[objective.name] = ItemScores(tuple((objective.task, i) for i in ids), values)
    return found


def margins(recipe: Recipe, items: Items) -> dict[str, ItemScores]:
    """Of the first objective only, as where a study's other task has none."""
    objective = OBJECTIVES[0]
    level = quality(recipe, objective.name)
    own = tuple((objective.task, i) for i in items.get(objective.task, ()))
    return {objective.name: ItemScores(own, tuple(level - draw(*item) for item in own))}


def answers(recipe: Recipe, items: Items) -> dict[str, dict[tuple[str, int], str]]:
    """Right answers to the items of the second objective, as if those were generated."""
    own = scores(recipe, items)[OBJECTIVES[1].name]
    right = (item for item, value in zip(own.items, own.values, strict=True) if value == 1)
    found = {item: f"{'+'.join(s.name for s in recipe.sources)} says\n{item[1]}" for item in right}
    return {OBJECTIVES[1].name: found} if found else {}


def slopes(recipe: Recipe) -> dict[str, Slope]:
    """By differences, of a loss without noise; asked for or not, so that every store has some."""
    step = 1e-4
    found = {}
    for objective in OBJECTIVES:
        level = quality(recipe, objective.name)
        by = {}
        for at in recipe.coordinates:
            if (at.knob, at.knot) == ("weight", 0):
                moved = tuple(
                    RecipeSource(s.name, {**s.knobs, "weight": raised(s.knobs["weight"], step)})
                    if s.name == at.source
                    else s
                    for s in recipe.sources
                )
                other = quality(replace(recipe, sources=moved), objective.name)
                by[at] = (level - other) / step
        found[objective.name] = Slope(1 - level, by)
    return found


def raised(profile: Profile, step: float) -> Profile:
    """A profile with its first knot raised."""
    (selector, (knot, *knots)), *others = profile.parts
    return Profile(((selector, (knot + step, *knots)), *others))


@dataclass(frozen=True)
class ToyWorker:
    """Measures by formula; `witness`, if given, gets a line for every measurement made."""

    witness: Path | None = None
    seconds: float = 0.0
    fail: Callable[[Job], Outcome | None] | None = None

    def identity(self) -> dict[str, str]:
        return {"toy": "1"}

    def prepare(self, part: Part) -> None: ...

    def measure(self, job: Job) -> Outcome:
        if self.seconds:
            time.sleep(self.seconds)
        if self.fail is not None and (failed := self.fail(job)) is not None:
            return failed
        scored = Scored(scores(job.recipe, job.items), tokens=7)
        if job.gate is not None:
            scored = score_in_order(
                lambda items: Scored(scores(job.recipe, items), tokens=count_items(items)),
                job.items,
                job.gate,
                {objective.name: objective for objective in OBJECTIVES},
            )
        measured = Measured(
            scored.scores,
            Timings(0.1, 0.2, 0.3, 1.0),
            tokens=scored.tokens,
            notes=scored.notes,
            margins=margins(job.recipe, job.items),
            slopes=slopes(job.recipe) if job.part in ("search", "explain") else {},
            answers=answers(job.recipe, job.items) if job.keep_answers else {},
        )
        if self.witness is not None:
            line = f"{job.part} {job.block} {job.recipe.id} {os.getpid()}\n"
            with self.witness.open("a") as file:
                file.write(line)
        return measured


def fails(*numbers: int, kind: str = "error") -> Callable[[Job], Outcome | None]:
    def check(job: Job) -> Outcome | None:
        if job.trial in numbers:
            return Failed(kind, f"made to fail: {job.trial}")  # type: ignore[arg-type]
        return None

    return check
