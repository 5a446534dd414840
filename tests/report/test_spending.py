"""What a study cost: every measurement's time counts once, in its phase."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from automerge.commands.status import print_status, prospects, study_status
from automerge.report.course import prospect
from automerge.report.html import html_report
from automerge.report.spending import in_words, spending
from automerge.report.study import load_study
from automerge.report.summary import summarise
from automerge.store.result import StudyResult, TrialResult
from automerge.trial import GENERATING, Measured, Slope, Timings
from tests.report.factory import empty, study
from tests.studies import toy_study

WHOLE = study()


def outcomes(result: StudyResult) -> list[Measured]:
    return [o for t in result.trials for o in t.outcomes.values() if isinstance(o, Measured)]


def test_phases_sum_to_all_that_was_measured() -> None:
    found = spending(WHOLE)
    assert found is not None
    assert found.total == pytest.approx(math.fsum(o.timings.total for o in outcomes(WHOLE)))
    assert found.merging == pytest.approx(math.fsum(o.timings.merge for o in outcomes(WHOLE)))
    assert found.tokens == sum(o.tokens for o in outcomes(WHOLE))
    assert (found.slopes, found.slope_tokens, found.explain) == (0, 0, 0)


def test_slopes_are_those_of_the_search_and_of_what_explains_its_winner() -> None:
    first, last = WHOLE.trials[0], WHOLE.trials[-1]
    outcome = last.outcomes["search"]
    assert isinstance(outcome, Measured)
    sloped = replace(outcome, slopes={"maths": Slope(1.0, {})})
    line = (Measured({}, Timings(0.5, 1.0, 0.0, 2.0), tokens=10),) * 3
    trials = (
        replace(first, explained=line),
        *WHOLE.trials[1:-1],
        replace(last, outcomes={**last.outcomes, "search": sloped}),
    )
    found, plain = spending(replace(WHOLE, trials=trials)), spending(WHOLE)
    assert found is not None
    assert plain is not None
    assert found.slopes == outcome.timings.total
    assert found.explain == 6
    assert found.total == pytest.approx(plain.total + 6)
    assert found.slope_tokens == outcome.tokens + 30


def test_a_study_whose_pace_never_changes_takes_what_its_first_merge_foretold() -> None:
    def steady(trial: TrialResult) -> TrialResult:
        own = {}
        for part, outcome in trial.outcomes.items():
            if isinstance(outcome, Measured):
                n = sum(len(s.items) for s in outcome.scores.values())
                outcome = replace(outcome, timings=Timings(1.0, 0.0, 0.0, 1.0 + 0.01 * n))
            own[part] = outcome
        return replace(trial, outcomes=own)

    found = spending(replace(WHOLE, trials=tuple(map(steady, WHOLE.trials))))
    assert found is not None
    assert found.foretold == pytest.approx(found.total)
    assert in_words(replace(WHOLE, uniform=None)) == in_words(WHOLE).partition(" tokens.")[0] + (
        " tokens."
    )


def test_generating_is_its_share_of_the_forward_time() -> None:
    first = WHOLE.trials[0]
    outcome = first.outcomes["search"]
    assert isinstance(outcome, Measured)
    noted = replace(outcome, notes={GENERATING: 0.75})
    trials = (replace(first, outcomes={**first.outcomes, "search": noted}), *WHOLE.trials[1:])
    result = replace(WHOLE, trials=trials)
    found = spending(result)
    assert found is not None
    assert found.generating == pytest.approx(0.75 * outcome.timings.forward)
    assert "% generating" in in_words(result)
    assert "generating" not in in_words(WHOLE)


def test_nothing_is_said_where_nothing_was_measured() -> None:
    assert spending(empty(WHOLE)) is None
    assert in_words(empty(WHOLE)) == ""


def test_report_and_status_say_it(tmp_path: Path) -> None:
    assert in_words(WHOLE) in html_report(summarise(WHOLE)).replace("&#39;", "'")
    toy_study(tmp_path, 40)
    status = study_status(tmp_path)
    screen = Console(file=io.StringIO(), width=80)
    print_status(status, screen)
    assert isinstance(screen.file, io.StringIO)
    shown = " ".join(screen.file.getvalue().split())
    cost = in_words(load_study(tmp_path).result)
    assert f"Cost: {cost}" in shown
    assert "second half of the trials" in shown
    plain = json.loads(json.dumps(status))
    assert plain["cost"] == cost
    assert plain["spent"]["tokens"] == 7 * len(outcomes(load_study(tmp_path).result))


def test_lines_fit_80_columns() -> None:
    lines = prospects(in_words(WHOLE), prospect(WHOLE))
    assert 2 <= len(lines) <= 6
    assert max(map(len, lines)) <= 80
