"""Picking by preferences looks at select items only and does what its words say."""

import numpy as np
import pytest

from automerge.errors import ConfigError
from automerge.report.pick import pick
from automerge.report.summary import summarise

from .factory import OBJECTIVES, PERPLEXITY, study
from .test_front import scored

SUMMARY = summarise(study(n_trials=30))
MIXED = summarise(study((OBJECTIVES[0], PERPLEXITY), n_trials=30))


def select(member, name):
    return member.scores[name]["select"].value


@pytest.mark.parametrize("weights", [{"code": 1.0}, {"maths": 2.0, "german": 1.0}, {}])
def test_the_highest_weighted_mean_on_select_items_wins(weights):
    found = pick(SUMMARY, weights, {})
    names = list(weights) or [o.name for o in OBJECTIVES]
    w = np.array([weights.get(name, 1.0) for name in names])
    means = {
        m.name: float(np.average([select(m, n) for n in names], weights=w)) for m in SUMMARY.front
    }
    assert found.member.name == max(means, key=means.get)
    assert found.utility == pytest.approx(max(means.values()))
    assert not found.rescaled


def test_weights_are_relative():
    a = pick(SUMMARY, {"maths": 2, "code": 1}, {})
    assert a == pick(SUMMARY, {"maths": 4, "code": 2}, {})


def test_test_items_do_not_pick():
    result = study(n_trials=30)
    before = pick(summarise(result), {"maths": 1}, {}).member.name
    for number in result.front:
        result = scored(result, number, "test", "maths", [number == result.front[0]] * 600)
    assert pick(summarise(result), {"maths": 1}, {}).member.name == before


def test_bounds_hold_on_select_items_in_either_direction():
    worst = sorted(select(m, "maths") for m in SUMMARY.front)[-2]
    found = pick(SUMMARY, {"code": 1}, {"maths": worst})
    assert select(found.member, "maths") >= worst
    assert found.left == 2
    low = sorted(select(m, "wikitext") for m in MIXED.front)[0]
    found = pick(MIXED, {"maths": 1}, {"wikitext": low})
    assert (select(found.member, "wikitext"), found.left) == (low, 1)


def test_other_units_are_placed_between_the_fronts_worst_and_best():
    found = pick(MIXED, {"wikitext": 1}, {})
    assert found.rescaled
    assert found.utility == 1
    assert select(found.member, "wikitext") == min(select(m, "wikitext") for m in MIXED.front)


@pytest.mark.parametrize(
    ("prefer", "bounds", "words"),
    [
        ({"mats": 1}, {}, "choose from maths, code, german, safety"),
        ({}, {"mats": 1}, "choose from maths, code, german, safety"),
        ({"maths": 0}, {}, "give a number above 0"),
        ({}, {"maths": 1.1}, "no merge on the front has maths >= 1.1"),
    ],
)
def test_faults_name_what_is_wrong(prefer, bounds, words):
    with pytest.raises(ConfigError, match=words):
        pick(SUMMARY, prefer, bounds)
