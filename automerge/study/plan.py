"""What a study measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from automerge.constraint import Constraint
from automerge.items import BASELINE_SHARES, SLOPE_PASSES, ItemDraw, StudyItems
from automerge.objective import Objective
from automerge.recipe import Recipe
from automerge.report.gains import LINE
from automerge.study.limits import Limits
from automerge.study.opening import NOTHING, Opening
from automerge.trial import BASELINES, CANDIDATES, Items, Origin, Part, Trial, count_items


@dataclass(frozen=True)
class FirstTrial:
    """A recipe measured before the sampler is asked for any."""

    name: str
    origin: Origin
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """What a study measures; the same plan and store always give the same study.

    `opening` is measured before and between the sampler's first proposals, `first` before it.
    `resolution` is the half width of paired differences at which selection is decided. With a
    `window`, that many trials are in flight and results are told in the order asked, so that trials
    do not depend on timing; None takes results as they come. Without `slopes`, none are measured.
    Objectives that are `dear` are measured after the others, unless these exclude the trial.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    first: tuple[FirstTrial, ...]
    items: StudyItems
    draw: ItemDraw
    limits: Limits
    shortlist: int
    resolution: float
    window: int | None = None
    slopes: bool = True
    opening: Opening = NOTHING
    dear: tuple[str, ...] = ()

    @property
    def pool(self) -> dict[str, list[tuple[str, int]]]:
        """The search items per objective."""
        search = self.items.search
        return {
            o.name: [(task, doc) for task in self.draw.members[o.name] for doc in search[task]]
            for o in self.objectives
            if not o.is_exact and not o.members
        }

    @cached_property
    def first_leaves(self) -> tuple[str, ...]:
        """The leaf tasks that are measured first; none where all are measured at once.

        Each objective is measured at once: what shares a leaf task with a late one is late as well.
        """
        members = self.draw.members
        last = {leaf for name in self.dear for leaf in members[name]}
        while more := {n for own in members.values() if last.intersection(own) for n in own} - last:
            last |= more
        first = {leaf for own in members.values() for leaf in own} - last
        return tuple(sorted(first)) if last else ()

    @cached_property
    def cheap(self) -> frozenset[str]:
        """The objectives that are known once these are measured."""
        first = set(self.first_leaves)
        alone = {
            o.name
            for o in self.objectives
            if o.is_exact or (not o.members and set(self.draw.members[o.name]) <= first)
        }
        groups = {o.name for o in self.objectives if o.members and alone.issuperset(o.members)}
        return frozenset(alone | groups)

    def search_items(self, trial: Trial) -> Items:
        """Return the search items a trial is measured on."""
        shares = trial.slopes or _shares(trial.origin)
        return self.draw.draw(self.items.search, trial.number, shares)

    def n_items(self, origin: Origin) -> int:
        """Return how many search items a trial is measured on that has no slopes."""
        return self._n_items[_shares(origin)]

    def price(self, trial: Trial) -> tuple[float, int]:
        """Return what a trial costs: in trials, and in search items measured without slopes."""
        items = self.n_items(trial.origin)
        price = SLOPE_PASSES * trial.slopes or 1.0
        return price, round(price * items)

    @cached_property
    def _n_items(self) -> dict[int, int]:
        pool = self.items.search
        return {n: count_items(self.draw.draw(pool, 0, n)) for n in (1, BASELINE_SHARES)}

    @property
    def n_later(self) -> int:
        """The most items that selection and test can take, and slopes for the model to take."""
        return self.n_items_after("search")

    def n_items_after(self, part: Part) -> int:
        """Return the most items that the phases after one can take."""
        models = self.shortlist + self.n_baselines + self.n_sweep
        explained = len(LINE) * self.n_items("sampler") if self.slopes else 0
        later = {
            "search": models * count_items(self.items.select),
            "select": models * self.items.test.count,
            "test": explained,
            "explain": 0,
        }
        after = list(later).index(part)
        return sum(list(later.values())[after:])

    @property
    def n_sources(self) -> int:
        """How many sources are measured by themselves."""
        return sum(first.origin == "source" for first in self.first)

    @property
    def n_baselines(self) -> int:
        """How many models the front is compared with."""
        return sum(first.origin in BASELINES for first in self.first)

    @property
    def n_sweep(self) -> int:
        """How many merges a sweep of the sources has."""
        return sum(first.origin == "sweep" for first in self.first)


def _shares(origin: Origin) -> int:
    return 1 if origin in CANDIDATES else BASELINE_SHARES
