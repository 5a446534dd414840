"""What lm-eval's metrics compare in a multiple-choice item: which answers, divided by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.evaluation.lm_eval.requests import Item
from automerge.evaluation.smooth import margin
from automerge.objective import ItemScores, Objective

if TYPE_CHECKING:
    from lm_eval.api.task import Task
CHOICE_METRICS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info"})
"""lm-eval's metrics that are 1 where the choice with the largest score is a right one."""


@dataclass(frozen=True)
class Choices:
    """An item's choices as a metric of lm-eval scores them.

    The score of choice k is the k-th request's log-likelihood / `lengths[k]`; with `unconditional`,
    that of the request `len(lengths)` further on, the choice without its context, is subtracted.
    """

    right: tuple[int, ...]
    lengths: tuple[float, ...]
    unconditional: bool = False

    def margin(self, log_likelihoods: Sequence[float]) -> float:
        """Return the margin of `smooth.margin`, from the log-likelihoods of all requests."""
        return margin(self.compared(log_likelihoods), self.right, self.lengths)

    def compared(self, log_likelihoods: Sequence[float]) -> list[float]:
        """Return each choice's log-likelihood before it is divided."""
        n = len(self.lengths)
        own = list(log_likelihoods[:n])
        if self.unconditional:
            own = [mine - bare for mine, bare in zip(own, log_likelihoods[n:], strict=True)]
        return own


def margins(
    objective: Objective,
    scores: ItemScores,
    tasks: Mapping[str, Task],
    documents: Callable[[Item], Any],
    answers: Mapping[Item, Sequence[Any]],
) -> ItemScores:
    """Return the margins of those of an objective's items that have one.

    Margins that contradict the score, which a filter that changes answers can cause, are left out.

    Args:
        objective: the objective whose metric decides.
        scores: the metric's item scores.
        tasks: the leaf tasks.
        documents: the document of an item.
        answers: the model's answers to each item's requests.
    """
    found: dict[Item, float] = {}
    for item, score in zip(scores.items, scores.values, strict=True):
        own = answers[item]
        choices = item_choices(tasks[item[0]], objective.metric, documents(item), len(own))
        if choices is not None:
            value = choices.margin([answer.logprob for answer in own])
            if value == 0 or (value > 0) == (score > 0):
                found[item] = value
    return ItemScores(tuple(found), tuple(found.values()))


def item_choices(task: Task, metric: str, document: Any, n_requests: int) -> Choices | None:
    """Return what a metric compares in one document.

    Args:
        task: a leaf task.
        metric: lm-eval's name of it, without the filter.
        document: as the task's requests hold it.
        n_requests: how many requests the document has.

    Returns:
        None if this is not known: for another kind of task or metric, a task that judges by its own
        code, or a document whose right answers are none or all of its choices.
    """
    if metric not in CHOICE_METRICS or not _is_plain(task):
        return None
    texts = list(task.doc_to_choice(document))
    unconditional = metric == "acc_mutual_info"
    if n_requests not in ((2 * len(texts),) if unconditional else (len(texts), 2 * len(texts))):
        return None
    target = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    targets = target if isinstance(target, list) else [target]
    right = {texts.index(t) if isinstance(t, str) and t in texts else t for t in targets}
    if not all(isinstance(index, int) and 0 <= index < len(texts) for index in right):
        return None
    if not 0 < len(right) < len(texts):
        return None
    lengths = [_length(metric, text) for text in texts]
    return Choices(tuple(sorted(right)), tuple(lengths), unconditional) if all(lengths) else None


def _length(metric: str, choice: str) -> float:
    """Return what a metric divides a choice's log-likelihood by."""
    if metric == "acc_norm":
        return float(len(choice))
    return float(len(choice.encode())) if metric == "acc_bytes" else 1.0


def _is_plain(task: Task) -> bool:
    """Return whether lm-eval's own code judges a task, as a multiple-choice task."""
    from lm_eval.api.task import ConfigurableTask

    return (
        type(task) is ConfigurableTask
        and task.OUTPUT_TYPE == "multiple_choice"
        and not callable(task.config.process_results)
    )
