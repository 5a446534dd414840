"""Score a live model on items of the study's tasks, as lm-eval's command line would."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from automerge.checkpoints.kinds import ModelKind, kind_of
from automerge.evaluation.base import BATCH_SIZE, Backward, Scored
from automerge.evaluation.generation.base import Choosing
from automerge.evaluation.generation.table import AUTO, GENERATORS
from automerge.evaluation.guards import check_log_likelihoods
from automerge.evaluation.lm_eval.answers import Answer, Answers
from automerge.evaluation.lm_eval.generated_answers import generate
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.judge import Judge
from automerge.evaluation.lm_eval.losses import Losses
from automerge.evaluation.lm_eval.metric_check import try_metrics
from automerge.evaluation.lm_eval.requests import Item, TokenisedRequests, build_requests
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.backward import run_backwards
from automerge.evaluation.loglikelihood.batch_size import BatchSize, batches_of, run_fitting
from automerge.evaluation.loglikelihood.encoded import EncodedLogLikelihoods
from automerge.evaluation.loglikelihood.forward import (
    LogLikelihood,
    Path,
    Sets,
    find_path,
    log_likelihoods,
)
from automerge.evaluation.loglikelihood.graph import Graph
from automerge.evaluation.loglikelihood.packing import Request
from automerge.objective import ItemScores
from automerge.trial import BATCHED, GENERATED, GENERATING, Items, Steering

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LmEvalScorer:
    """Scores the weights that a live model holds at the call; keeps nothing between calls.

    Requests are built once, for all documents, and tokenised on first use. Numbers are those of
    `lm_eval run --model hf --model_args softmax_dtype=float32,...` (see `samples`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task_set: TaskSet,
        batch_size: BatchSize = BATCH_SIZE,
        max_length: int | None = None,
        graph_bytes: int | None = None,
        generator: str = AUTO,
        cache_bytes: int | None = None,
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        encoder = kind_of(type(model), model.config) is ModelKind.ENCODER_DECODER
        with isolated():
            self._lm = HFLM(
                pretrained=model,
                backend="seq2seq" if encoder else "causal",
                tokenizer=tokenizer,
                batch_size=BATCH_SIZE if batch_size == "auto" else batch_size,
                max_length=max_length,
                softmax_dtype="float32",
            )
            self._generator = GENERATORS[generator](self._lm, cache_bytes)
        self._generator_name = generator
        self._prompt_length = cache(lambda prompt: len(self._lm.tok_encode(prompt)))
        self._model = model
        self._task_set = task_set
        self._batches = batches_of(batch_size, model, cache_bytes)
        self._graph_bytes = graph_bytes
        self._instances = build_requests(task_set.tasks, task_set.settings, self._lm)
        self._tokens = TokenisedRequests(self._lm)
        self._judge = Judge(task_set, self._instances, self._count_tokens)
        self._losses = Losses(task_set, self._instances, self._tokens, self._judge)
        self._encoded = EncodedLogLikelihoods(model) if encoder else None
        self._path: Path | None = None
        self._graphs: dict[Path, Graph] = {}
        with isolated():
            try_metrics(self._judge, task_set, self._instances)

    def score(self, items: Items) -> Scored:
        """Answer every request of the items, and let lm-eval's filters and metrics judge them.

        Raises:
            InvalidOutput: the model is broken (see `guards`).
            MetricError: a task returned something that is not a number.
        """
        began = time.perf_counter()
        return self._judged(items, self.answer(items), began)

    def score_with_slopes(self, items: Items, steering: Steering, backward: Backward) -> Scored:
        """Score as `score` does, and hand over the losses behind the scores.

        Models with an encoder have none.

        Raises:
            NoRoom: losses cannot be run backwards in the memory there is.
            InvalidOutput: the model is broken (see `guards`).
            MetricError: a task returned something that is not a number.
        """
        if self._encoded is not None:
            return self.score(items)
        began = time.perf_counter()
        chosen = self._chosen(items)
        with isolated():
            units = self._losses.units(items, steering)
            losses: dict[str, float] = {}

            def derivatives(number: int, values: Sequence[float]) -> dict[str, Sequence[float]]:
                rows = {}
                for name, loss in units[number].losses.items():
                    value, rows[name] = loss(values)
                    losses[name] = losses.get(name, 0.0) + value
                return rows

            path = self._find_path([r for unit in units for r in unit.requests])
            requests = [unit.requests for unit in units]
            kinds = [frozenset(unit.losses) for unit in units]
            found, tokens = run_backwards(
                self._model,
                path,
                requests,
                kinds,
                derivatives,
                backward,
                self._batches.requests(_longest(r for unit in requests for r in unit)),
                self._graph(path),
            )
        answered: dict[Item, list[LogLikelihood]] = {item: [] for item in chosen}
        for unit, own in zip(units, found, strict=True):
            answered[unit.item] += [] if unit.extra else own
        scored = self._judged(items, self._answers(chosen, answered, tokens), began)
        return replace(scored, losses=losses)

    def _graph(self, path: Path) -> Graph | None:
        """Return what knows how much a batch keeps, which takes passes to find out: once a path."""
        if self._graph_bytes is None:
            return None
        if path not in self._graphs:
            self._graphs[path] = Graph(self._model, path, self._graph_bytes)
        return self._graphs[path]

    def _judged(self, items: Items, answers: Answers, began: float) -> Scored:
        answered = time.perf_counter()
        scores, notes = self.judge(items, answers)
        margins = self._judge.margins(scores, answers)
        if self._batches.said:
            notes[f"{BATCHED}{self._batches.said}"] = 1.0
        ended = time.perf_counter()
        if answers.generate_s:
            notes[GENERATING] = min(answers.generate_s / (answered - began), 1.0)
        return Scored(
            scores,
            answered - began,
            ended - answered,
            answers.tokens,
            {**answers.notes, **notes},
            margins,
            answers=self._judge.right_answers(scores, answers),
        )

    def requests(self, items: Items) -> list[Request]:
        """Return the items' log-likelihood requests as token ids."""
        chosen = self._chosen(items)
        return [r for item, own in chosen.items() for r in self._tokens.of(item, own).requests]

    def answer(self, items: Items) -> Answers:
        """Run the model on every request of the items.

        Raises:
            InvalidOutput: the model is broken (see `guards`).
        """
        chosen = self._chosen(items)
        with isolated():
            answered, tokens = self._score_tokens(chosen)
        return self._answers(chosen, answered, tokens)

    def _answers(
        self,
        chosen: Mapping[Item, Sequence[Instance]],
        answered: Mapping[Item, Sequence[LogLikelihood]],
        tokens: int,
    ) -> Answers:
        """Put answers to log-likelihood requests together with those that are generated now."""
        self._check(chosen, answered)
        found: dict[int, Answer] = {}
        for item, instances in chosen.items():
            for instance, start, stop in self._tokens.of(item, instances).spans:
                own = answered[item][start:stop]
                rolling = instance.request_type == "loglikelihood_rolling"
                found[id(instance)] = sum(a.logprob for a in own) if rolling else own[0]
        self._generator.weights_changed()
        with isolated():
            notes: dict[str, float] = {}
            generate_s = 0.0
            for task in dict.fromkeys(name for name, _ in chosen):
                waiting = [
                    instance
                    for (name, _), instances in chosen.items()
                    if name == task
                    for instance in instances
                    if instance.request_type == "generate_until"
                ]
                if waiting:
                    began = time.perf_counter()
                    texts, more, task_notes = generate(
                        self._lm, self._generator, task, waiting, self._prompt_length
                    )
                    generate_s += time.perf_counter() - began
                    tokens += more
                    notes.update(task_notes)
                    notes[f"{GENERATED}{self._generated}"] = 1.0
                    found.update(zip(map(id, waiting), texts, strict=True))
        by_item = {
            item: tuple(found[id(instance)] for instance in instances)
            for item, instances in chosen.items()
        }
        return Answers(by_item, tokens, notes, generate_s)

    @property
    def _generated(self) -> str:
        """How texts are generated, for people."""
        generator = self._generator
        return generator.chosen if isinstance(generator, Choosing) else self._generator_name

    def judge(
        self, items: Items, answers: Answers
    ) -> tuple[dict[str, ItemScores], dict[str, float]]:
        """Turn answers into item scores with lm-eval's own filters and metrics, and notes on them.

        Raises:
            InvalidOutput: the model is broken.
            MetricError: a task returned something that is not a number, or a filter takes too long.
        """
        return self._judge.judge(items, answers)

    def _chosen(self, items: Items) -> dict[Item, tuple[Instance, ...]]:
        return {
            (task, doc_id): self._instances[task, doc_id]
            for task, ids in items.items()
            for doc_id in ids
        }

    def _score_tokens(
        self, chosen: Mapping[Item, Sequence[Instance]]
    ) -> tuple[dict[Item, Sequence[LogLikelihood]], int]:
        """Answer log-likelihood requests, item by item, and say how many tokens ran."""
        tokenised = {item: self._tokens.of(item, own).requests for item, own in chosen.items()}
        requests = [request for own in tokenised.values() for request in own]
        if not requests:
            return dict.fromkeys(chosen, ()), 0
        by_task: dict[str, list[int]] = {}
        first: dict[Item, int] = {}
        total = 0
        for item, own in tokenised.items():
            first[item] = total
            total += len(own)
            by_task.setdefault(item[0], []).extend(range(first[item], total))
        sets = [numbers for numbers in by_task.values() if numbers]
        answered, tokens = run_fitting(
            self._batches, _longest(requests), lambda size: self._run(requests, size, sets)
        )
        return {
            item: answered[first[item] : first[item] + len(own)] for item, own in tokenised.items()
        }, tokens

    def _run(
        self, requests: Sequence[Request], size: int, sets: Sets
    ) -> tuple[list[LogLikelihood], int]:
        """Run requests in batches of a size; return their answers, and how many tokens ran."""
        if self._encoded is not None:
            return self._encoded.run(requests, size)
        return log_likelihoods(self._model, self._find_path(requests), requests, size, sets)

    def _check(
        self,
        chosen: Mapping[Item, Sequence[Instance]],
        answered: Mapping[Item, Sequence[LogLikelihood]],
    ) -> None:
        """Refuse log-likelihoods that no working model gives, task by task."""
        for task in dict.fromkeys(name for name, _ in chosen):
            own = [item for item in chosen if item[0] == task and answered[item]]
            requests = [r for item in own for r in self._tokens.of(item, chosen[item]).requests]
            values = [answer.logprob for item in own for answer in answered[item]]
            if own:
                check_log_likelihoods(task, values, [len(r.targets) for r in requests], len(own))

    def _find_path(self, requests: Sequence[Request]) -> Path:
        """Compare ways of running the model once, on the first weights that tell them apart."""
        if self._path is not None:
            return self._path
        if not requests:
            return Path()
        path = find_path(self._model, requests)
        if path != Path():
            self._path = path
        return path

    def _count_tokens(self, text: str) -> int:
        return len(self._lm.tok_encode(text, add_special_tokens=False))


def _longest(requests: Iterable[Request]) -> int:
    """Return the tokens of the longest request; 1 if there is none."""
    return max((len(request.inputs) for request in requests), default=1)
