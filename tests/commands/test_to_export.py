"""Which models the end of a search writes."""

from __future__ import annotations

from pathlib import Path

from automerge.commands.search import to_export
from automerge.report.choice import choose
from automerge.report.study import Study
from tests.report.factory import study


def test_what_is_written_is_the_front_or_one_of_it() -> None:
    found = Study(Path("run"), study())
    names = {n: trial.trial.name for n, trial in found.result.by_number.items()}
    front = to_export(found, "front")
    assert len(front) > 2
    taken = choose(found.summary)
    assert taken is not None
    assert [names[n] for n in to_export(found, "best")] == [taken.name]
    assert to_export(found, "knee") == [found.result.knee]
    assert to_export(found, "knee") != to_export(found, "best")
    assert to_export(found, "adapter") == front
    assert to_export(found, "none") == []
