"""A worker that scores cheap objectives first leaves out what they exclude, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automerge.evaluation.base import Scored, together
from automerge.objective import ItemScores
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


def test_parts_of_a_job_are_put_together_with_all_they_found():
    nothing = ItemScores((), ())
    one, two, three = (ItemScores(((leaf, 0),), (float(n),)) for n, leaf in enumerate("abc"))
    first = Scored({"x": one, "y": nothing}, 1.0, 2.0, 3, {"n": 1.0}, {"x": one}, {"x": 0.5})
    rest = Scored({"x": two, "y": three}, 4.0, 5.0, 6, {"m": 2.0}, {"y": three}, {"y": 0.25})
    assert together([first, rest]) == Scored(
        {"x": one, "y": three},
        5.0,
        7.0,
        9,
        {"n": 1.0, "m": 2.0},
        {"x": one, "y": three},
        {"x": 0.5, "y": 0.25},
    )
    assert together([first]) == first
