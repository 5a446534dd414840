"""A method after transforms of its task vectors: `consensus+ties`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from automerge.errors import nearest
from automerge.methods.base import Coefficients, Knob, Method, Operands, Statistics, Values
from automerge.methods.shared.measured import Measured, ranks
from automerge.methods.transforms import TRANSFORMS, Transform

if TYPE_CHECKING:
    from torch import Tensor

JOIN = "+"
"""Stands between transforms, in the order in which they are applied, and before the method."""
WHOLE_MODEL = "whole_model"


def named_chain(name: str, method: Callable[[str], Method]) -> Method | None:
    """Return the method that a chain such as `consensus+ties` names; None if it is no chain.

    Raises:
        KeyError: there is no such method.
        TypeError: there is no such transform, or they cannot come before the method.
    """
    *names, last = name.split(JOIN)
    if not names:
        return None
    for each in names:
        if each not in TRANSFORMS:
            raise TypeError(f"unknown transform {each!r}{nearest(each, tuple(TRANSFORMS))}")
    return transformed(tuple(TRANSFORMS[each] for each in names), method(last))


@cache
def transformed(transforms: tuple[Transform, ...], method: Method) -> Method:
    """Return the method that merges what transforms, one after the other, make of task vectors.

    A transform's knobs keep their names, but for those that a later part has too: they begin with
    the transform's name, such as `dare_density` in `dare+ties`. What a method or a transform asks
    of task vectors (order statistics, ranks) is asked of those that it gets. So a chain merges
    whole tensors for every recipe, and elements are not ranked over the whole model. Where a
    method computes its coefficients from such numbers in other ways than by comparing magnitudes,
    its knobs have no slopes here.

    Raises:
        TypeError: these transforms cannot come before this method.
    """
    names = [transform.name for transform in transforms]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise TypeError(f"{twice[0]} is listed twice; a transform can be applied once")
    parts: tuple[Transform | Method, ...] = (*transforms, method)
    seeded = [part.name for part in parts if part.seeded]
    if len(seeded) > 1:
        raise TypeError(f"{' and '.join(seeded)} both draw random masks; use one of them")
    if not method.anchored:
        raise TypeError(f"{method.name} does not merge task vectors: nothing to transform")
    if "model_gram" in method.statistics:
        raise TypeError(f"{method.name} needs sums over the whole model, before any transform")
    chain = _chain(transforms, method)
    knobs = tuple(knob for part in chain.parts for knob in part.declared)
    return Method(
        name=JOIN.join((*names, method.name)),
        paper="; ".join(dict.fromkeys((*(t.paper for t in transforms), method.paper))),
        knobs=knobs,
        coefficients=chain.coefficients,
        kernel=chain.kernel,
        anchored=True,
        ordered=method.ordered,
        compares=method.compares,
        seeded=bool(seeded),
        min_sources=method.min_sources,
        max_sources=method.max_sources,
        extent="tensor",
        prepare=transforms[0].prepare,
        needs=tuple(dict.fromkeys(kind for part in parts for kind in part.needs)),
    )


def qualified(transform: Transform, knob: Knob) -> str:
    """Return what a transform's knob is called where a later part has one of its name."""
    return f"{transform.name}_{knob.name}"


@dataclass(frozen=True)
class _Part:
    """One part of a chain: the names of its own knobs, and the chain's knobs in the same order."""

    own: tuple[str, ...]
    declared: tuple[Knob, ...]

    def values(self, whole: Values) -> Values:
        """Return the values of a part's knobs under its own names."""
        own = {knob.name: name for name, knob in zip(self.own, self.declared, strict=True)}
        return Values(
            each={own[name]: value for name, value in whole.each.items() if name in own},
            number={own[name]: value for name, value in whole.number.items() if name in own},
            switch={own[name]: value for name, value in whole.switch.items() if name in own},
        )


