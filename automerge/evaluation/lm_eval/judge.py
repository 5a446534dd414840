"""Judge a model's answers with lm-eval's own filters and metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automerge.evaluation.guards import MetricError
from automerge.evaluation.lm_eval.answers import Answers
from automerge.evaluation.lm_eval.choices import margins
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.item_scores import check_perplexity, item_scores
from automerge.evaluation.lm_eval.limits import OutOfTime, alarm
from automerge.evaluation.lm_eval.metrics import (
    OUTPUT_TOKENS,
    UNFILTERED,
    fallbacks,
    filter_ensemble,
)
from automerge.evaluation.lm_eval.requests import Item
from automerge.evaluation.lm_eval.right_answers import judges, right_answers
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.forward import LogLikelihood
from automerge.objective import ItemScores, Objective
from automerge.trial import Items

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

FILTER_SECONDS = 10.0
ANSWER_SECONDS = 0.1
"""Time limit of a task's filter: for all answers, and in addition for each of them."""


class Judge:
    """Judges answers to the requests of a study's tasks.

    Args:
        task_set: the tasks and the objectives they serve.
        instances: lm-eval's requests of every item.
        count_tokens: how many tokens a generated text has.
    """

    def __init__(
        self,
        task_set: TaskSet,
        instances: Mapping[Item, Sequence[Instance]],
        count_tokens: Callable[[str], int],
    ) -> None:
        self._task_set = task_set
        self._instances = instances
        self._count = count_tokens

    def judge(
        self, items: Items, answers: Answers
    ) -> tuple[dict[str, ItemScores], dict[str, float]]:
        """Turn answers into item scores of the objectives, and notes on what the filters did.

        Raises:
            InvalidOutput: the model is broken.
            MetricError: a task returned something that is not a number, or a filter takes too long.
        """
        objectives = self._task_set.objectives
        members = self._task_set.members
        metrics: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
        notes: dict[str, float] = {}
        with isolated():
            for objective in objectives:
                for task in members[objective.name]:
                    key = (task, objective.filter)
                    if key in metrics or not items.get(task):
                        continue
                    if objective.filter == UNFILTERED:
                        metrics[key] = self._count_tokens(task, items[task], answers)
                    else:
                        metrics[key] = self.task_metrics(*key, items[task], answers)
                        notes |= self._extraction_note(*key, items[task])
        scores = {
            objective.name: item_scores(
                objective,
                [
                    ((task, doc_id), metrics[task, objective.filter][doc_id])
                    for task in members[objective.name]
                    for doc_id in items.get(task, ())
                ],
            )
            for objective in objectives
        }
        for objective in objectives:
            check_perplexity(objective, scores[objective.name])
        return scores, notes

    def margins(self, scores: Mapping[str, ItemScores], answers: Answers) -> dict[str, ItemScores]:
        """Return margins for the objectives whose metric takes the likeliest choice."""
        found = {
            objective.name: margins(
                objective,
                scores[objective.name],
                self._task_set.tasks,
                lambda item: self._instances[item][0].doc,
                answers.by_item,
            )
            for objective in self._task_set.objectives
        }
        return {name: own for name, own in found.items() if own.items}

    def right_answers(
        self, scores: Mapping[str, ItemScores], answers: Answers
    ) -> dict[str, dict[Item, str]]:
        """Return the generated texts that a metric called entirely right, by objective."""
        found = {
            objective.name: right_answers(
                objective, scores[objective.name], self._task_set.tasks, answers.by_item
            )
            for objective in self._task_set.objectives
        }
        return {name: own for name, own in found.items() if own}

    def finds_wrong(self, objective: Objective, item: Item, text: str) -> bool:
        """Return whether an objective's metric calls a generated text entirely wrong."""
        task, doc_id = item
        if not judges(objective, self._task_set.tasks[task]):
            return False
        judged = self.task_metrics(task, objective.filter, [doc_id], Answers({item: (text,)}, 0))
        return item_scores(objective, [(item, judged[doc_id])]).values == (0.0,)

    def task_metrics(
        self, name: str, filter_name: str, doc_ids: Sequence[int], answers: Answers
    ) -> dict[int, Mapping[str, Any]]:
        """Let one of a task's filters read the answers, and its `process_results` judge them.

        Returns:
            What `process_results` returned, by document.

        Raises:
            MetricError: the filter takes too long.
        """
        from lm_eval.api.task import ConfigurableTask

        task = self._task_set.tasks[name]
        instances: list[Instance] = []
        for doc_id in doc_ids:
            for instance, answer in zip(
                self._instances[name, doc_id], answers.by_item[name, doc_id], strict=True
            ):
                plain = tuple(answer) if isinstance(answer, LogLikelihood) else answer
                instance.resps = [plain] * instance.repeats
                instance.filtered_resps = {}
                instances.append(instance)
        _apply_filter(task, filter_name, instances)
        foreign = type(task) is not ConfigurableTask or callable(task.config.process_results)
        judged = {}
        for doc_id in doc_ids:
            own = self._instances[name, doc_id]
            document = copy.deepcopy(own[0].doc) if foreign else own[0].doc
            results = [instance.filtered_resps[filter_name] for instance in own]
            judged[doc_id] = task.process_results(document, results)
        return judged

    def _count_tokens(
        self, task: str, doc_ids: Sequence[int], answers: Answers
    ) -> dict[int, Mapping[str, Any]]:
        """Count the tokens of each answer, up to where generation stopped."""
        return {
            doc_id: {
                OUTPUT_TOKENS: sum(self._count(str(text)) for text in answers.by_item[task, doc_id])
            }
            for doc_id in doc_ids
        }

    def _extraction_note(
        self, name: str, filter_name: str, doc_ids: Sequence[int]
    ) -> dict[str, float]:
        """Return the share of judged answers in which a task's filter found nothing to judge."""
        found_nothing = fallbacks(self._task_set.tasks[name], filter_name)
        if not found_nothing:
            return {}
        signs = [*found_nothing, *([sign] for sign in found_nothing)]
        answers = [
            instance.filtered_resps[filter_name]
            for doc_id in doc_ids
            for instance in self._instances[name, doc_id]
        ]
        missed = sum(answer in signs for answer in answers)
        return {f"{name},{filter_name}/unextracted": missed / len(answers)}


def _apply_filter(task: Task, name: str, instances: Sequence[Instance]) -> None:
    """Let a task's filter read answers.

    Raises:
        MetricError: it takes too long, as a regular expression may for some answers.
    """
    seconds = FILTER_SECONDS + ANSWER_SECONDS * len(instances)
    try:
        with alarm(seconds):
            filter_ensemble(task, name).apply(list(instances))
    except OutOfTime:
        raise MetricError(
            f"filter {name!r} of task {task.task_name!r} took more than {seconds:.3g} s for "
            f"{len(instances)} answers; simplify its regular expressions: nested repeats such as "
            "(a+)+ take time without end"
        ) from None
