"""Smooth losses behind lm-eval's metrics: functions of log-likelihoods, item by item.

They are what slopes follow; what is believed, stored and reported stays the metric. Multiple choice
has the tempered probability of a wrong choice, log-likelihoods and rolling ones −log p in the
metric's unit, and generated answers −log p per token of an answer that is known to be right: one
that another model gave, or else the document's own target unless the metric calls that wrong.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from automerge.evaluation.lm_eval.answers import Answers
from automerge.evaluation.lm_eval.choices import Choices, item_choices
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.item_scores import item_scores
from automerge.evaluation.lm_eval.judge import Judge
from automerge.evaluation.lm_eval.metrics import OUTPUT_TOKENS
from automerge.evaluation.lm_eval.requests import Item, TokenisedItem, TokenisedRequests
from automerge.evaluation.lm_eval.right_answers import judges
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.packing import Request
from automerge.evaluation.smooth import Form, choice_loss
from automerge.objective import Objective
from automerge.trial import Items, Steering

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

FORM: Form = "probability"
"""The probability of a wrong choice: unlike cross-entropy, items that are wrong by far have little
slope, as they have little chance to become right."""

GUESS = 6.0
"""Nats between choices, where no temperature is given: a margin of common tasks."""


TRIED = 8
"""Documents of a task of which one must have a loss."""


@dataclass(frozen=True)
class Linear:
    """A sum of log-likelihoods times factors."""

    factors: tuple[float, ...]

    def __call__(self, log_likelihoods: Sequence[float]) -> tuple[float, Sequence[float]]:
        """Return the loss and its derivative with respect to each log-likelihood."""
        pairs = zip(self.factors, log_likelihoods, strict=True)
        return math.fsum(f * x for f, x in pairs if f), self.factors


@dataclass(frozen=True)
class Answered:
    """The log-likelihood of an answer times a factor."""

    answer: Request
    factor: float

    def __call__(self, log_likelihoods: Sequence[float]) -> tuple[float, Sequence[float]]:
        """Return the loss and its derivative with respect to the one log-likelihood."""
        [value] = log_likelihoods
        return self.factor * value, (self.factor,)


@dataclass(frozen=True)
class Chosen:
    """The tempered probability of a wrong choice, times a weight; further requests do not count."""

    choices: Choices
    temperature: float
    weight: float

    def __call__(self, log_likelihoods: Sequence[float]) -> tuple[float, Sequence[float]]:
        """Return the loss and its derivative with respect to each log-likelihood."""
        n = len(self.choices.lengths)
        own = self.choices.compared(log_likelihoods)
        found = choice_loss(own, self.choices.right, self.temperature, FORM, self.choices.lengths)
        slopes = [self.weight * slope for slope in found.slopes]
        bare = [-slope for slope in slopes] if self.choices.unconditional else []
        rest = len(log_likelihoods) - n - len(bare)
        return self.weight * found.value, [*slopes, *bare, *[0.0] * rest]


Loss: TypeAlias = Linear | Answered | Chosen


@dataclass(frozen=True)
class Unit:
    """Requests of an item on which losses depend together, and these losses by objective.

    `first` is the number of its first request within the item. `extra` says that the requests are
    none of lm-eval's: nobody asked for their answers.
    """

    item: Item
    first: int
    requests: tuple[Request, ...]
    losses: Mapping[str, Loss] = field(default_factory=dict)
    extra: bool = False


class Losses:
    """The losses of a study's objectives.

    Args:
        task_set: The tasks and the objectives they serve.
        instances: lm-eval's requests of every item.
        tokens: Their token ids.
        judge: Tells how many words or bytes an item has.
    """

    def __init__(
        self,
        task_set: TaskSet,
        instances: Mapping[Item, Sequence[Instance]],
        tokens: TokenisedRequests,
        judge: Judge,
    ) -> None:
        self._task_set = task_set
        self._instances = instances
        self._tokens = tokens
        self._judge = judge
        self._sizes: dict[tuple[str, Item], float] = {}
        self._wrong: dict[tuple[str, Item], bool] = {}
        """Whether an objective calls a document's own target wrong."""

    def units(self, items: Items, steering: Steering) -> list[Unit]:
        """Cut the requests of some items into what must be run in one batch.

        Args:
            items: Doc ids by leaf task.
            steering: Temperatures, and right answers to some of the items.

        Returns:
            All log-likelihood requests, in the order of items, and those that only losses need.
            The loss of an objective is the sum of its losses; it is a mean over items.
        """
        by_item: dict[Item, dict[str, Loss]] = {}
        for objective in self._task_set.objectives:
            for item, loss in self._objective_losses(objective, items, steering).items():
                by_item.setdefault(item, {})[objective.name] = loss
        units = []
        for task, ids in items.items():
            for doc_id in ids:
                item = task, doc_id
                units += self._item_units(item, by_item.get(item, {}))
        return units

    def _item_units(self, item: Item, losses: Mapping[str, Loss]) -> list[Unit]:
        requests = self._tokens.of(item, self._instances[item]).requests
        if any(isinstance(loss, Chosen) for loss in losses.values()):
            return [Unit(item, 0, requests, losses)]
        factors = {name: loss.factors for name, loss in losses.items() if isinstance(loss, Linear)}
        units = [
            Unit(item, i, (request,), {name: Linear((row[i],)) for name, row in factors.items()})
            for i, request in enumerate(requests)
        ]
        answered: dict[Request, dict[str, Loss]] = {}
        for name, loss in losses.items():
            if isinstance(loss, Answered):
                answered.setdefault(loss.answer, {})[name] = loss
        units += [Unit(item, 0, (text,), own, extra=True) for text, own in answered.items()]
        return units

    def _objective_losses(
        self, objective: Objective, items: Items, steering: Steering
    ) -> dict[Item, Loss]:
        """An objective's losses by item; items without one are not among them."""
        if objective.metric == OUTPUT_TOKENS:
            return {}
        leaves = self._task_set.members[objective.name]
        weights: dict[Item, float] = {}
        for task in leaves:
            own = [(task, doc_id) for doc_id in items.get(task, ())]
            if objective.aggregation == "mean_of_means":
                weights |= dict.fromkeys(own, 1 / max(len(own), 1) / len(leaves))
            elif objective.aggregation in ("weighted_perplexity", "bits_per_byte"):
                weights |= self._sizes_of(objective, own)
            else:
                weights |= dict.fromkeys(own, 1.0)
        if objective.aggregation in ("weighted_perplexity", "bits_per_byte"):
            total = math.fsum(weights.values())
            unit = math.log(2) if objective.aggregation == "bits_per_byte" else 1.0
            weights = dict.fromkeys(weights, 1 / total / unit if total else 0.0)
        elif objective.aggregation != "mean_of_means":
            weights = dict.fromkeys(weights, 1 / max(len(weights), 1))
        found: dict[Item, Loss] = {}
        for item, weight in weights.items():
            task = self._task_set.tasks[item[0]]
            sign = -1.0 if _against(task, objective) else 1.0
            loss = self._loss(item, objective, sign * weight, steering)
            if loss is not None:
                found[item] = loss
        return found

    def _loss(
        self, item: Item, objective: Objective, weight: float, steering: Steering
    ) -> Loss | None:
        task, instances = self._task_set.tasks[item[0]], self._instances[item]
        kind = instances[0].request_type
        if task.OUTPUT_TYPE == "multiple_choice":
            choices = item_choices(task, objective.metric, instances[0].doc, len(instances))
            if choices is None:
                return None
            temperature = steering.temperatures.get(item[0]) or GUESS / statistics.median(
                choices.lengths
            )
            return Chosen(choices, temperature, weight)
        if kind == "generate_until":
            answer = self._answer(item, objective, steering)
            return None if answer is None else Answered(answer, -weight / len(answer.targets))
        if task.OUTPUT_TYPE not in ("loglikelihood", "loglikelihood_rolling"):
            return None
        known: TokenisedItem = self._tokens.of(item, instances)
        return Linear((-weight,) * len(known.requests))

    def _answer(self, item: Item, objective: Objective, steering: Steering) -> Request | None:
        """What a model would have to generate; None where nothing is known that fits."""
        task, instance = self._task_set.tasks[item[0]], self._instances[item][0]
        delimiter = str(getattr(task.config, "target_delimiter", " "))
        context = instance.args[0]
        text = steering.answers.get(objective.name, {}).get(item)
        if text is not None:
            given = self._tokens.continued(context, self._tokens.as_generated(text, delimiter))
            if given is not None:
                return given
        target = _target(task, instance.doc)
        if target is None or self._is_wrong(target, item, objective):
            return None
        return self._tokens.continued(context, delimiter + target)

    def _is_wrong(self, target: str, item: Item, objective: Objective) -> bool:
        """Whether a document's target is no answer, such as a number that filters do not find."""
        key = objective.name, item
        if key not in self._wrong:
            self._wrong[key] = self._judge.finds_wrong(objective, item, target)
        return self._wrong[key]

    def _sizes_of(self, objective: Objective, items: Sequence[Item]) -> dict[Item, float]:
        """How many words or bytes items have: what the metric says whatever the answers are."""
        key = objective.name
        unknown = [item for item in items if (key, item) not in self._sizes]
        if unknown:
            [task] = {task for task, _ in unknown}
            made_up = {item: (-1.0,) * len(self._instances[item]) for item in unknown}
            ids = [doc_id for _, doc_id in unknown]
            judged = self._judge.task_metrics(task, objective.filter, ids, Answers(made_up, 0))
            scores = item_scores(objective, [(item, judged[item[1]]) for item in unknown])
            pairs = zip(scores.items, scores.weights or (), strict=True)
            self._sizes |= {(key, item): size for item, size in pairs}
        return {item: self._sizes[key, item] for item in items}


