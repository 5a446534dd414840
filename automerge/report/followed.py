"""Which slopes a search followed, and how well their losses rank merges by the metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from automerge.estimation.ranks import spearman
from automerge.store.result import StudyResult
from automerge.trial import Measured, chosen_answers


@dataclass(frozen=True)
class Followed:
    """An objective, how many trials were measured with slopes of its loss, and Spearman's ρ between
    that loss and what the search believed of the metric, both to be minimised.

    `answers` says for how many search items the loss is that of a parent's right answer, by the
    parent's name; empty where answers are not generated, or nobody had any right.
    """

    objective: str
    n_trials: int
    rank: float | None
    answers: Mapping[str, int] = field(default_factory=dict)


def followed(result: StudyResult) -> tuple[Followed, ...]:
    """List the objectives whose slopes were measured in any trial.

    The loss is that on a trial's own items, fewer than the belief stems from: ρ is too low rather
    than too high.
    """
    rows = []
    answers = _answers(result)
    for objective in result.objectives:
        pairs: list[tuple[float, float]] = []
        n = 0
        for trial in result.trials:
            outcome = trial.outcomes.get("search")
            slope = outcome.slopes.get(objective.name) if isinstance(outcome, Measured) else None
            believed = trial.search_estimate(objective)
            if slope is None or believed is None:
                continue
            n += 1
            if math.isfinite(believed.value):
                pairs.append((slope.loss, objective.loss(believed.value)))
        if n:
            rank = spearman(*zip(*pairs, strict=True)) if pairs else None
            rows.append(Followed(objective.name, n, rank, answers.get(objective.name, {})))
    return tuple(rows)


def _answers(result: StudyResult) -> dict[str, dict[str, int]]:
    """Count the items whose loss is that of a parent's right answer: by objective and parent."""
    names: dict[int, str] = {}
    parents: dict[int, Measured] = {}
    for trial in result.trials:
        found = trial.outcomes.get("search")
        if isinstance(found, Measured) and found.answers:
            names[trial.trial.number] = trial.trial.name
            parents[trial.trial.number] = found
    return {
        objective: {names[n]: count for n, count in Counter(own.values()).most_common()}
        for objective, own in chosen_answers(parents).items()
    }


def in_words(result: StudyResult) -> str:
    """Return one line: which slopes were followed, and which objectives have none."""
    names = [row.objective for row in followed(result)]
    lacking = [o.name for o in result.goals if o.name not in result.smooth and not o.is_size]
    rest = f"; objectives without a usable loss: {', '.join(lacking)}" if lacking else ""
    return (f"of {', '.join(names)}" if names else "none followed") + rest
