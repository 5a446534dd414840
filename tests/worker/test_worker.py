"""The worker's border: whatever is raised becomes a value that travels."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from automerge.checkpoints import whole_digest
from automerge.errors import PreflightError
from automerge.evaluation.base import NoRoom, Scored, Settings
from automerge.evaluation.panel import Panel
from automerge.machine.allocation import is_out_of_memory
from automerge.objective import ItemScores, Objective
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.trial import NO_ROOM, Failed, Job, Measured, Steering
from automerge.worker import worker
from automerge.worker.worker import MAX_TRACEBACK, MergeWorker, WorkerSpec, _trace, workers_here
from tests.checkpoints.models import llama, perturb, save

PANEL = Panel((), Settings())


class Awkward(Exception):
    """Cannot be pickled, and its text is not text."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first)
        self.second = lambda: second

    def __str__(self) -> str:
        return "binary \udcff\x00 " + "x" * 1_000_000


@pytest.mark.parametrize("error", [Awkward(1, 2), ValueError("y" * 10_000_000), KeyError("é")])
def test_any_exception_becomes_short_text(error: Exception) -> None:
    try:
        raise error
    except Exception as caught:
        text = _trace(caught)
    assert len(text) <= MAX_TRACEBACK
    text.encode("utf-8")
    failed = Failed("error", "reason", text)
    assert pickle.loads(pickle.dumps(failed)) == failed


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(monkeypatch, tmp_path) -> None:
    folder = save(llama(), tmp_path / "base")
    monkeypatch.setattr(worker, "free_host_bytes", lambda: 1000)
    monkeypatch.setattr(worker, "load_model", None)
    held = {"base": whole_digest(folder)}
    spec = WorkerSpec({"base": folder}, held, "base", PANEL, folder, "float32", "cpu")
    with pytest.raises(PreflightError, match=r"the live model .* need .* GB of memory"):
        MergeWorker(spec)


def test_workers_that_were_given_cores_share_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(worker, "usable_cpus", lambda: 16)
    assert [workers_here(threads, "cpu") for threads in (None, 1, 4, 32)] == [1, 16, 4, 1]


TOKENS = torch.arange(3, 27).reshape(2, 12)


class Tasks:
    """One objective, whose slopes fail as they are told to."""

    objectives = (Objective("score", "task", "acc", "none", "maximize"),)
    members: ClassVar = {"score": ("task",)}

    def __init__(self, *failures: Callable[[], Exception]) -> None:
        self.failures = list(failures)
        self.graph_bytes: int | None = None
        self.tried = 0

    def attach(self, live):
        self.live, self.graph_bytes = live, live.graph_bytes
        return self

    def score(self, items) -> Scored:
        return Scored({"score": ItemScores((("task", 0),), (1.0,))})

    def score_with_slopes(self, items, steering, backward) -> Scored:
        self.tried += 1
        loss = self.live.model(input_ids=TOKENS).logits.square().mean()
        backward("score", loss, False)
        if self.failures:
            raise self.failures.pop(0)()
        return Scored(self.score(items).scores, losses={"score": float(loss.detach())})


@pytest.fixture(scope="module")
def worker_of(tmp_path_factory) -> Callable[..., MergeWorker]:
    root = tmp_path_factory.mktemp("models")
    folders = {"base": save(llama(), root / "base"), "maths": root / "maths"}
    fine_tune = llama()
    perturb(fine_tune, 1, 0.1)
    save(fine_tune, folders["maths"])

    def build(tasks, slopes: bool = True) -> MergeWorker:
        held = {name: whole_digest(folder) for name, folder in folders.items()}
        spec = WorkerSpec(
            folders, held, "base", PANEL, root, "float32", "cpu", 1, ("linear",), slopes=slopes
        )
        return MergeWorker(spec, tasks)

    return build


def job(number: int, slopes: bool = True) -> Job:
    source = RecipeSource("maths", {"weight": Profile.of(0.5 + number / 8)})
    recipe = Recipe("task_arithmetic", (source,), base="base")
    return Job(number, recipe, "search", {"task": (0,)}, steering=Steering() if slopes else None)


def test_slopes_come_where_the_job_wants_them(worker_of) -> None:
    tasks = Tasks()
    made = worker_of(tasks)
    assert tasks.graph_bytes is not None
    assert tasks.graph_bytes > 0
    outcome, without = made.measure(job(0)), made.measure(job(0, slopes=False))
    assert isinstance(outcome, Measured)
    assert isinstance(without, Measured)
    assert list(outcome.slopes) == ["score"]
    assert NO_ROOM not in outcome.notes
    assert (without.slopes, dict(without.notes), tasks.tried) == ({}, {}, 1)


def no_host_memory() -> Exception:
    """What torch raises where the host has no memory for a tensor."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**56)
    assert is_out_of_memory(raised.value)
    return raised.value


@pytest.mark.parametrize("failure", [NoRoom, torch.OutOfMemoryError, MemoryError, no_host_memory])
def test_where_slopes_do_not_fit_scores_come_without_and_they_are_not_tried_again(
    worker_of, failure
) -> None:
    tasks = Tasks(failure)
    made = worker_of(tasks)
    for number in range(3):
        outcome = made.measure(job(number))
        assert isinstance(outcome, Measured)
        assert outcome.scores["score"].values == (1.0,)
        assert (outcome.slopes, outcome.notes) == ({}, {NO_ROOM: 1.0})
        assert not any(p.requires_grad or p.grad is not None for p in tasks.live.model.parameters())
    assert tasks.tried == 1


def test_other_errors_of_a_pass_backwards_are_errors(worker_of) -> None:
    tasks = Tasks(lambda: RuntimeError("DefaultCPUAllocator: something else"))
    outcome = worker_of(tasks).measure(job(0))
    assert isinstance(outcome, Failed)
    assert outcome.kind == "error"


def test_without_a_plan_for_slopes_none_are_tried(worker_of) -> None:
    planned = Tasks()
    made = worker_of(planned, slopes=False)
    assert made.measure(job(0)).notes == {NO_ROOM: 1.0}
    assert planned.tried == 0
