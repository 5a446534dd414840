"""The model to take: chosen on select items, judged on test items."""

from dataclasses import replace

import pytest

from automerge.report.choice import choose
from automerge.report.conclusion import conclusion
from automerge.report.front import front_document
from automerge.report.summary import summarise

from .factory import OBJECTIVES, PERPLEXITY, running, study
from .test_front import scored


def with_winner(result, row, parts):
    """The study with a front model that answers every item of these parts correctly."""
    for o in result.objectives:
        for part in parts:
            size = {"select": 250, "test": 600}[part]
            result = scored(result, result.front[row], part, o.name, [1] * size)
    names = {t.trial.number: t.trial.name for t in result.trials}
    return result, names[result.front[row]]


@pytest.mark.parametrize("row", [0, 1])
def test_the_best_on_select_items_is_taken_and_its_gain_is_quoted(row):
    result, name = with_winner(study(OBJECTIVES[:2], n_trials=20), row, ("select", "test"))
    found = choose(summarise(result))
    assert (found.name, found.rule, found.beats_parent) == (name, "mean", True)
    assert found.sentence.startswith(f"Take {name} (")
    assert "mean 100.0 %" in found.sentence
    assert conclusion(summarise(result))[0] == found.sentence


def test_test_items_choose_nothing():
    result = study(OBJECTIVES[:2], n_trials=20)
    before = choose(summarise(result)).name
    names = [t.trial.name for t in result.trials if t.trial.number in result.front]
    other = next(row for row, name in enumerate(names) if name != before)
    result, _ = with_winner(result, other, ("test",))
    assert choose(summarise(result)).name == before


def test_a_choice_that_fails_the_test_is_not_recommended():
    result, name = with_winner(study(OBJECTIVES[:2], n_trials=20), 0, ("select",))
    for o in result.objectives:
        result = scored(result, result.front[0], "test", o.name, [0] * 600)
    found = choose(summarise(result))
    assert (found.name, found.beats_parent, found.beats_uniform) == (name, False, False)
    assert found.sentence.startswith("No merge measurably beats maths-expert, the best parent")


def test_the_uniform_average_is_named_where_it_is_as_good():
    result, _ = with_winner(study(OBJECTIVES[:2], n_trials=20), 0, ("select", "test"))
    for o in result.objectives:
        for part, size in (("select", 250), ("test", 600)):
            result = scored(result, result.uniform, part, o.name, [1] * size)
    found = choose(summarise(result))
    assert (found.beats_parent, found.beats_uniform) == (True, False)
    assert "not measurably better than the uniform average" in found.sentence


def test_other_units_take_the_compromise():
    result = study((OBJECTIVES[0], PERPLEXITY), n_trials=20)
    summary = summarise(result)
    found = choose(summary)
    assert found.rule == "compromise"
    assert [m.name for m in summary.front if m.knee] == [found.name]


def test_nothing_is_taken_before_the_test():
    result = study(n_trials=6)
    assert choose(summarise(running(result))) is None
    assert choose(summarise(replace(result, front=(1, 2), knee=1))) is None
    assert front_document(summarise(running(result)))["choice"] is None
