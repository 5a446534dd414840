"""Generated answers that a metric calls right: what another model may be led towards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from automerge.evaluation.lm_eval.answers import Answer
from automerge.evaluation.lm_eval.metrics import OUTPUT_TOKENS
from automerge.evaluation.lm_eval.requests import Item
from automerge.objective import ItemScores, Objective

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def judges(objective: Objective, task: Task) -> bool:
    """Return whether an objective says of each generated answer how right it is, 1 being entirely.

    Its scores then are means of what the task's metric wants more of.
    """
    return (
        task.OUTPUT_TYPE == "generate_until"
        and objective.metric != OUTPUT_TOKENS
        and objective.aggregation in ("mean", "mean_of_means")
        and task.higher_is_better().get(objective.metric, True) is not False
    )


def right_answers(
    objective: Objective,
    scores: ItemScores,
    tasks: Mapping[str, Task],
    answers: Mapping[Item, Sequence[Answer]],
) -> dict[Item, str]:
    """Return the texts that have a score of 1; none where scores are on another scale than 0 to 1.

    Args:
        objective: What judged the answers.
        scores: Its scores.
        tasks: By name.
        answers: Of every item, one per request.
    """
    if not all(0 <= value <= 1 for value in scores.values):
        return {}
    found = {}
    for item, value in zip(scores.items, scores.values, strict=True):
        own = answers.get(item, ())
        if value == 1 and len(own) == 1 and judges(objective, tasks[item[0]]):
            [text] = own
            if isinstance(text, str) and text.strip():
                found[item] = text
    return found
