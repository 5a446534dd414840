"""A study's groups as objectives over the tasks that were opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from automerge.config import StudyConfig
from automerge.config.sections import Group
from automerge.errors import Fault, PreflightError
from automerge.evaluation.base import OpenTasks
from automerge.objective import Aggregation, Objective


def group_objectives(config: StudyConfig, tasks: OpenTasks) -> tuple[Objective, ...]:
    """Return an objective per group.

    Raises:
        PreflightError: with every task that a group cannot have, and where it was written.
    """
    by_name = {objective.name: objective for objective in tasks.objectives}
    faults = [
        Fault(message, config.locate(("groups", i, "mean" if group.mean else "worst")))
        for i, group in enumerate(config.groups)
        for message in _faults(group, by_name, tasks)
    ]
    if faults:
        raise PreflightError(faults)
    return tuple(_objective(group, by_name) for group in config.groups)


def with_smooth_groups(smooth: Collection[str], groups: Sequence[Objective]) -> tuple[str, ...]:
    """Return the objectives that have a smooth loss, and the groups all of whose members have."""
    found = (g.name for g in groups if all(member in smooth for member in g.members))
    return (*smooth, *found)


def _faults(group: Group, by_name: dict[str, Objective], tasks: OpenTasks) -> list[str]:
    found, seen = [], dict[str, str]()
    directions = {by_name[name].direction for name in group.members}
    if len(directions) > 1:
        found.append(
            f"the tasks of group {group.name!r} are partly maximised, partly minimised; "
            "group those of one direction"
        )
    for name in group.members:
        leaves = tasks.members[name]
        if by_name[name].aggregation != "mean" or len(leaves) != 1:
            found.append(
                f"{name!r} is not the mean of one task's item scores, which is what a group is "
                "made of; name its tasks, or another metric"
            )
            continue
        if (other := seen.setdefault(leaves[0], name)) != name:
            found.append(f"{name!r} and {other!r} are scores of the same items; name one of them")
    return found


def _objective(group: Group, by_name: dict[str, Objective]) -> Objective:
    direction = by_name[group.members[0]].direction
    extreme: Aggregation = "min_of_means" if direction == "maximize" else "max_of_means"
    return Objective(
        name=group.name,
        task=", ".join(sorted(group.members)),
        metric="mean" if group.mean else "worst",
        filter="none",
        direction=direction,
        aggregation="mean_of_means" if group.mean else extreme,
        members=group.members,
        relative=group.relative,
    )
