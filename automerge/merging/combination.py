"""Whether a kernel only adds and scales its operands, found by running it on symbols."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from automerge.methods import Coefficients, Method, Operands


@dataclass(frozen=True, eq=False)
class Combination:
    """Σ c x, as the factor c of every symbol x; it only knows sums and products with numbers."""

    factors: Mapping[Hashable, float]

    def __add__(self, other: object) -> Combination:
        if not isinstance(other, Combination):
            return NotImplemented
        names = dict.fromkeys((*self.factors, *other.factors))
        ours, theirs = self.factors, other.factors
        return Combination({x: ours.get(x, 0.0) + theirs.get(x, 0.0) for x in names})

    def __mul__(self, number: object) -> Combination:
        if not isinstance(number, int | float):
            return NotImplemented
        return Combination({x: c * number for x, c in self.factors.items()})

    __rmul__ = __mul__

    def __truediv__(self, number: object) -> Combination:
        if not isinstance(number, int | float):
            return NotImplemented
        return Combination({x: c / number for x, c in self.factors.items()})

    def __neg__(self) -> Combination:
        return self * -1.0

    def __sub__(self, other: object) -> Combination:
        return self + -other if isinstance(other, Combination) else NotImplemented

    def __eq__(self, other: object) -> bool:
        raise TypeError("a symbol has no value")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("a symbol has no value")


def combination(
    method: Method,
    scalars: Coefficients,
    base: Combination | None,
    sources: Sequence[Combination],
) -> Combination | None:
    """Run a method's kernel on symbols; return None if it does more than add and scale."""
    if method.extent != "element" or method.seeded or "ranks" in method.statistics:
        return None
    try:
        merged: object = method.kernel(Operands(cast(Any, base), cast(Any, sources)), scalars)
    except (AttributeError, TypeError, ZeroDivisionError):
        return None
    return merged if isinstance(merged, Combination) else None
