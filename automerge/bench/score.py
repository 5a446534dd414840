"""The cost of scoring a merged model, against stock lm-eval and the minimum number of tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from automerge import demo
from automerge.bench.merge import now, seconds, varied
from automerge.bench.score_tasks import Lengths, task_folder
from automerge.bench.shapes import SIZES, empty_model, random_models
from automerge.bench.times import Times
from automerge.checkpoints import Checkpoint, open_together
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.tasks import TaskSet, TaskSpec, load_tasks
from automerge.evaluation.loglikelihood.forward import batch_tokens
from automerge.evaluation.loglikelihood.packing import Request, unique_tokens
from automerge.merging import ResidentEngine, plan_free_memory
from automerge.methods import METHODS
from automerge.worker.worker import SMALL_MODEL, load_model

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METHOD = "ties"


@dataclass(frozen=True)
class Work:
    """The work that is timed; tokens are the model's inputs, `unique` ones the requests' trie's."""

    items: int
    requests: int
    stock_tokens: int
    our_tokens: int
    unique_tokens: int
    parameters: int
    dtype: str
    threads: int


@dataclass(frozen=True)
class ScoreTime(Times):
    """Times of one candidate in seconds: stock lm-eval's, the floor's, and ours in three parts.

    `stock` is `simple_evaluate` on a model in memory, `stock_forward` the model's part of it,
    `floor` a pass over as many tokens as the requests' trie has nodes. `differing` counts items
    whose score differs from stock's.
    """

    SHOWN = ("ours", "to_floor", "to_stock")
    COUNTS = ("differing",)

    stock: float
    stock_forward: float
    floor: float
    merge: float
    forward: float
    rest: float
    differing: int

    @property
    def ours(self) -> float:
        """Return the total of our parts."""
        return self.merge + self.forward + self.rest

    @property
    def to_floor(self) -> float:
        """Our time relative to the floor."""
        return self.ours / self.floor

    @property
    def to_stock(self) -> float:
        """Our time relative to stock's."""
        return self.ours / self.stock


def bench_score(
    shape: str | None,
    tasks: Sequence[str] | Lengths,
    fewshot: int,
    items: int,
    batch_size: int,
    repeats: int,
    device: str = "cpu",
) -> Iterator[Work | ScoreTime]:
    """Time candidates, with a different recipe in every repeat.

    Args:
        shape: a name in `SIZES`; None for the demo's models.
        tasks: names of the demo's tasks, or lengths of items to make up.
        fewshot: the number of examples before each item.
        items: the maximum number of items per task.
        batch_size: as in the configuration.
        repeats: the number of candidates.
        device: where the model lives.

    Yields:
        The work, then the times of each repeat.
    """
    engine, model, tokenizer = live_models(shape, device)
    with task_folder(tasks, fewshot, items) as (folder, names):
        task_set = load_tasks([TaskSpec(name) for name in names], Settings(folder))
        scorer = LmEvalScorer(model, tokenizer, task_set, batch_size)
        chosen = {
            name: tuple(range(min(items, len(documents))))
            for name, documents in task_set.documents().items()
        }
        stock = _Stock(model, tokenizer, folder, names, items, batch_size)
        requests = scorer.requests(chosen)
        method = METHODS[METHOD]
        recipes = [varied(method, 3, turn) for turn in range(repeats + 1)]
        engine.merge_into(model, recipes[0])
        floor = Floor.of(requests, batch_size)
        floor.run(model)
        yield Work(
            items=sum(map(len, chosen.values())),
            requests=len(requests),
            stock_tokens=sum(len(request.inputs) for request in requests),
            our_tokens=scorer.score(chosen).tokens,
            unique_tokens=floor.tokens,
            parameters=model.num_parameters(),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
        )
        for recipe in recipes[1:]:
            merge = seconds(engine.merge_into, model, recipe)
            began = time.perf_counter()
            samples, stock_forward = stock.evaluate()
            stock_s = time.perf_counter() - began
            floor_s = seconds(floor.run, model)
            scored = scorer.score(chosen)
            yield ScoreTime(
                stock=stock_s,
                stock_forward=stock_forward,
                floor=floor_s,
                merge=merge,
                forward=scored.forward_s,
                rest=scored.score_s,
                differing=_differing(task_set, scored.scores, samples),
            )


