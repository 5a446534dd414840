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

    Attributes:
        objective: the objective's name.
        relation: how the value must compare with the bound.
        reference: None, `best_parent` (the best of base and sources on this objective) or a
            model's name.
        offset: the bound itself where there is no reference, else what is added to its value.
    """

    objective: str
    relation: Relation
    reference: str | None
    offset: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Parse a text such as `mmlu >= best_parent - 0.01`.

        Raises:
            ValueError: the text is not a constraint; the message says what was expected.
        """
        match = _CONSTRAINT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"expected {FORM}, got {text!r}")
        relation: Relation = ">=" if match["relation"] == ">=" else "<="
        if match["number"] is not None:
            return cls(match["objective"], relation, None, float(match["number"]))
        offset = float(f"{match['sign']}{match['offset']}") if match["sign"] else 0.0
        return cls(match["objective"], relation, match["reference"], offset)

    def __str__(self) -> str:
        sign = "+" if self.offset > 0 else "-"
        shift = f" {sign} {abs(self.offset):g}" if self.offset else ""
        bound = f"{self.offset:g}" if self.reference is None else f"{self.reference}{shift}"
        return f"{self.objective} {self.relation} {bound}"

    def bound(
        self, values: Mapping[str, float], parents: Sequence[str], direction: Direction
    ) -> float | None:
        """Return the bound as a number; None if the model it refers to has no value.

        Args:
            values: the value of the objective for each model, by model name.
            parents: names of base and sources.
            direction: the objective's direction.
        """
        if self.reference is None:
            return self.offset
        name = self.referred(values, parents, direction)
        return None if name is None else values[name] + self.offset

    def referred(
        self, values: Mapping[str, float], parents: Sequence[str], direction: Direction
    ) -> str | None:
        """Return the name of the model the bound refers to; None if there is none."""
        if self.reference != BEST_PARENT:
            return self.reference if self.reference in values else None
        measured = [name for name in parents if name in values]
        best = max if direction == "maximize" else min
        return best(measured, key=lambda name: values[name], default=None)

    def shortfall(self, value: float, bound: float) -> float:
        """Return by how much a value misses the bound; negative if it meets it with a margin."""
        return bound - value if self.relation == ">=" else value - bound


@dataclass(frozen=True)
class Bound:
    """A constraint with its bound as a number; `model` is the model it refers to, if any."""

    constraint: Constraint
    value: float
    model: str | None

    def shortfall(self, value: float) -> float:
        """Return by how much a value misses the bound; negative if it meets it with a margin."""
        return self.constraint.shortfall(value, self.value)


def bounds(
    constraints: Sequence[Constraint],
    objectives: Sequence[Objective],
    values: Mapping[str, Mapping[str, Estimate]],
    parents: Sequence[str],
) -> list[Bound]:
    """Return the constraints with their bounds, except those whose bound is not known yet.

    Args:
        constraints: constraints on these objectives.
        objectives: all objectives of the study.
        values: estimates by model and objective.
        parents: names of base and sources.
    """
    by_name = {o.name: o for o in objectives}
    known = []
    for constraint in constraints:
        name = constraint.objective
        by_model = {model: scored[name].value for model, scored in values.items()}
        asked = (by_model, parents, by_name[name].direction)
        if (value := constraint.bound(*asked)) is not None:
            known.append(Bound(constraint, value, constraint.referred(*asked)))
    return known
