"""Mixtures of experts: which sources' feed-forward parts, how many a token passes, and where.

Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv:2403.07816) takes the feed-forward parts of several
fine-tunes as experts and averages all other weights, as a recipe of this space does by its method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from automerge.mixture import EVIDENCE, GATES, HIDDEN, LEAST_EXPERTS, UNIFORM, Mixture
from automerge.recipe import Coordinate, Recipe, uniform_average
from automerge.space.parameters import FloatParameter
from automerge.trial import Params

OFF = 0.25
"""The prior probability that a source is no expert. With fewer than two, a merge is dense."""
_PER_TOKEN, _GATES = "layers.per_token", "layers.gates"
_BOTTOM, _TOP = "layers.bottom", "layers.top"
_MARGIN = 0.499
"""Beyond the outer counts, so that after rounding they are as likely as the others."""
_USUAL = (1, 2)
"""How many experts a token passes in the first trials, as in Switch Transformer and Mixtral."""


@dataclass(frozen=True)
class MixtureSettings:
    """What of mixtures is searched.

    Attributes:
        gates: how gates may be made.
        per_token: the most experts that a token passes; None for all.
        dense: whether layers at the bottom and the top may have the merge for all experts.
    """

    gates: tuple[str, ...]
    per_token: int | None = None
    dense: bool = True


@dataclass(frozen=True)
class Mixtures:
    """A merge of `n_layers` layers whose experts are some of `sources`, or a dense one.

    A token passes at most `most` experts. `evidence` has digests for hidden gates, by source.
    """

    n_layers: int
    sources: tuple[str, ...]
    gates: tuple[str, ...]
    most: int
    dense: bool
    evidence: Mapping[str, str] = field(default_factory=dict, hash=False)

    @cached_property
    def _experts(self) -> dict[str, FloatParameter]:
        """A number per source, above `OFF` where it is an expert."""
        return {
            name: FloatParameter(role, role, 0.0, 1.0, smooth=False)
            for name in self.sources
            for role in (f"layers.expert[{name}]",)
        }

    @cached_property
    def parameters(self) -> tuple[FloatParameter, ...]:
        """Which sources are experts, how many a token passes, by which gates, and where."""
        ranges = {_PER_TOKEN: (1, self.most)} if self.most > 1 else {}
        if len(self.gates) > 1:
            ranges[_GATES] = (0, len(self.gates) - 1)
        if self._most_dense:
            ranges |= {_BOTTOM: (0, self._most_dense), _TOP: (0, self._most_dense)}
        counted = (
            FloatParameter(name, name, low - _MARGIN, high + _MARGIN, smooth=False)
            for name, (low, high) in ranges.items()
        )
        return (*self._experts.values(), *counted)

    @property
    def _most_dense(self) -> int:
        """How many layers at the bottom, and at the top, may be dense: one is left between."""
        return (self.n_layers - 1) // 2 if self.dense else 0

    @property
    def in_words(self) -> str:
        """What it searches."""
        where = f", in all layers or without up to {self._most_dense} at bottom and top"
        return (
            f"{len(self.parameters)} dimensions: experts out of {', '.join(self.sources)}, up to "
            f"{self.most} per token, by {' or '.join(self.gates)} gates"
            f"{where if self._most_dense else ''}"
        )

    def mixture(self, params: Params) -> Mixture | None:
        """Return the mixture; None where fewer than two sources are experts."""
        experts = tuple(n for n, p in self._experts.items() if float(params[p.name]) >= OFF)
        if len(experts) < LEAST_EXPERTS:
            return None
        gates = self.gates[self._count(params, _GATES, 0)]
        wanted = min(self._count(params, _PER_TOKEN, 1), len(experts))
        per_token = len(experts) if gates == UNIFORM else wanted
        bottom, top = self._count(params, _BOTTOM, 0), self._count(params, _TOP, 0)
        layers = (bottom, self.n_layers - top)
        return Mixture(experts, per_token, gates, layers if bottom or top else None)

    def _count(self, params: Params, name: str, otherwise: int) -> int:
        return round(float(params[name])) if name in params else otherwise

    def recipe(self, recipe: Recipe, params: Params) -> Recipe:
        """Return a recipe of the same merge with these experts."""
        mixture = self.mixture(params)
        return recipe if mixture is None else self._with(recipe, mixture)

    def _with(self, recipe: Recipe, mixture: Mixture) -> Recipe:
        if mixture.gates != HIDDEN:
            return replace(recipe, mixture=mixture)
        states = {name: self.evidence[name] for name in dict.fromkeys(mixture.experts)}
        return replace(recipe, mixture=mixture, evidence={**recipe.evidence, EVIDENCE: states})

    def read(self, recipe: Recipe) -> tuple[Recipe, Params] | None:
        """Invert `recipe`; None for mixtures that it does not make."""
        others = {kind: own for kind, own in recipe.evidence.items() if kind != EVIDENCE}
        plain = replace(recipe, mixture=None, evidence=others)
        made = recipe.mixture
        chosen = () if made is None else made.experts
        params: dict[str, float | int | bool | str] = {
            parameter.name: (1 + OFF) / 2 if name in chosen else OFF / 2
            for name, parameter in self._experts.items()
        }
        bottom, end = (made and made.layers) or (0, self.n_layers)
        gates = self.gates[0] if made is None else made.gates
        if gates not in self.gates or len(set(chosen)) < len(chosen):
            return None
        per_token = 1 if made is None else min(made.per_token, self.most)
        counts = {
            _PER_TOKEN: per_token,
            _GATES: self.gates.index(gates),
            _BOTTOM: bottom,
            _TOP: self.n_layers - end,
        }
        bounds = {parameter.name: parameter for parameter in self.parameters}
        params |= {name: float(n) for name, n in counts.items() if name in bounds}
        if any(not p.low <= float(params[name]) <= p.high for name, p in bounds.items()):
            return None
        return (plain, params) if self.recipe(plain, params) == recipe else None

    def starts(self) -> Iterator[tuple[str, Recipe]]:
        """Yield names and recipes to begin with: the average of all sources, but for experts.

        All experts in equal shares, then one and two of them per token.
        """
        average = uniform_average(self.sources)
        if UNIFORM in self.gates:
            yield "all-experts", self._with(average, self._whole(len(self.sources), UNIFORM))
        routed = [kind for kind in reversed(GATES) if kind in self.gates and kind != UNIFORM]
        for per_token in _USUAL if routed else ():
            if per_token <= self.most:
                mixture = self._whole(per_token, routed[0])
                yield f"top-{per_token}", self._with(average, mixture)

    def _whole(self, per_token: int, gates: str) -> Mixture:
        return Mixture(self.sources, per_token, gates)

    def pull_back(
        self, recipe: Recipe, params: Params, slopes: Mapping[Coordinate, float]
    ) -> dict[Coordinate, float]:
        """Return slopes in the numbers of a recipe, given those in what `recipe` makes of it."""
        return dict(slopes)


def mixture_faults(
    settings: MixtureSettings | None, sources: Sequence[str], evidence: Mapping[str, str]
) -> Iterator[str]:
    """Yield what is wrong with a search of mixtures of some sources, none of them noise."""
    if settings is None:
        return
    if len(sources) < LEAST_EXPERTS:
        yield f"a mixture has {LEAST_EXPERTS} experts or more; got {', '.join(sources)}"
    if settings.per_token is not None and settings.per_token > len(sources):
        yield f"a token passes at most all {len(sources)} experts; got {settings.per_token}"
    lacking = [name for name in sources if name not in evidence]
    if HIDDEN in settings.gates and lacking:
        yield "hidden gates need each source's text: set `evidence: {text: FILE}`"
