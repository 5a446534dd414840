"""A worker that scores cheap objectives first leaves out what they exclude, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automerge.trial import Gate, Job, Limit, Measured
from automerge.worker.worker import MergeWorker
from tests.worker.test_worker_device import ITEMS, jobs, spec
from tests.zoo import write_zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


def counted(measured: Measured) -> dict[str, float]:
    """Its notes without times."""
    return {name: value for name, value in measured.notes.items() if name != "generating"}


def test_a_limit_that_is_missed_leaves_out_what_is_generated_and_no_other(zoo, monkeypatch):
    monkeypatch.chdir(zoo / "tasks")
    worker = MergeWorker(spec(zoo, "cpu"))
    plain: Job = jobs()[0]
    whole = worker.measure(plain)
    assert isinstance(whole, Measured)
    distance = whole.scores["distance_to_base"].values[0]

    def gated(*limits: Limit):
        return worker.measure(replace(plain, gate=Gate(("choose",), limits)))

    near = Limit("distance_to_base", "<=", distance / 2)
    for passing in ((), (replace(near, value=distance),), (Limit("choose", ">=", 0.0),)):
        found = gated(*passing)
        assert found.scores == whole.scores
        assert found.margins == whole.margins
        assert (found.tokens, counted(found)) == (whole.tokens, counted(whole))
    for missed in ((near,), (Limit("choose", ">=", 0.0), near), (Limit("choose", ">=", 1.1),)):
        found = gated(*missed)
        assert found.left_out == ("say",)
        assert found.scores["say"].items == ()
        assert {k: v for k, v in found.scores.items() if k != "say"} == {
            k: v for k, v in whole.scores.items() if k != "say"
        }
        assert 0 < found.tokens < whole.tokens
    assert ITEMS["say"]
