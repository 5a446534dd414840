"""A worker on a device of its own measures what one on the CPU does (see `tests.pretend`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from automerge.checkpoints import whole_digest
from automerge.errors import DeviceLost
from automerge.evaluation.base import Entry, Settings
from automerge.evaluation.panel import Panel
from automerge.merging import resident
from automerge.merging.backends.build import compiler
from automerge.recipe import Profile, Recipe, RecipeSource, Slice
from automerge.trial import Failed, Job, Measured
from automerge.worker import worker as module
from automerge.worker.worker import MergeWorker, WorkerSpec, answers, gpus_here
from tests.pretend import DEVICE, Driver, pretended
from tests.zoo import write_zoo

TASKS = (
    Entry("lm_eval", "choose", "choose"),
    Entry("lm_eval", "say", "say", options={"metric": "exact_match"}),
)
ITEMS = {"choose": tuple(range(20)), "say": tuple(range(6))}
pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


@pytest.fixture
def driver(monkeypatch, tmp_path):
    made = Driver(compiler(), tmp_path)
    monkeypatch.setattr(resident, "gpu_compiler", lambda device: made.load)
    monkeypatch.setattr(module, "choose_device", lambda device: device)
    monkeypatch.setattr(module, "free_device_bytes", lambda device: 10**9)
    return made


def spec(folder, device, properties=("distance_to_base", "parameters")):
    names = ("base", "left", "right", "adapter")
    return WorkerSpec(
        models={name: folder / name for name in names},
        digests={name: whole_digest(folder / name) for name in names},
        base="base",
        panel=Panel(
            (*TASKS, *(Entry("properties", name, name) for name in properties)),
            Settings(folder / "tasks"),
        ),
        run=folder,
        dtype="float32",
        device=device,
        methods=("linear", "ties", "della"),
        more_layers=1,
    )


def source(name, weight, **knobs):
    return RecipeSource(name, {k: Profile.of(v) for k, v in {"weight": weight, **knobs}.items()})


def jobs():
    left, right = source("left", 0.4, density=0.5), source("right", 0.9, density=0.5)
    recipes = [
        Recipe("linear", (source("left", 0.4), source("right", 0.6))),
        Recipe("ties", (left, right), base="base"),
        Recipe("della", (left, right), base="base", seed=3),
        Recipe("task_arithmetic", (source("left", 0.4), source("adapter", 1.0)), base="base"),
    ]
    return [Job(n, recipe, "search", ITEMS) for n, recipe in enumerate(recipes)]


@pytest.mark.slow
def test_a_worker_measures_the_same_on_a_device(zoo, driver, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    here = MergeWorker(spec(zoo, "cpu"))
    expected = [here.measure(job) for job in jobs()]
    with pretended():
        there = MergeWorker(spec(zoo, str(DEVICE)))
        found = [there.measure(job) for job in jobs()]
    for ours, theirs in zip(expected, found, strict=True):
        assert isinstance(theirs, Measured), theirs
        assert (theirs.scores, theirs.tokens) == (ours.scores, ours.tokens)
    assert driver.launches


@pytest.mark.slow
def test_a_worker_on_a_device_runs_layers_twice(zoo, driver, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    sources = (source("left", 0.4), source("right", 0.6))
    slices = tuple(Slice({"left": span, "right": span}) for span in ((0, 2), (1, 2)))
    made = [Recipe("linear", sources, slices=slices), Recipe("linear", sources)]
    work = [Job(n, recipe, "search", ITEMS) for n, recipe in enumerate(made)]
    here = MergeWorker(spec(zoo, "cpu", ("parameters",)))
    expected = [here.measure(job).scores for job in work]
    with pretended():
        there = MergeWorker(spec(zoo, str(DEVICE), ("parameters",)))
        found = [there.measure(job) for job in work]
    assert [measured.scores for measured in found] == expected
    deeper, plain = (scores["parameters"].values[0] for scores in expected)
    assert deeper > plain


@pytest.mark.slow
def test_copies_of_models_make_room_once(zoo, driver, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    first = replace(jobs()[0], items={"choose": (0, 1), "say": (0,)})
    with pretended():
        worker = MergeWorker(spec(zoo, str(DEVICE)))
        score, fulls = worker._scorer.score, []

        def full(items):
            if len(fulls) < 1:
                fulls.append(items)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return score(items)

        monkeypatch.setattr(worker._scorer, "score", full)
        assert isinstance(worker.measure(first), Measured)
        fulls.clear()
        failed = worker.measure(first)
    assert isinstance(failed, Failed)
    assert failed.kind == "oom"
    assert "batch_size" in failed.reason


def test_a_device_that_answers_no_more_is_lost(zoo, driver, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    first, *_ = jobs()

    def broken(*_: object):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pretended():
        worker = MergeWorker(spec(zoo, str(DEVICE)))
        monkeypatch.setattr(worker._scorer, "score", broken)
        failed = worker.measure(first)
        assert isinstance(failed, Failed)
        assert failed.kind == "error"
        monkeypatch.setattr("tests.pretend.computed", broken)
        with pytest.raises(DeviceLost, match=r"illegal memory access .* run the same command"):
            worker.measure(first)
        assert not answers(DEVICE)
    assert answers(torch.device("cpu"))


def test_gpus_that_others_were_given_share_the_machine_too(tmp_path):
    assert gpus_here(tmp_path / "none") == 1
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / name).mkdir()
    assert gpus_here(tmp_path) == 3
