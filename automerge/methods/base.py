"""The contract every merge method keeps.

A method is two stages. `coefficients` turns knob values and whole-tensor statistics into a few
scalars, in plain Python. `kernel` turns tensors and those scalars into the merged tensor, in the
precision of its inputs (float32, or float64 for float64 models). So statistics are computed once
per tensor for a whole search. A kernel of extent "element" can run on any block of a tensor, on any
device, eagerly or compiled, with the same result: it works element by element and never branches
on a number. One of extent "tensor" gets whole tensors in their own shape, and what its `prepare`
made of them, computed once per search.

Declarations import no torch: the search side reads them for knobs and bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from automerge.recipe import Place, Profile, Recipe

if TYPE_CHECKING:
    from torch import Tensor

Statistic = Literal["gram", "model_gram", "magnitude", "competition", "spread", "ranks"]
Extent = Literal["element", "tensor"]


@dataclass(frozen=True)
class Knob:
    """One parameter of a method.

    `default` is used where a recipe says nothing. `neutral` is the value at which the knob does
    nothing: a source adds nothing, nothing is dropped, nothing is scaled; None for switches and
    numerical tolerances. Values outside `domain` are refused. `search` holds the default bounds of
    a search; it is None for a knob that is searched only on request. `smooth` says that the merged
    tensor has a derivative with respect to the knob almost everywhere, which the kernel carries:
    no mask, rank or switch moves with it.
    """

    name: str
    scope: Literal["source", "recipe"]
    kind: Literal["float", "bool"]
    default: float | bool
    neutral: float | bool | None
    domain: tuple[float, float]
    search: tuple[float, float] | None = None
    smooth: bool = False


@dataclass(frozen=True)
class Values:
    """Knob values for one tensor: numbers per source (in order), recipe numbers and switches."""

    each: Mapping[str, tuple[float, ...]]
    number: Mapping[str, float]
    switch: Mapping[str, bool]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal exactly when all values are equal."""
        return tuple(tuple(part.items()) for part in (self.each, self.number, self.switch))


class Statistics(Protocol):
    """Whole-tensor numbers of the vectors a method combines.

    The vectors are the task vectors (source − base) of an anchored method, else the sources.
    """

    @property
    def count(self) -> int:
        """Number of vectors."""

    @property
    def size(self) -> int:
        """Number of elements of the tensor."""

    def inner(self, i: int, j: int) -> float:
        """Return the inner product of vectors i and j, accumulated in float64."""

    def model_inner(self, i: int, j: int) -> float:
        """Return the inner product of vectors i and j over the whole model ("model_gram")."""

    @property
    def model_size(self) -> int:
        """Number of elements of the whole model."""

    def magnitude(self, i: int, k: int, whole: bool = False) -> float:
        """Return the k-th largest absolute element of vector i, k from 1; or of the whole model."""

    def competition(
        self, i: int, k: int, limits: Sequence[tuple[float, float, float]], whole: bool
    ) -> float:
        """Return the k-th largest score of vector i, k from 1, or of the whole model.

        `limits` are those of `methods.shared.competition.scores`, one per vector.
        """

    @property
    def n_spread(self) -> int:
        """Number of elements at which the vectors are not all equal ("spread")."""

    def spread(self, k: int) -> float:
        """Return the k-th largest population variance of an element over the vectors, k from 1."""

    def spread_energy(self, i: int, k: int) -> float:
        """Return the sum of vector i's squares over the k elements of largest variance."""


@dataclass(frozen=True)
class Coefficients:
    """The scalars of one tensor: one tuple per source, those that all share, and switches."""

    each: tuple[tuple[float, ...], ...]
    shared: tuple[float, ...] = ()
    switches: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Operands:
    """Tensors of one shape: base (None unless anchored), sources, and what a method asked for.

    Seeded methods get one tensor of uniforms in [0, 1) per source. "ranks" methods get one tensor
    of ranks per source: 0 for the least magnitude of the vector within its row (the last
    dimension), 1 for the largest, evenly spaced, in element order where magnitudes are equal; 0.5
    in rows of one element. `prepared` is what `Method.prepare` returned. `evidence` has, for each
    kind that the method needs, what there is for this tensor from each source's model, None where
    there is nothing. `vectors` are task vectors that transforms have changed.
    """

    base: Tensor | None
    sources: Sequence[Tensor]
    uniforms: Sequence[Tensor] = ()
    ranks: Sequence[Tensor] = ()
    prepared: Sequence[Tensor] = ()
    evidence: Mapping[str, Sequence[Tensor | None]] = field(default_factory=dict)
    vectors: tuple[Tensor, ...] | None = None

    @property
    def anchor(self) -> Tensor:
        """The base of an anchored method."""
        if self.base is None:
            raise ValueError("a method that is not anchored has no base")
        return self.base

    @property
    def task_vectors(self) -> tuple[Tensor, ...]:
        """Source − base, for each source (Ilharco et al. 2023, arXiv:2212.04089), transformed."""
        if self.vectors is not None:
            return self.vectors
        return tuple(source - self.anchor for source in self.sources)


