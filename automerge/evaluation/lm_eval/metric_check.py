"""Try a study's metrics on made-up answers, so that one that cannot work fails at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.evaluation.guards import MetricError
from automerge.evaluation.lm_eval.answers import Answer, Answers
from automerge.evaluation.lm_eval.item_scores import item_scores
from automerge.evaluation.lm_eval.judge import Judge
from automerge.evaluation.lm_eval.metrics import UNFILTERED
from automerge.evaluation.lm_eval.requests import Item
from automerge.evaluation.lm_eval.task_errors import raised_at
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.forward import LogLikelihood
from automerge.objective import Objective
from automerge.text.error import cause

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TRIED_ITEMS = 5
"""Each task's metrics are tried on about this many of its items."""
MADE_UP_TEXTS = ("no answer", "1", "A")
"""Answers that are tried: a task may be able to read numbers or letters only."""


def try_metrics(
    judge: Judge, task_set: TaskSet, instances: Mapping[Item, Sequence[Instance]]
) -> None:
    """Judge made-up answers to some items of each objective's tasks.

    Raises:
        PreflightError: a metric is not a number, or a task's Python uses an undefined name or
            fails whatever the answer is.
    """
    for objective in task_set.objectives:
        if objective.filter == UNFILTERED:
            continue
        for task in task_set.members[objective.name]:
            if getattr(task_set.tasks[task], "UNSAFE_CODE", False):
                continue
            doc_ids = sorted(doc_id for name, doc_id in instances if name == task)
            for doc_id in doc_ids[:: -(-len(doc_ids) // TRIED_ITEMS)]:
                _try_item(judge, objective, (task, doc_id), instances[task, doc_id])


def _try_item(
    judge: Judge, objective: Objective, item: Item, instances: Sequence[Instance]
) -> None:
    task, doc_id = item
    failures: list[Exception] = []
    texts = MADE_UP_TEXTS if _generates(instances) else MADE_UP_TEXTS[:1]
    for text in texts:
        made_up = tuple(_made_up(instance, text) for instance in instances)
        try:
            judged = judge.task_metrics(
                task, objective.filter, [doc_id], Answers({item: made_up}, 0)
            )
            item_scores(objective, [(item, judged[doc_id])])
        except Exception as error:  # whatever a task's own Python may raise
            failures.append(error)
            if isinstance(error, ImportError | NameError | SyntaxError | MetricError):
                break
        else:
            return
    raise PreflightError(
        f"task {task!r} cannot be scored by {objective.metric!r}, document {doc_id}"
        f"{raised_at(failures[-1])}: {cause(failures[-1])}; choose another metric of the task"
    ) from failures[-1]


def _generates(instances: Sequence[Instance]) -> bool:
    return any(instance.request_type == "generate_until" for instance in instances)


def _made_up(instance: Instance, text: str) -> Answer:
    """Make up an answer of the kind that a request gets."""
    if instance.request_type == "generate_until":
        return text
    if instance.request_type == "loglikelihood_rolling":
        return -1.0
    return LogLikelihood(-1.0 - instance.idx, False)