def _chain(transforms: tuple[Transform, ...], method: Method) -> _Chain:
    compared = {*method.statistics} <= {"magnitude", "ranks", "competition"}
    knobs = [
        knob if compared else replace(knob, smooth=False)
        for knob in method.knobs
        if knob.name != WHOLE_MODEL
    ]
    last = _Part(tuple(knob.name for knob in knobs), tuple(knobs))
    parts = [last]
    taken = set(last.own)
    for transform in reversed(transforms):
        own = tuple(knob.name for knob in transform.knobs)
        names = [
            qualified(transform, knob) if knob.name in taken else knob.name
            for knob in transform.knobs
        ]
        declared = zip(transform.knobs, names, strict=True)
        parts.insert(0, _Part(own, tuple(replace(knob, name=name) for knob, name in declared)))
        taken |= {*own, *names}
    return _Chain(transforms, method, tuple(parts))


@dataclass(frozen=True)
class _Chain:
    """The two stages of a chain. The first one hands the knobs' values on: what the parts make of
    them may depend on what the parts before them return."""

    transforms: tuple[Transform, ...]
    method: Method
    parts: tuple[_Part, ...]

    def coefficients(self, values: Values, statistics: Statistics) -> Coefficients:
        """Return the values of knobs, per source and of the recipe."""
        each = tuple(
            tuple(values.each[n][i] for n in self._names("source")) for i in range(statistics.count)
        )
        return Coefficients(
            each,
            tuple(values.number[name] for name in self._names("recipe", "float")),
            tuple(values.switch[name] for name in self._names("recipe", "bool")),
        )

    def kernel(self, operands: Operands, scalars: Coefficients) -> Tensor:
        """Return what the method makes of the transformed task vectors."""
        import torch

        values = self._values(scalars)
        ones = [1.0] * len(operands.sources)
        weights: Sequence[float] = values.each.get("weight", ones)
        with torch.no_grad():  # a transform's masks do not move with smooth knobs
            for number, transform in enumerate(self.transforms):
                given = self._given(operands, transform, prepared=number == 0)
                own = self.parts[number].values(values)
                measured = Measured(given.task_vectors)
                scalars_of_own = transform.coefficients(own, measured, weights, ones)
                operands = replace(operands, vectors=transform.kernel(given, scalars_of_own))
        sources = [operands.anchor + vector for vector in operands.task_vectors]
        given = self._given(replace(operands, sources=sources), self.method, prepared=False)
        own_values = self.parts[-1].values(values)
        if any(knob.name == WHOLE_MODEL for knob in self.method.knobs):
            own_values = replace(own_values, switch={**own_values.switch, WHOLE_MODEL: False})
        found = self.method.coefficients(own_values, Measured(given.task_vectors))
        return self.method.kernel(given, found)

    def _given(self, operands: Operands, part: Transform | Method, prepared: bool) -> Operands:
        """Return operands with what a part asks for; `prepared` says whether that is there."""
        ranked = "ranks" in part.statistics
        operands = replace(
            operands, ranks=[ranks(v) for v in operands.task_vectors] if ranked else ()
        )
        if prepared or part.prepare is None:
            return operands
        return replace(operands, prepared=part.prepare(operands))

    def _names(self, scope: str, kind: str = "float") -> list[str]:
        declared = (knob for part in self.parts for knob in part.declared)
        return [knob.name for knob in declared if (knob.scope, knob.kind) == (scope, kind)]

    def _values(self, scalars: Coefficients) -> Values:
        """Invert `coefficients`."""
        own = self._names("source")
        columns: Mapping[str, tuple[float, ...]] = {
            name: tuple(one[i] for one in scalars.each) for i, name in enumerate(own)
        }
        numbers = zip(self._names("recipe", "float"), scalars.shared, strict=True)
        switches = zip(self._names("recipe", "bool"), scalars.switches, strict=True)
        return Values(columns, dict(numbers), dict(switches))
