"""Select and test: the search's best candidates, on items it never saw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from automerge import pareto
from automerge.constraint import bounds
from automerge.groups import best_sources, with_groups
from automerge.objective import MODEL_ITEM, Estimate, ItemScores, estimates, losses, restricted
from automerge.store.record import Freeze
from automerge.study.context import Context
from automerge.study.estimates import Estimates
from automerge.study.measuring import Measuring
from automerge.study.plan import Plan
from automerge.study.racing import blocks, race
from automerge.trial import BASELINES, REFERENCES, Items, Measured, Trial, parent_names

Scores: TypeAlias = Mapping[str, ItemScores]
Values: TypeAlias = Mapping[str, Estimate]


CAUTION = 1.0
"""Standard errors that a trial is taken to be worse than its estimate."""


class Selection:
    """The two phases after the search; what they decide follows from the plan and the store."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._plan = context.plan
        self._stop = context.stop
        self._measuring = Measuring(context)

    def select(
        self, trials: Mapping[int, Trial], searched: Estimates, favourites: Sequence[int] = ()
    ) -> None:
        """Freeze a shortlist and measure it block by block until its front is decided."""
        plan = self._plan
        searched.renew()
        self._measuring.front = searched.front_values(trials)
        self._measuring.parents = searched.parent_values(trials)
        shortlist = shortlisted(plan, trials, searched, favourites)
        measured = {n: trials[n] for n in sorted(searched.values) if trials[n].origin in REFERENCES}
        self._freeze(trials, shortlist, searched, [*measured, *shortlist])
        cut = blocks(plan.items.select, plan.draw.members, plan.draw.seed)
        left = [*measured, *shortlist]
        pairs = len(shortlist) * (len(shortlist) + len(measured) - 1)
        values: dict[int, Values] = {}
        feasible: frozenset[int] = frozenset()
        for block, items in enumerate(cut):
            later = (len(cut) - block - 1) * len(left)
            self._measuring.measure("select", {n: trials[n] for n in left}, items, block, later)
            if self._stop():
                return
            scores = self._scores(left, cut[: block + 1], trials)
            values = {n: estimates(plan.objectives, own) for n, own in scores.items()}
            feasible = self._feasible(values, measured)
            verdict = race(
                plan.objectives,
                scores,
                shortlist,
                rivals=feasible,
                pairs=pairs,
                seed=plan.draw.seed,
                resolution=plan.resolution,
            )
            left = [n for n in scores if n not in verdict.dropped]
            if verdict.decided:
                break
        front = self._nondominated({n: values[n] for n in left if n in feasible})
        references = {n: values[n] for n in measured if n in values and n in feasible}
        swept = {n for n, trial in measured.items() if trial.origin not in BASELINES}
        dominated = swept.difference(self._nondominated(references))
        decided = self._store.study.decided
        baselines = tuple(n for n in measured if n not in dominated)
        self._store.decide(replace(decided, front=tuple(front), baselines=baselines))

    def test(self, trials: Mapping[int, Trial]) -> None:
        """Score the front and what it is compared with on the sealed items, once."""
        decided = self._store.study.decided
        items = self._plan.items.test.open(decided.front)
        numbers = sorted({*decided.baselines, *(decided.front or ())})
        self._measuring.measure("test", {n: trials[n] for n in numbers}, items)

    def _freeze(
        self,
        trials: Mapping[int, Trial],
        shortlist: Sequence[int],
        searched: Estimates,
        numbers: Sequence[int],
    ) -> None:
        """Record, before any select item is run, what is selected from and what was estimated.

        A study that was extended freezes again; the digests tell how often its items were opened.
        """
        text = " ".join(sorted(trials[n].recipe.id for n in shortlist))
        now = Freeze(hashlib.sha256(text.encode()).hexdigest(), len(trials))
        decided = self._store.study.decided
        frozen = decided.frozen
        if not frozen or frozen[-1].digest != now.digest:
            frozen = (*frozen, now)
        believed = {n: searched.values[n] for n in numbers}
        self._store.decide(
            replace(decided, shortlist=tuple(shortlist), frozen=frozen, believed=believed)
        )

    def _scores(
        self, numbers: Iterable[int], cut: Sequence[Items], trials: Mapping[int, Trial]
    ) -> dict[int, Scores]:
        """Return the scores, on some blocks, of models that answered every item of them.

        The experts of relative groups are chosen on these blocks, so that a resumed study, which
        may have measured more, decides the same.
        """
        known = {(task, doc) for items in cut for task, docs in items.items() for doc in docs}
        known.add(MODEL_ITEM)
        outcomes = self._store.outcomes("select")
        found = {
            n: {name: restricted(own, known) for name, own in outcome.scores.items()}
            for n in numbers
            if isinstance(outcome := outcomes.get(n), Measured)
        }
        sources = [own for n, own in sorted(found.items()) if trials[n].origin == "source"]
        objectives = self._plan.objectives
        best = best_sources(objectives, sources)
        experts = {name: sources[at][name] for name, at in best.items()}
        return {n: with_groups(objectives, own, experts) for n, own in found.items()}

    def _feasible(
        self, values: Mapping[int, Values], baselines: Mapping[int, Trial]
    ) -> frozenset[int]:
        """Return the models whose values satisfy the constraints."""
        named = {t.name: values[n] for n, t in baselines.items() if n in values}
        parents = parent_names(baselines.values())
        held = bounds(self._plan.constraints, self._plan.objectives, named, parents)
        return frozenset(
            n
            for n, own in values.items()
            if all(bound.shortfall(own[bound.constraint.objective].value) <= 0 for bound in held)
        )

    def _nondominated(self, values: Mapping[int, Values]) -> list[int]:
        """Return the models that no other dominates."""
        if not values:
            return []
        numbers = sorted(values)
        keep = pareto.nondominated(
            np.array([losses(self._plan.objectives, values[n]) for n in numbers])
        )
        return [n for n, kept in zip(numbers, keep, strict=True) if kept]


def shortlisted(
    plan: Plan, trials: Mapping[int, Trial], searched: Estimates, favourites: Sequence[int]
) -> list[int]:
    """Return the merges to measure on select items: greedily the most hypervolume on search items.

    The volume ends at the worst losses of the baselines: if it reached to those of ruined merges,
    extremes alone would count. A third of the places is for the best compromises instead, which is
    what most people take: the sampler's favourites, else the least mean loss in ranges of the
    baselines' losses. Losses are taken to be one standard error worse than estimated, as the best
    of many trials that were measured on few items are mostly lucky. Merges that miss a constraint
    by more than one standard error are left out; if all do, those that miss least are taken.
    """
    merges = [n for n in sorted(searched.values) if trials[n].origin not in REFERENCES]
    missed = {n: searched.missed(n, errors=1.0) for n in merges}
    kept = [n for n in merges if not missed[n]]
    if not kept:
        return sorted(sorted(merges, key=lambda n: missed[n])[: plan.shortlist])
    baselines = [n for n in sorted(searched.values) if trials[n].origin in BASELINES]
    reference = pareto.reference_point(searched.losses(baselines))
    ranked = [n for n in favourites if n in kept] + sorted(kept, key=searched.compromise)
    compromises = list(dict.fromkeys(ranked))[: -(-plan.shortlist // 3)]
    left = [n for n in kept if n not in compromises]
    places = min(plan.shortlist - len(compromises), len(left))
    chosen = pareto.greedy_subset(searched.losses(left, CAUTION), places, reference) if left else ()
    return sorted([*compromises, *(left[int(i)] for i in chosen)])
