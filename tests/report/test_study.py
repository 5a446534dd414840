"""A study as Python sees it: named values, short in a console, harmless in a notebook."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import automerge
from automerge.estimation import Interval
from automerge.report.front import front_document
from automerge.report.study import Study, load_study
from automerge.report.summary import summarise
from tests.report.factory import study
from tests.report.test_front import CASES
from tests.studies import toy_study


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


def test_names_of_the_package_are_those_it_lists():
    assert set(automerge.__all__) <= set(dir(automerge))
    assert {"annotations", "TYPE_CHECKING", "Any"}.isdisjoint(dir(automerge))
    for name in automerge.__all__:
        assert getattr(automerge, name).__name__ == name