def indicator(tensor: Tensor) -> Tensor:
    """Return 1 where a tensor is positive, else 0, in its dtype.

    Float masks keep an eager kernel in vector instructions (comparisons and boolean products are
    six times slower on CPUs); as factors, they carry a NaN on to the check of the result.
    """
    return tensor.relu().sign()


CoefficientStage: TypeAlias = Callable[[Values, Statistics], Coefficients]
Kernel: TypeAlias = Callable[[Operands, Coefficients], "Tensor"]
Preparation: TypeAlias = Callable[[Operands], "tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Method:
    """A merge method: its knobs, what it needs, and its two stages.

    `anchored` methods need a base and combine task vectors. `ordered` ones depend on the order of
    sources. `compares` says that every source matters whatever its weight: one of weight 0 still
    influences what is kept of the others. `seeded` ones get uniforms derived from the recipe's
    seed. `statistics` names all whole-tensor numbers that `coefficients` may ask for. `prepare`,
    for the extent "tensor", computes from base and sources what no knob changes. `needs` names the
    kinds of evidence (see `automerge.evidence`) that the kernel needs from every source; such a
    method has the extent "tensor".
    """

    name: str
    paper: str
    knobs: tuple[Knob, ...]
    coefficients: CoefficientStage
    kernel: Kernel
    anchored: bool
    ordered: bool = False
    compares: bool = False
    seeded: bool = False
    min_sources: int = 1
    max_sources: int | None = None
    statistics: tuple[Statistic, ...] = ()
    extent: Extent = "element"
    prepare: Preparation | None = None
    needs: tuple[str, ...] = ()

    @property
    def source_knobs(self) -> tuple[Knob, ...]:
        return tuple(knob for knob in self.knobs if knob.scope == "source")

    @property
    def recipe_knobs(self) -> tuple[Knob, ...]:
        return tuple(knob for knob in self.knobs if knob.scope == "recipe")

    def values(self, recipe: Recipe, place: Place) -> Values:
        """Resolve the recipe's knobs for one tensor."""
        return Values(
            each={
                knob.name: tuple(
                    number(source.knobs.get(knob.name), knob, place) for source in recipe.sources
                )
                for knob in self.source_knobs
            },
            number={
                knob.name: number(recipe.knobs.get(knob.name), knob, place)
                for knob in self.recipe_knobs
                if knob.kind == "float"
            },
            switch={
                knob.name: switch(recipe.knobs.get(knob.name), knob, place)
                for knob in self.recipe_knobs
                if knob.kind == "bool"
            },
        )


def number(value: object, knob: Knob, place: Place) -> float:
    """Return a knob's value at a place; the knob's default where the recipe says nothing."""
    here = value.at(place) if isinstance(value, Profile) else value
    if here is None:
        return float(knob.default)
    assert isinstance(here, int | float)
    return float(here)


def switch(value: object, knob: Knob, place: Place) -> bool:
    """Return whether a switch is on at a place; its default where the recipe says nothing."""
    here = value.at(place) if isinstance(value, Profile) else value
    return bool(knob.default if here is None else here)


def weight(search: tuple[float, float] = (0.0, 1.0)) -> Knob:
    """Declare the share of a source that is added."""
    return Knob("weight", "source", "float", 1.0, 0.0, (-10.0, 10.0), search, smooth=True)


def density(search: tuple[float, float] = (0.1, 1.0)) -> Knob:
    """Declare the share of a task vector that is kept."""
    return Knob("density", "source", "float", 1.0, 1.0, (0.0, 1.0), search)


def scaling(search: tuple[float, float] | None = None) -> Knob:
    """Declare the factor on the merged task vector, λ in the papers."""
    return Knob("lambda", "recipe", "float", 1.0, 1.0, (-10.0, 10.0), search, smooth=True)


def whole_model(default: bool) -> Knob:
    """Declare whether elements are ranked over the whole model, not over each tensor by itself."""
    return Knob("whole_model", "recipe", "bool", default, None, (0.0, 1.0))


def normalize(default: bool) -> Knob:
    """Declare whether sums are divided by the sum of their weights."""
    return Knob("normalize", "recipe", "bool", default, None, (0.0, 1.0))
