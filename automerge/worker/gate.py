"""Score cheap objectives first, and the others unless these surely miss a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from automerge.estimation.gate import surely_misses
from automerge.evaluation.base import Scored, together
from automerge.objective import Objective
from automerge.trial import LEFT_OUT, Gate, Items


def score_in_order(
    score: Callable[[Items], Scored],
    items: Items,
    gate: Gate,
    objectives: Mapping[str, Objective],
) -> Scored:
    """Score the gate's leaf tasks, then the others unless a limit is surely missed.

    Where one is, objectives that were not scored have no items, and a note by their name.

    Args:
        score: scores the model on items; objectives without any have no scores.
        items: of all leaf tasks.
        gate: what is scored first, and its limits.
        objectives: by name.
    """
    first = score({leaf: ids for leaf, ids in items.items() if leaf in gate.first})
    if any(
        surely_misses(first.scores[limit.objective], objectives[limit.objective], limit)
        for limit in gate.limits
    ):
        missing = {f"{LEFT_OUT}{name}": 1.0 for name, s in first.scores.items() if not s.items}
        return replace(first, notes={**first.notes, **missing})
    rest = score({leaf: ids for leaf, ids in items.items() if leaf not in gate.first})
    return together([first, rest])
