"""Score a live model on items of the study's tasks, as lm-eval's command line would."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from automerge.errors import PreflightError
from automerge.evaluation.base import Scored
from automerge.evaluation.generation.base import Generator
from automerge.evaluation.generation.static import StaticGenerator
from automerge.evaluation.guards import (
    Generation,
    InvalidOutput,
    MetricError,
    check_generations,
    check_log_likelihoods,
    generation_notes,
)
from automerge.evaluation.lm_eval.choices import margins
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.limits import OutOfTime, alarm
from automerge.evaluation.lm_eval.metrics import (
    OUTPUT_TOKENS,
    UNFILTERED,
    fallbacks,
    filter_ensemble,
)
from automerge.evaluation.lm_eval.requests import Item, TokenisedRequests, build_requests
from automerge.evaluation.lm_eval.task_errors import cause, raised_at
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.forward import (
    LogLikelihood,
    Path,
    find_path,
    log_likelihoods,
)
from automerge.evaluation.loglikelihood.packing import Request
from automerge.objective import MAX_LOG_PERPLEXITY, ItemScores, Objective
from automerge.trial import Items

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Answer: TypeAlias = LogLikelihood | float | str
"""What lm-eval's `loglikelihood`, `loglikelihood_rolling` and `generate_until` return."""
TRIED_ITEMS = 5
"""Each task's metrics are tried on about so many of its items."""
MADE_UP_TEXTS = ("no answer", "1", "A")
"""What is tried as an answer: a task may read numbers or letters only."""
FILTER_SECONDS = 10.0
ANSWER_SECONDS = 0.1
"""Longest time for a task's filter: for all answers, and for each of them in addition."""


@dataclass(frozen=True)
class Answers:
    """A model's answers to the requests of some items, in lm-eval's order within an item."""

    by_item: Mapping[Item, tuple[Answer, ...]]
    tokens: int
    notes: Mapping[str, float] = field(default_factory=dict)


