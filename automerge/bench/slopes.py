"""The cost of a measurement with slopes, against scoring the same items and the floor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from automerge.bench.merge import seconds, timed, varied
from automerge.bench.score import Floor, live_models
from automerge.bench.score_tasks import Lengths, task_folder
from automerge.bench.times import Times
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.evaluation.loglikelihood.graph import keeping
from automerge.merging import Need, free_device_bytes, free_host_bytes, plan_memory
from automerge.methods import METHODS
from automerge.trial import Steering

SOURCES = 3
RESET_PEAK = "5"
"""What Linux takes for a process's peak of memory to begin again."""


@dataclass(frozen=True)
class SlopeWork:
    """What is timed, and bytes: of the weights, of the most that a batch keeps for its pass
    backwards, of the gradients of the two largest tensors, and of the peak beside the weights.

    `numbers` counts those of the recipe that have slopes. On a CPU the peak is the process's.
    """

    items: int
    requests: int
    numbers: int
    parameters: int
    dtype: str
    threads: int
    weights: int
    graph: int
    gradients: int
    peak: int


@dataclass(frozen=True)
class SlopeTime(Times):
    """Seconds of one candidate: the floor's, of scoring, and of scoring with slopes, and those that
    processors spent on the last two."""

    SHOWN = ("to_forward", "to_floor", "cpu_to_forward")

    floor: float
    forward: float
    slopes: float
    forward_cpu: float
    slopes_cpu: float

    @property
    def to_forward(self) -> float:
        """A measurement with slopes relative to one without."""
        return self.slopes / self.forward

    @property
    def to_floor(self) -> float:
        """A measurement with slopes relative to the floor of one without."""
        return self.slopes / self.floor

    @property
    def cpu_to_forward(self) -> float:
        """A measurement with slopes relative to one without, in processors' time."""
        return self.slopes_cpu / self.forward_cpu


def bench_slopes(
    shape: str | None,
    tasks: Sequence[str] | Lengths,
    items: int,
    batch_size: int,
    repeats: int,
    method: str,
    device: str = "cpu",
) -> Iterator[SlopeWork | SlopeTime]:
    """Time candidates, with a different recipe in every repeat.

    Args:
        shape: a name in `SIZES`; None for the demo's models.
        tasks: names of the demo's tasks, or lengths of items to make up.
        items: the maximum number of items per task.
        batch_size: as in the configuration.
        repeats: the number of candidates.
        method: that recipes use.
        device: where the model lives.

    Yields:
        The work, then the times of each repeat.
    """
    engine, model, tokenizer = live_models(shape, device)
    with task_folder(tasks, 0, items) as (folder, names):
        task_set = load_tasks([TaskSpec(name) for name in names], Settings(folder))
        sizes = [parameter.nbytes for parameter in model.parameters()]
        tied = [
            model.get_parameter(name).nbytes for name in {*model.all_tied_weights_keys.values()}
        ]
        gradients = sum(sorted([*sizes, *tied])[-2:])
        host, gpu = free_host_bytes(), free_device_bytes(device)
        room = plan_memory(Need(0, 0, 0, gradients=gradients), host, gpu).graph
        scorer = LmEvalScorer(model, tokenizer, task_set, batch_size, graph_bytes=room)
        chosen = {
            name: tuple(range(min(items, len(documents))))
            for name, documents in task_set.documents().items()
        }
        requests = scorer.requests(chosen)
        recipes = [varied(METHODS[method], SOURCES, turn) for turn in range(repeats + 1)]
        floor = Floor.of(requests, batch_size)
        most = numbers = 0

        def measure(count: bool = False) -> None:
            nonlocal most, numbers
            kept: dict[int, int] = {}
            with engine.contraction(model, recipe) as contraction:
                numbers = len(contraction.coordinates)

                def backward(objective: str, loss: Tensor, keep: bool) -> None:
                    nonlocal most
                    most = max(most, sum(kept.values()))
                    contraction.slopes(loss, keep)
                    if not keep:
                        kept.clear()

                if count:
                    with keeping(model) as kept:
                        scorer.score_with_slopes(chosen, Steering(), backward)
                else:
                    scorer.score_with_slopes(chosen, Steering(), backward)

        recipe = recipes[0]
        engine.merge_into(model, recipe)
        floor.run(model)
        scorer.score(chosen)
        measure(count=True)
        before = _memory(device, reset=True)
        measure()
        yield SlopeWork(
            items=sum(map(len, chosen.values())),
            requests=len(requests),
            numbers=numbers,
            parameters=model.num_parameters(),
            dtype=str(model.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            weights=sum(sizes),
            graph=most,
            gradients=gradients,
            peak=_memory(device) - before,
        )
        for recipe in recipes[1:]:
            engine.merge_into(model, recipe)
            _, forward, forward_cpu = timed(scorer.score, chosen)
            _, slopes, slopes_cpu = timed(measure)
            yield SlopeTime(
                floor=seconds(floor.run, model),
                forward=forward,
                slopes=slopes,
                forward_cpu=forward_cpu,
                slopes_cpu=slopes_cpu,
            )


def _memory(device: str, reset: bool = False) -> int:
    """Return the peak of memory since the last reset; with a reset, what is held now."""
    if device != "cpu":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.max_memory_allocated())
    if reset:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    lines = Path("/proc/self/status").read_text().splitlines()
    held = dict(line.split(":", 1) for line in lines)
    return 1024 * int(held["VmRSS" if reset else "VmHWM"].split()[0])
