"""Which models the end of a search writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from automerge.commands.publishing import Push, push
from automerge.commands.search import to_export, trial_numbers
from automerge.commands.written import written_lines
from automerge.errors import ConfigError
from automerge.report.choice import choose
from automerge.report.study import Study
from automerge.text.terminal import Plain
from tests.report.factory import OBJECTIVES, study
from tests.report.test_choice import with_winner
from tests.report.test_front import scored


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


def test_words_name_what_export_writes() -> None:
    found = Study(Path("run"), study())
    for word in ("best", "knee", "front"):
        assert trial_numbers(found, [word]) == to_export(found, word)
    [best] = to_export(found, "best")
    assert trial_numbers(found, ["front", str(best), "best"]) == to_export(found, "front")
    with pytest.raises(ConfigError, match="their names, best, knee, front"):
        trial_numbers(found, ["bst"])


def said(found: Study, export: str) -> list[str]:
    return list(written_lines(found, Path("runs/my run"), export))


def test_the_end_says_which_model_is_written_and_how_to_get_others() -> None:
    found = Study(Path("run"), study())
    assert found.best is not None
    n, command = len(found.front), "automerge export 'runs/my run' --trial"
    assert said(found, "best") == [
        f"model        runs/my run/models/{found.best.name}",
        f"             any other: {command} N",
        f"             all {n} on the front: {command} front",
    ]
    assert said(found, "front") == [f"models       runs/my run/models, {n} merges on the front"]
    assert said(found, "none")[1] == f"             the best on the front: {command} best"
    nothing = Study(Path("run"), replace(found.result, front=found.result.parents, knee=None))
    assert to_export(nothing, "best") == []
    for export in ("best", "front", "knee", "adapter", "none"):
        assert said(nothing, export)[0].endswith("none is written, as no merge is on the front")


def test_a_model_that_beats_no_parent_is_written_and_the_end_says_so() -> None:
    result, name = with_winner(study(OBJECTIVES[:2], n_trials=20), 0, ("select",))
    for o in result.objectives:
        result = scored(result, result.front[0], "test", o.name, [0] * 600)
    found = Study(Path("run"), result)
    assert to_export(found, "best") == [result.front[0]]
    first, second, *_ = said(found, "best")
    assert first.endswith(name)
    assert second.strip() == "written although no merge measurably beats the best parent"


def test_a_repository_holds_one_merge() -> None:
    with pytest.raises(ConfigError, match="--trial front: a repository holds one merge"):
        push(Push(Path("run"), "front", "org/name", False, False, {}), Plain())
