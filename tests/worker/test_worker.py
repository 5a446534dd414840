"""The worker's border: whatever is raised becomes a value that travels."""

from __future__ import annotations

import pickle

import pytest

from automerge.checkpoints import whole_digest
from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.panel import Panel
from automerge.trial import Failed
from automerge.worker import worker
from automerge.worker.worker import MAX_TRACEBACK, MergeWorker, WorkerSpec, _trace, workers_here
from tests.checkpoints.models import llama, save

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
