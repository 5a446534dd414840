"""Whether a model's scores surely miss a limit."""

from __future__ import annotations

from automerge.estimation.intervals import interval
from automerge.objective import ItemScores, Objective
from automerge.trial import Limit

LEVEL = 0.99
"""The probability that a score's interval covers its value."""
ERRORS = 3.0
"""Where a limit refers to a model, the number of standard errors of that model's value by which the
limit is loosened, or to the end of the interval of that model's own score, if that is farther."""


def surely_misses(scores: ItemScores, objective: Objective, limit: Limit) -> bool:
    """Return whether the whole interval of an objective's score is beyond a limit."""
    if not scores.items:
        return False
    found = interval(scores, objective.aggregation, LEVEL)
    return found.high < limit.value if limit.relation == ">=" else found.low > limit.value
