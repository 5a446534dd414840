"""Pick a merge from the front by what somebody prefers, on select items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automerge.errors import ConfigError, Fault
from automerge.objective import Objective, searched
from automerge.report.summary import Member, Summary


@dataclass(frozen=True)
class Picked:
    """A picked merge, its weighted mean on select items, and how many merges met the bounds.

    The utility is in the metrics' own unit if all weighted objectives are shares to maximise
    (`rescaled` is false), else in shares of the range over the front.
    """

    member: Member
    utility: float
    rescaled: bool
    left: int


def pick(summary: Summary, prefer: Mapping[str, float], at_least: Mapping[str, float]) -> Picked:
    """Pick the merge on the front with the highest weighted mean among those that meet the bounds.

    All scores that it looks at are those on select items, so that its test scores stay honest.

    Args:
        summary: the study.
        prefer: weights by objective; objectives not named weigh nothing. Empty: all goals weigh 1.
        at_least: bounds by objective, in the metric's own unit: lower ones, and upper ones for
            objectives that are minimised.

    Raises:
        ConfigError: an objective is unknown, a weight is not positive, there is no front, or no
            merge meets the bounds.
    """
    _check(summary.result.objectives, prefer, at_least)
    objectives = {o.name: o for o in searched(summary.result.objectives)}
    members = [m for m in summary.front if all(_select(m, name) is not None for name in objectives)]
    if not members:
        raise ConfigError(f"{summary.result.study} has no merge on its front to pick from")
    kept = [m for m in members if all(_meets(m, objectives[n], b) for n, b in at_least.items())]
    if not kept:
        raise ConfigError(
            [Fault(_nearest_miss(members, objectives[n], at_least)) for n in at_least]
        )
    weights = dict(prefer) or {o.name: 1.0 for o in summary.result.goals}
    rescaled = not all(
        summary.units[name].percent and objectives[name].direction == "maximize" for name in weights
    )
    total = sum(weights.values())

    def utility(member: Member) -> float:
        return (
            sum(
                weight * (_share if rescaled else _plain)(member, members, objectives[name])
                for name, weight in weights.items()
            )
            / total
        )

    best = max(kept, key=utility)
    return Picked(best, utility(best), rescaled, len(kept))


def _check(
    objectives: Sequence[Objective], prefer: Mapping[str, float], at_least: Mapping[str, float]
) -> None:
    known = [o.name for o in searched(objectives)]
    held_out = {o.name for o in objectives if o.held_out}
    names = ", ".join(known)
    faults = [
        Fault(f"the study has no objective {name!r}; choose from {names}")
        for name in dict.fromkeys((*prefer, *at_least))
        if name not in known and name not in held_out
    ]
    faults += [
        Fault(f"{name} is held out, so no merge is chosen by it; choose from {names}")
        for name in dict.fromkeys((*prefer, *at_least))
        if name in held_out
    ]
    faults += [
        Fault(f"the weight of {name} is {weight:g}; give a number above 0")
        for name, weight in prefer.items()
        if not (math.isfinite(weight) and weight > 0)
    ]
    if faults:
        raise ConfigError(faults)


def _select(member: Member, name: str) -> float | None:
    found = member.scores[name]["select"]
    return None if found is None else found.value


def _plain(member: Member, members: list[Member], objective: Objective) -> float:
    found = _select(member, objective.name)
    assert found is not None
    return found


def _share(member: Member, members: list[Member], objective: Objective) -> float:
    """Return where a score lies between the front's worst, 0, and best, 1."""
    losses = [objective.loss(_plain(m, members, objective)) for m in members]
    low, high = min(losses), max(losses)
    mine = objective.loss(_plain(member, members, objective))
    return 1.0 if high == low else (high - mine) / (high - low)


def _meets(member: Member, objective: Objective, bound: float) -> bool:
    found = _select(member, objective.name)
    return found is not None and objective.loss(found) <= objective.loss(bound)


def _nearest_miss(
    members: list[Member], objective: Objective, at_least: Mapping[str, float]
) -> str:
    best = min(members, key=lambda m: objective.loss(_plain(m, members, objective)))
    value, bound = _plain(best, members, objective), at_least[objective.name]
    sign = ">=" if objective.direction == "maximize" else "<="
    together = " together with the others" if len(at_least) > 1 else ""
    return (
        f"no merge on the front has {objective.name} {sign} {bound:g} on select items{together}; "
        f"the best there, {best.name}, has {value:.4g}"
    )
