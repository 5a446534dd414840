"""A study as Python sees it: named values, short in a console, harmless in a notebook."""

from __future__ import annotations

import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pytest

import automerge
from automerge.errors import PreflightError
from automerge.estimation import Interval
from automerge.report.front import front_document
from automerge.report.study import Study, load_study
from automerge.report.summary import summarise
from tests.report.factory import study
from tests.report.test_front import CASES
from tests.studies import toy_study
from tests.toy import ToyWorker, fails


def test_a_study_and_its_members_are_short_to_print():
    for result in CASES.values():
        shown = Study(Path("runs/x"), result)
        assert len(repr(shown)) < 300
        assert all(len(repr(member)) < 300 for member in shown.members)
        assert len(shown._repr_html_()) < 20_000


def test_members_are_those_of_the_front_document_with_its_numbers():
    result = study()
    shown = Study(Path("runs/x"), result)
    plain = front_document(summarise(result))["members"]
    for member, described in zip(shown.members, plain, strict=True):
        assert (member.name, member.trial) == (described["name"], described["trial"])
        for name, scores in member.scores.items():
            for part, interval in described["scores"][name].items():
                found: Interval | None = getattr(scores, part)
                assert (found and found.value) == (interval and interval["value"])
    assert shown.front == tuple(m for m in shown.members if m.on_front)
    assert shown.knee is not None
    assert shown.knee.trial == result.knee


def test_a_notebook_shows_names_as_text():
    class Tags(HTMLParser):
        found: set[str] = set()  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.found.add(tag)

    result = study()
    trials = tuple(
        replace(t, trial=replace(t.trial, name="<script>alert(1)</script>")) for t in result.trials
    )
    tags = Tags()
    tags.feed(Study(Path("<b>x</b>"), replace(result, trials=trials))._repr_html_())
    assert tags.found <= {"p", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_study_is_read_once_and_summarised_once(tmp_path):
    shown = load_study(toy_study(tmp_path / "run"))
    assert shown.summary is shown.summary
    assert shown.members is shown.members
    assert shown.summary.including([m.trial for m in shown.members]) is shown.summary


def test_every_trial_is_a_row_of_the_table_with_the_store_s_numbers(tmp_path):
    worker = ToyWorker(fail=fails(6))
    shown = load_study(toy_study(tmp_path / "run", worker=worker))
    table = shown.trials_table()
    assert [row["number"] for row in table] == list(range(12))
    assert len({tuple(row) for row in table}) == 1
    for row, found in zip(table, shown.result.trials, strict=True):
        trial = found.trial
        assert (row["name"], row["origin"], row["method"]) == (
            trial.name,
            trial.origin,
            trial.recipe.method,
        )
        params = {k.removeprefix("params."): v for k, v in row.items() if k.startswith("params.")}
        assert {name: v for name, v in params.items() if v is not None} == (trial.params or {})
        assert row["state"] == ("failed" if trial.number == 6 else "measured")
        assert (row["failure"] == "made to fail: 6") is (trial.number == 6)
        for objective in shown.result.objectives:
            believed = found.search_estimate(objective)
            assert row[f"search.{objective.name}.value"] == (believed and believed.value)
            scores = found.scores("test", objective.name)
            mean = None if scores is None else fmean(scores.values)
            assert row[f"test.{objective.name}.value"] == (mean and pytest.approx(mean))
    assert any(row["test.first.n"] for row in table)


def test_a_frame_holds_the_table_and_its_lack_is_said(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    shown = load_study(toy_study(tmp_path / "run"))
    frame = shown.trials_frame()
    table = shown.trials_table()
    assert list(frame.index) == [row["number"] for row in table]
    assert list(frame["method"]) == [row["method"] for row in table]
    assert frame["search.first.value"].mean() == pytest.approx(
        fmean(row["search.first.value"] for row in table)
    )
    empty = Study(tmp_path, replace(shown.result, trials=()))
    assert isinstance(empty.trials_frame(), pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PreflightError, match=r"pip install pandas, or use trials_table\(\)"):
        shown.trials_frame()


def test_names_of_the_package_are_those_it_lists():
    assert set(automerge.__all__) <= set(dir(automerge))
    assert {"annotations", "TYPE_CHECKING", "Any"}.isdisjoint(dir(automerge))
    for name in automerge.__all__:
        assert getattr(automerge, name).__name__ == name
