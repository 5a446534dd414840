import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from automerge.objective import MODEL_ITEM, ItemScores, Objective
from automerge.report.choice import choose
from automerge.report.summary import summarise
from automerge.report.table import FrontTable
from automerge.trial import Measured

from .factory import OBJECTIVES, PERPLEXITY, all_failed, empty, running, study

RESULT = study(n_trials=20)


def printed(result, width, every=True):
    file = io.StringIO()
    table = FrontTable(summarise(result), every=every)
    Console(file=file, width=width, color_system=None).print(table)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_line_fits_and_every_number_is_there(width):
    text = printed(RESULT, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    assert "…" not in text
    for name in ("maths-expert", "base", "uniform"):
        assert name in text
    assert text.count("±") > 40


def test_the_last_words_are_the_conclusion():
    assert "could have shown" in printed(RESULT, 200).splitlines()[-1]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_old_encodings_are_no_trouble(encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    result = study(OBJECTIVES[:2], n_trials=6, sources=("数学", "β", "z"), name="研究")
    Console(file=file, width=100).print(FrontTable(summarise(result)))
    file.flush()
    assert b"uniform" in raw.getvalue()


def test_markup_in_names_is_text():
    result = study(OBJECTIVES[:2], n_trials=6, sources=("[red]x[/red]", "[/]", "y"))
    assert "[red]x[/red]" in printed(result, 200)


@pytest.mark.parametrize("make", [running, all_failed, empty])
def test_studies_without_a_front_are_described(make):
    assert printed(make(study(n_trials=6)), 60).strip()


def test_percent_and_other_units_have_their_own_decimals():
    text = printed(study((OBJECTIVES[0], PERPLEXITY), n_trials=6), 120)
    base = next(line for line in text.splitlines() if line.lstrip().startswith("base"))
    cells = base.split()
    assert len(cells[1].split(".")[1]) == 1
    assert len(cells[4].split(".")[1]) in (2, 3)


@pytest.mark.parametrize("result", [RESULT, running(RESULT), study(OBJECTIVES[:1], n_trials=20)])
def test_the_short_table_fits_80_columns_and_is_one_line_a_model(result):
    text = printed(result, 80, every=False)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert len(text.splitlines()) < 35
    summary = summarise(result)
    for member in [m for m in summary.members if m.kind != "front"]:
        assert sum(line.split()[:1] == [member.name] for line in text.splitlines()) == 1


def test_the_first_line_names_the_model_to_take_and_it_is_the_first_row():
    text = printed(RESULT, 200, every=False).splitlines()
    name = choose(summarise(RESULT)).name
    assert f" {name} (" in text[0]
    header = next(row for row, line in enumerate(text) if line.lstrip().startswith("model"))
    assert text[header + 2].split()[0] == name


def test_objectives_without_room_are_named():
    text = " ".join(printed(RESULT, 60, every=False).split())
    assert "no room for" in text
    assert "safety" in text.split("no room for")[1]


def test_what_is_known_exactly_has_no_interval():
    size = Objective("parameters", "parameters", "parameters", "none", "minimize", "exact")
    objectives = (*OBJECTIVES[:2], size)
    found = study(objectives[:2], n_trials=8)

    def sized(trial):
        def outcome(measured):
            if not isinstance(measured, Measured):
                return measured
            exact = ItemScores((MODEL_ITEM,), (1000.0 + trial.trial.number,))
            return replace(measured, scores={**measured.scores, "parameters": exact})

        return replace(trial, outcomes={part: outcome(o) for part, o in trial.outcomes.items()})

    result = replace(found, objectives=objectives, trials=tuple(map(sized, found.trials)))
    text = printed(result, 200)
    assert "1005" in text
    assert "±0" not in text
    assert re.search(r"\d ±\d", text)
