"""Constraints: what a merged model must keep, such as `mmlu >= best_parent - 0.01`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from automerge.objective import Direction, Estimate, Objective

Relation = Literal[">=", "<="]

BEST_PARENT = "best_parent"
FORM = "NAME >= NUMBER, or NAME >= MODEL [+-] NUMBER with best_parent, base, uniform or a source"

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONSTRAINT = re.compile(
    rf"(?P<objective>\S+)\s*(?P<relation>>=|<=)\s*"
    rf"(?:(?P<number>{_NUMBER})|(?P<reference>[A-Za-z0-9][\w.-]*?)"
    rf"(?:\s*(?P<sign>[-+])\s*(?P<offset>\d+\.?\d*|\.\d+))?)\s*"
)


@dataclass(frozen=True)
class Constraint:
    """A bound on an objective's value: a number, or another model's value plus a number.

    `reference` is None, `best_parent` (of base and sources, on this objective) or a model's name.
    """

    objective: str
    relation: Relation
    reference: str | None
    offset: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read `mmlu >= best_parent - 0.01`; ValueError says what was expected."""
        found = _CONSTRAINT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected {FORM}, got {text!r}")
        relation: Relation = ">=" if found["relation"] == ">=" else "<="
        if found["number"] is not None:
            return cls(found["objective"], relation, None, float(found["number"]))
        offset = float(f"{found['sign']}{found['offset']}") if found["sign"] else 0.0
        return cls(found["objective"], relation, found["reference"], offset)

    def __str__(self) -> str:
        sign = "+" if self.offset > 0 else "-"
        moved = f" {sign} {abs(self.offset):g}" if self.offset else ""
        bound = f"{self.offset:g}" if self.reference is None else f"{self.reference}{moved}"
        return f"{self.objective} {self.relation} {bound}"

    def bound(
        self, values: Mapping[str, float], parents: Sequence[str], direction: Direction
    ) -> float | None:
        """The bound where models have these values of the objective; None where one lacks."""
        if self.reference is None:
            return self.offset
        name = self.referred(values, parents, direction)
        return None if name is None else values[name] + self.offset

    def referred(
        self, values: Mapping[str, float], parents: Sequence[str], direction: Direction
    ) -> str | None:
        """The model whose value the bound is moved from; None where there is none."""
        if self.reference != BEST_PARENT:
            return self.reference if self.reference in values else None
        known = [name for name in parents if name in values]
        best = max if direction == "maximize" else min
        return best(known, key=lambda name: values[name], default=None)

    def shortfall(self, value: float, bound: float) -> float:
        """By how much a value misses the bound; negative where it has room to spare."""
        return bound - value if self.relation == ">=" else value - bound


@dataclass(frozen=True)
class Bound:
    """A constraint as a number; `model` is whose value that was moved from, if any's."""

    constraint: Constraint
    value: float
    model: str | None

    def shortfall(self, value: float) -> float:
        """By how much a value misses the bound; negative where it has room to spare."""
        return self.constraint.shortfall(value, self.value)


def bounds(
    constraints: Sequence[Constraint],
    objectives: Sequence[Objective],
    values: Mapping[str, Mapping[str, Estimate]],
    parents: Sequence[str],
) -> list[Bound]:
    """Each constraint with its bound, where the models it refers to have `values`, by name."""
    by_name = {o.name: o for o in objectives}
    found = []
    for constraint in constraints:
        name = constraint.objective
        of = {model: own[name].value for model, own in values.items()}
        asked = (of, parents, by_name[name].direction)
        if (value := constraint.bound(*asked)) is not None:
            found.append(Bound(constraint, value, constraint.referred(*asked)))
    return found