def smooth_objectives(task_set: TaskSet) -> tuple[str, ...]:
    """List the objectives that have a loss, as far as the first documents of their tasks show."""
    with isolated():
        return tuple(
            objective.name
            for objective in task_set.objectives
            if objective.metric != OUTPUT_TOKENS
            and all(
                _has_loss(task_set.tasks[leaf], objective)
                for leaf in task_set.members[objective.name]
            )
        )


def _has_loss(task: Task, objective: Objective) -> bool:
    documents = list(islice(task.eval_docs, TRIED))
    if task.OUTPUT_TYPE == "multiple_choice":
        return any(
            item_choices(
                task, objective.metric, document, factor * len(task.doc_to_choice(document))
            )
            for document in documents
            for factor in (1, 2)
        )
    if task.OUTPUT_TYPE == "generate_until":
        return judges(objective, task) or any(_target(task, document) for document in documents)
    return task.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling")


def _target(task: Task, document: Any) -> str | None:
    """Return a document's target where it is a text that a model might generate, not a test of it.

    A list of targets stands for its first.
    """
    if getattr(task.config, "unsafe_code", False):
        return None
    target = task.doc_to_target(document)
    target = target[0] if isinstance(target, list) and target else target
    return target if isinstance(target, str) and target.strip() else None


def _against(task: Task, objective: Objective) -> bool:
    """Whether an objective wants less of what the loss wants more of."""
    higher = task.higher_is_better().get(objective.metric)
    if higher is None:
        higher = objective.aggregation in ("mean", "mean_of_means")
    return bool(higher) == (objective.direction == "minimize")