@dataclass(frozen=True)
class Floor:
    """The minimum number of tokens, in full rows of the average length of a request.

    The head is applied to as many positions as the trie has nodes whose output is scored.
    """

    tokens: int
    scored: int
    width: int
    batch_rows: int

    @classmethod
    def of(cls, requests: Sequence[Request], batch_size: int) -> Floor:
        scored = {
            request.inputs[: position + 1]
            for request in requests
            for position in range(request.scored_from, len(request.inputs))
        }
        lengths = [len(request.inputs) for request in requests]
        width = round(statistics.mean(lengths))
        rows = max(1, batch_tokens(requests, batch_size) // width)
        return cls(unique_tokens(requests), len(scored), width, rows)

    @torch.no_grad()
    def run(self, model: PreTrainedModel) -> None:
        """Run the tokens, with a shorter last row."""
        done = headed = wanted = 0

        def first_outputs(_: object, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (hidden[0].flatten(0, 1)[:wanted].unsqueeze(0), *hidden[1:])

        handle = model.get_output_embeddings().register_forward_pre_hook(first_outputs)
        while done < self.tokens:
            rows = min(self.batch_rows, max(1, (self.tokens - done) // self.width))
            width = min(self.width, self.tokens - done)
            done += rows * width
            wanted = round(self.scored * done / self.tokens) - headed
            headed += wanted
            inputs = torch.zeros((rows, width), dtype=torch.long, device=model.device)
            model(inputs, use_cache=False)
        handle.remove()


class _Stock:
    """lm-eval's own evaluation, with its tasks indexed beforehand."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        names: Sequence[str],
        items: int,
        batch_size: int,
    ) -> None:
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        self._model, self._names, self._items = model, list(names), items
        self._folder = folder
        with isolated():
            self._lm = HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                softmax_dtype="float32",
            )
            self._manager: TaskManager = TaskManager(
                include_path=str(folder), include_defaults=False
            )

    def evaluate(self) -> tuple[Mapping[str, Sequence[Mapping[str, Any]]], float]:
        """Return the samples by task, and the seconds spent in the model."""
        from lm_eval import simple_evaluate

        with isolated(), chdir(self._folder.parent), _timed(self._model) as spent:
            results = simple_evaluate(
                model=self._lm,
                tasks=self._names,
                task_manager=self._manager,
                limit=self._items,
                bootstrap_iters=0,
            )
        return results["samples"], sum(spent)


@contextmanager
def _timed(model: PreTrainedModel) -> Iterator[list[float]]:
    """Record how long each call of the model takes, in seconds."""
    spent: list[float] = []

    def begin(*_: object) -> None:
        spent.append(-now())

    def end(*_: object) -> None:
        spent[-1] += now()

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def live_models(
    shape: str | None, device: str
) -> tuple[ResidentEngine, PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an engine for a base and three fine-tunes, the demo's or random, a live model, and the
    demo's tokenizer.

    The model computes in float32 on a CPU, in bfloat16 on a GPU. From here on, small ones run on
    one thread.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    checkpoints: Mapping[str, Checkpoint]
    if shape is None:
        sources = {f"source{i + 1}": path for i, path in enumerate(list(demo.SOURCES.values())[:3])}
        checkpoints = open_together({"base": demo.BASE, **sources}, "base")
        model = load_model(demo.BASE, demo.BASE, dtype)
    else:
        model = empty_model(SIZES[shape])
        checkpoints = random_models(model, 3)
    model.to(device, dtype)
    plan = plan_free_memory(device)
    engine = ResidentEngine(checkpoints, plan.budget, plan.device_budget)
    if device == "cpu" and model.num_parameters() < SMALL_MODEL:
        torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.BASE, local_files_only=True)
    return engine, model.eval().requires_grad_(False), tokenizer


def _differing(
    task_set: TaskSet,
    scores: Mapping[str, Any],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> int:
    """Count the items whose score differs from stock's."""
    count = 0
    for objective in task_set.objectives:
        stock = {row["doc_id"]: row[objective.metric] for row in samples[objective.task]}
        ours = scores[objective.name]
        for (_, doc_id), value in zip(ours.items, ours.values, strict=True):
            count += stock[doc_id] != value
    return count
