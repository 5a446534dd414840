"""Item scores of groups: objectives that are the mean, or the worst, of several others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from automerge.objective import ItemScores, Objective, estimate, joined

Scores = Mapping[str, ItemScores]


def with_groups(objectives: Sequence[Objective], scores: Scores, experts: Scores) -> Scores:
    """Return a model's item scores with those of the groups among the objectives.

    Args:
        objectives: groups and their members, among others.
        scores: by objective; what lacks a member's scores has none of its groups.
        experts: those of the best source, by member.
    """
    found = {
        o.name: _group(o, scores, experts)
        for o in objectives
        if o.members and all(name in scores for name in o.members)
    }
    return {**scores, **found}


def best_sources(objectives: Sequence[Objective], sources: Sequence[Scores]) -> dict[str, int]:
    """Return which source is best at each member of a relative group; the first of equal ones."""
    wanted = {name for o in objectives if o.relative for name in o.members}
    found = {}
    for o in objectives:
        known = [
            (o.loss(estimate(own[o.name], o.aggregation).value), number)
            for number, own in enumerate(sources)
            if o.name in wanted and o.name in own and own[o.name].items
        ]
        if known:
            found[o.name] = min(known)[1]
    return found


def _group(group: Objective, scores: Scores, experts: Scores) -> ItemScores:
    """Return the members' items one after the other; none where any member was not measured.

    In a relative group, an item's weight is what the best source scored on it, so that a member's
    value is a ratio of means over the same items. Where the source answered others, the weight is
    its mean, whose error is common to all models.
    """
    parts = [scores[name] for name in group.members]
    if not all(part.items for part in parts):
        return ItemScores((), ())
    found = joined(parts)
    if not group.relative:
        return found
    weights: list[float] = []
    for name, own in zip(group.members, parts, strict=True):
        expert = experts.get(name)
        if expert is None or not np.mean(expert.values) > 0:
            return ItemScores((), ())
        table = dict(zip(expert.items, expert.values, strict=True))
        if all(item in table for item in own.items) and sum(table[i] for i in own.items) > 0:
            weights += [table[item] for item in own.items]
        else:
            weights += [float(np.mean(expert.values))] * len(own.items)
    return ItemScores(found.items, found.values, tuple(weights))
