"""How many experts the layers of mixtures keep, and by what they are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from automerge.expert_groups import EVIDENCE, ExpertGroups
from automerge.recipe import Coordinate, Recipe, uniform_average
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

_COUNT, _BY = "layers.experts", "layers.experts_by"
_MARGIN = 0.499
"""Beyond the outer choices, so that after rounding they are as likely as the others."""


@dataclass(frozen=True)
class ExpertSettings:
    """What of experts is searched.

    Attributes:
        counts: how many experts a layer may keep, in ascending order, beside all of them.
        by: what they may be grouped by.
    """

    counts: tuple[int, ...]
    by: tuple[str, ...]


@dataclass(frozen=True)
class Experts:
    """A merge of mixtures with as many experts as they have, or one of `counts`.

    `sources` are those of the merges that a search begins with; `evidence` has digests of how
    models route, by name.
    """

    counts: tuple[int, ...]
    by: tuple[str, ...]
    sources: tuple[str, ...]
    evidence: Mapping[str, str] = field(default_factory=dict, hash=False)

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """The number of a count, all experts being the last, and of what they are grouped by."""
        ranges = {_COUNT: len(self.counts)} | ({_BY: len(self.by) - 1} if len(self.by) > 1 else {})
        return tuple(
            FloatParameter(name, name, -_MARGIN, last + _MARGIN, smooth=False)
            for name, last in ranges.items()
        )

    @property
    def in_words(self) -> str:
        """What it searches."""
        counts = ", ".join(map(str, self.counts))
        return (
            f"{len(self.parameters)} dimensions: {counts} or all experts per layer, grouped by "
            f"{' or '.join(self.by)}"
        )

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe of the same merge with as many experts."""
        number = round(float(params[_COUNT]))
        if number == len(self.counts):
            return recipe
        by = self.by[round(float(params[_BY])) if _BY in params else 0]
        return self._with(recipe, ExpertGroups(self.counts[number], by))

    def _with(self, recipe: Recipe, groups: ExpertGroups) -> Recipe:
        found = {source.name: self.evidence[source.name] for source in recipe.sources}
        return replace(recipe, experts=groups, evidence={**recipe.evidence, EVIDENCE: found})

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe`; None for numbers of experts that it does not make."""
        others = {kind: own for kind, own in recipe.evidence.items() if kind != EVIDENCE}
        plain = replace(recipe, experts=None, evidence=others)
        made = recipe.experts
        if made is not None and (made.count not in self.counts or made.by not in self.by):
            return None
        number = len(self.counts) if made is None else self.counts.index(made.count)
        params = {_COUNT: float(number)}
        if len(self.by) > 1:
            params[_BY] = 0.0 if made is None else float(self.by.index(made.by))
        return (plain, params) if self.recipe(plain, params) == recipe else None

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: the average of all sources, with each count."""
        average = uniform_average(self.sources)
        for count in reversed(self.counts):
            yield f"{count}-experts", self._with(average, ExpertGroups(count, self.by[0]))

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe, given those in what `recipe` makes of it."""
        return dict(slopes)


def expert_faults(
    settings: ExpertSettings | None, sources: Sequence[str], evidence: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is wrong with a search of fewer experts."""
    if settings is not None and any(name not in evidence for name in sources):
        yield "experts are grouped by each source's text: set `evidence: {text: FILE}`"
