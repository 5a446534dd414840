"""Which scores are of which versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from automerge.store.read_result import study_result
from automerge.store.record import Run
from automerge.store.store import Store
from automerge.store.versions import record_versions, version_warnings
from automerge.trial import PARTS
from tests.studies import toy_store, toy_study

OLD, NEW = {"torch": "2.13.0", "numpy": "2.4"}, {"torch": "2.14.0", "numpy": "2.4"}


def run_with(run: Path, versions: dict[str, str], budget: int) -> set[tuple[str, int]]:
    """Resume a study with other versions; return what was measured by then."""
    with Store(run, write=True) as store:
        record_versions(store, versions)
    toy_study(run, budget)
    return measured(run)


def measured(run: Path) -> set[tuple[str, int]]:
    with Store(run, write=False) as store:
        return {(part, number) for part in PARTS for number in store.outcomes(part)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    with toy_store(run) as store:
        record_versions(store, OLD)
        assert store.study.current.versions == (Run(0, OLD),)
    return run


def said(run: Path) -> tuple[str, ...]:
    with Store(run, write=False) as store:
        return version_warnings(store)


def listed(numbers: set[int]) -> str:
    first, last = min(numbers), max(numbers)
    assert numbers == set(range(first, last + 1)), "the test needs numbers in one row"
    return f"{first} to {last}"


def test_runs_with_the_same_versions_say_nothing(run: Path) -> None:
    run_with(run, OLD, 8)
    run_with(run, OLD, 12)
    assert said(run) == ()


@pytest.mark.parametrize("before", [1, 8])
def test_each_trial_measured_since_a_change_is_named(run: Path, before: int) -> None:
    first = run_with(run, OLD, before)
    with Store(run, write=False) as store:
        n = len(store.measurements())
    later = run_with(run, NEW, 16) - first
    (warning,) = said(run)
    assert f"after {n} measurement" in warning
    assert "torch 2.13.0, now 2.14.0;" in warning
    assert "numpy" not in warning
    search = listed({number for part, number in later if part == "search"})
    assert f"search: {search};" in warning
    tested = sorted(number for part, number in later if part == "test")
    assert tested
    shown = warning.partition("; test: ")[2]
    named = [list(map(int, ends.split(" to "))) for ends in shown.split(", ")]
    assert [n for ends in named for n in range(ends[0], ends[-1] + 1)] == tested


def test_a_run_that_measured_nothing_leaves_no_trace(run: Path) -> None:
    run_with(run, OLD, 8)
    with Store(run, write=True) as store:
        record_versions(store, NEW)
        (warning,) = version_warnings(store)
        assert warning.endswith("by items: none yet")
        record_versions(store, OLD)
        assert version_warnings(store) == ()


def test_the_report_names_every_version(run: Path) -> None:
    run_with(run, OLD, 8)
    run_with(run, NEW, 12)
    run_with(run, {"torch": "2.14.0"}, 16)
    with Store(run, write=False) as store:
        result = study_result(run, store)
    assert result.provenance.versions == {"torch": "2.13.0, then 2.14.0", "numpy": "2.4, then none"}
    assert result.warnings == said(run)
    assert len(said(run)) == 2
