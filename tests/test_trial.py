"""Values that travel between driver and workers."""

from __future__ import annotations

from automerge.objective import ItemScores
from automerge.trial import Measured, Timings, together


def block(first: int, count: int, notes: dict[str, float]) -> Measured:
    items = tuple(("task", i) for i in range(first, first + count))
    return Measured(
        {"acc": ItemScores(items, (1.0,) * count)},
        Timings(total=2.0),
        5,
        notes,
        margins={"acc": ItemScores(items[1:], (0.5,) * (count - 1))},
    )


def test_blocks_together_have_all_items_summed_costs_and_notes_weighted_by_items() -> None:
    both = together([block(0, 3, {"cut": 1.0}), block(3, 1, {"cut": 0.0, "empty": 1.0})])
    assert both.scores["acc"].items == tuple(("task", i) for i in range(4))
    assert both.margins["acc"].items == (("task", 1), ("task", 2))
    assert both.timings.total == 4.0
    assert both.tokens == 10
    assert both.notes == {"cut": 0.75, "empty": 0.25}