class LmEvalScorer:
    """Scores whatever weights a live model holds at the call; keeps nothing between calls.

    Requests are built once, for all documents, and tokenised on first use. Numbers are those of
    `lm_eval run --model hf --model_args softmax_dtype=float32,...` (see `samples`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task_set: TaskSet,
        batch_size: int = 16,
        max_length: int | None = None,
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        with isolated():
            self._lm = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                max_length=max_length,
                softmax_dtype="float32",
            )
        self._generator: Generator = StaticGenerator(self._lm)
        self._model = model
        self._task_set = task_set
        self._batch_size = batch_size
        self._instances = build_requests(task_set.tasks, task_set.settings, self._lm)
        self._tokens = TokenisedRequests(self._lm)
        self._path: Path | None = None
        with isolated():
            self._try_metrics()

    def score(self, items: Items) -> Scored:
        """Answer every request of the items, and let lm-eval's filters and metrics judge them.

        Raises:
            InvalidOutput: the model is broken (see `guards`).
            MetricError: a task returned something that is not a number.
        """
        began = time.perf_counter()
        answers = self.answer(items)
        answered = time.perf_counter()
        scores, notes = self._judge(items, answers)
        found = self._margins(scores, answers)
        ended = time.perf_counter()
        notes = {**answers.notes, **notes}
        return Scored(scores, answered - began, ended - answered, answers.tokens, notes, found)

    def requests(self, items: Items) -> list[Request]:
        """The items' log-likelihood requests as token ids."""
        chosen = self._chosen(items)
        return [r for item, own in chosen.items() for r in self._tokens.of(item, own).requests]

    def answer(self, items: Items) -> Answers:
        """Run the model on every request of the items."""
        chosen = self._chosen(items)
        self._generator.weights_changed()
        with isolated():
            found, tokens = self._score_tokens(chosen)
            notes: dict[str, float] = {}
            for task in items:
                waiting = [
                    instance
                    for (name, _), instances in chosen.items()
                    if name == task
                    for instance in instances
                    if instance.request_type == "generate_until"
                ]
                if waiting:
                    texts, more, task_notes = self._generate(task, waiting)
                    tokens += more
                    notes.update(task_notes)
                    found.update(zip(map(id, waiting), texts, strict=True))
        by_item = {
            item: tuple(found[id(instance)] for instance in instances)
            for item, instances in chosen.items()
        }
        return Answers(by_item, tokens, notes)

    def judge(self, items: Items, answers: Answers) -> dict[str, ItemScores]:
        """Turn answers into item scores with lm-eval's own filters and `process_results`."""
        return self._judge(items, answers)[0]

    def _judge(
        self, items: Items, answers: Answers
    ) -> tuple[dict[str, ItemScores], dict[str, float]]:
        """Item scores of the objectives, and notes on what the filters did."""
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
                        metrics[key] = self._judge_task(*key, items[task], answers)
                        notes |= self._extraction_note(*key, items[task])
        scores = {
            objective.name: _item_scores(
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
            _check_perplexity(objective, scores[objective.name])
        return scores, notes

    def _margins(self, scores: Mapping[str, ItemScores], answers: Answers) -> dict[str, ItemScores]:
        """Margins of the objectives whose metric takes the likeliest choice."""
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

    def _try_metrics(self) -> None:
        """Judge some items of each objective's tasks by made-up answers.

        Raises:
            PreflightError: a metric is no number, a task's Python has a name that is not there, or
                it fails whatever the answer is.
        """
        for objective in self._task_set.objectives:
            if objective.filter == UNFILTERED:
                continue
            for task in self._task_set.members[objective.name]:
                if getattr(self._task_set.tasks[task], "UNSAFE_CODE", False):
                    continue
                doc_ids = sorted(doc_id for name, doc_id in self._instances if name == task)
                for doc_id in doc_ids[:: -(-len(doc_ids) // TRIED_ITEMS)]:
                    self._try_item(objective, (task, doc_id))

    def _try_item(self, objective: Objective, item: Item) -> None:
        task, doc_id = item
        failures: list[Exception] = []
        texts = MADE_UP_TEXTS if _generates(self._instances[item]) else MADE_UP_TEXTS[:1]
        for text in texts:
            made_up = tuple(_made_up(instance, text) for instance in self._instances[item])
            try:
                judged = self._judge_task(
                    task, objective.filter, [doc_id], Answers({item: made_up}, 0)
                )
                _item_scores(objective, [(item, judged[doc_id])])
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

    def _chosen(self, items: Items) -> dict[Item, tuple[Instance, ...]]:
        return {
            (task, doc_id): self._instances[task, doc_id]
            for task, ids in items.items()
            for doc_id in ids
        }

    def _score_tokens(
        self, chosen: Mapping[Item, Sequence[Instance]]
    ) -> tuple[dict[int, Answer], int]:
        """Answers to log-likelihood requests by the instance's identity, and the tokens run."""
        tokenised = {item: self._tokens.of(item, own) for item, own in chosen.items()}
        tokenised = {item: found for item, found in tokenised.items() if found.spans}
        requests = [request for found in tokenised.values() for request in found.requests]
        if not requests:
            return {}, 0
        by_task: dict[str, list[int]] = {}
        counts: Counter[str] = Counter()
        first: dict[Item, int] = {}
        total = 0
        for item, found in tokenised.items():
            first[item] = total
            total += len(found.requests)
            counts[item[0]] += 1
            by_task.setdefault(item[0], []).extend(range(first[item], total))
        path = self._find_path(requests)
        answered, tokens = log_likelihoods(
            self._model, path, requests, self._batch_size, list(by_task.values())
        )
        for task, numbers in by_task.items():
            check_log_likelihoods(
                task,
                [answered[number].logprob for number in numbers],
                [len(requests[number].targets) for number in numbers],
                counts[task],
            )
        answers: dict[int, Answer] = {}
        for item, found in tokenised.items():
            for instance, start, stop in found.spans:
                own = answered[first[item] + start : first[item] + stop]
                rolling = instance.request_type == "loglikelihood_rolling"
                answers[id(instance)] = sum(a.logprob for a in own) if rolling else own[0]
        return answers, tokens

    def _find_path(self, requests: Sequence[Request]) -> Path:
        """Compare ways of running the model once, on the first weights that tell them apart."""
        if self._path is not None:
            return self._path
        path = find_path(self._model, requests)
        if path != Path():
            self._path = path
        return path

    def _generate(
        self, task: str, instances: Sequence[Instance]
    ) -> tuple[list[str], int, dict[str, float]]:
        """Greedy answers of one task by `HFLM` itself, the tokens they took, and notes on them."""
        lm = self._lm
        shortest = min((instance.args[0] for instance in instances), key=len)
        prompt, mask = lm.tok_batch_encode([shortest], left_truncate_len=lm.max_length)
        with torch.no_grad():
            logits = self._model(
                input_ids=prompt.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                use_cache=False,
            ).logits
        if not torch.isfinite(logits).all():
            raise InvalidOutput(
                f"logits not finite in task {task!r}; the merged weights overflow or hold NaN"
            )
        texts = self._generator.generate(instances)
        generations = []
        for instance, text in zip(instances, texts, strict=True):
            own = list(lm.tok_encode(text, add_special_tokens=False))
            limit = _max_gen_toks(instance, lm.max_gen_toks)
            generations.append(Generation(text, own, len(own) >= limit))
        check_generations(task, generations)
        tokens = sum(len(generation.tokens) for generation in generations)
        tokens += sum(len(lm.tok_encode(i.args[0])) for i in instances)
        return texts, tokens, generation_notes(task, generations)

    def _count_tokens(
        self, task: str, doc_ids: Sequence[int], answers: Answers
    ) -> dict[int, Mapping[str, Any]]:
        """How many tokens each answer has, up to where generation stopped."""
        return {
            doc_id: {
                OUTPUT_TOKENS: sum(
                    len(self._lm.tok_encode(text, add_special_tokens=False))
                    for text in answers.by_item[task, doc_id]
                )
            }
            for doc_id in doc_ids
        }

    def _judge_task(
        self, name: str, filter_name: str, doc_ids: Sequence[int], answers: Answers
    ) -> dict[int, Mapping[str, Any]]:
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

    def _extraction_note(
        self, name: str, filter_name: str, doc_ids: Sequence[int]
    ) -> dict[str, float]:
        """The share of judged answers in which a task's filter found nothing to judge."""
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


def _item_scores(
    objective: Objective, judged: Iterable[tuple[Item, Mapping[str, Any]]]
) -> ItemScores:
    items: list[Item] = []
    values: list[float] = []
    weights: list[float] = []
    weighted = objective.aggregation in ("weighted_perplexity", "bits_per_byte")
    for item, metrics in judged:
        if objective.metric not in metrics:
            raise MetricError(
                f"task {item[0]!r} returned no {objective.metric!r} for item {item[1]}; "
                f"it returned {', '.join(map(repr, metrics))}"
            )
        value = metrics[objective.metric]
        number, weight = value if weighted else (value, 1.0)
        items.append(item)
        values.append(_number(number, objective, item))
        weights.append(_number(weight, objective, item))
    return ItemScores(tuple(items), tuple(values), tuple(weights) if weighted else None)


def _number(value: Any, objective: Objective, item: Item) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str):
        raise MetricError(
            f"{objective.metric!r} of item {item[1]} in task {item[0]!r} is {value!r}; "
            "expected a finite number"
        )
    return number


def _check_perplexity(objective: Objective, scores: ItemScores) -> None:
    """Refuse perplexities beyond what a working model has; floats would overflow.

    Raises:
        InvalidOutput: naming the task.
    """
    if objective.aggregation not in ("perplexity", "weighted_perplexity") or not scores.values:
        return
    weight = sum(scores.weights) if scores.weights is not None else len(scores.values)
    logarithm = -math.fsum(scores.values) / weight if weight else 0.0
    if logarithm > MAX_LOG_PERPLEXITY:
        raise InvalidOutput(
            f"{objective.metric} of task {objective.task!r} is e^{logarithm:.0f}; "
            "the merged weights are broken"
        )


def _generates(instances: Sequence[Instance]) -> bool:
    return any(instance.request_type == "generate_until" for instance in instances)


def _made_up(instance: Instance, text: str) -> Answer:
    """An answer of the kind that a request gets."""
    if instance.request_type == "generate_until":
        return text
    if instance.request_type == "loglikelihood_rolling":
        return -1.0
    return LogLikelihood(-1.0 - instance.idx, False)


def _max_gen_toks(instance: Instance, default: int) -> int:
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(normalize_gen_kwargs(instance.args[1], default)["max_gen_toks"])
