"""Two studies are compared on what both tested, and it is said where they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automerge.report.beside import beside
from automerge.report.choice import choose
from automerge.report.summary import summarise
from automerge.trial import Measured

from .factory import OBJECTIVES, study

ONE = study(OBJECTIVES[:2], n_trials=20, seed=7)
OTHER = study(OBJECTIVES[:2], n_trials=20, seed=8)


def named(result, name):
    return next(t for t in result.trials if t.trial.name == name)


def test_a_study_does_not_differ_from_itself():
    found = beside(summarise(ONE), summarise(ONE))
    assert [p.difference.difference for p in found.paired] == [0.0, 0.0]
    assert found.hypervolume[0] == found.hypervolume[1] > 0
    assert not found.left_out


def test_differences_are_those_of_the_models_to_take_item_by_item():
    found = beside(summarise(ONE), summarise(OTHER))
    one, other = choose(summarise(ONE)).name, choose(summarise(OTHER)).name
    assert found.models == (one, other)
    for paired, o in zip(found.paired, ONE.objectives, strict=True):
        a, b = (named(r, n).scores("test", o.name) for r, n in ((ONE, one), (OTHER, other)))
        b = dict(zip(b.items, b.values, strict=True))
        pairs = [(x, b[item]) for item, x in zip(a.items, a.values, strict=True) if item in b]
        assert paired.difference.n == len(pairs)
        assert paired.difference.difference == pytest.approx(np.mean([x - y for x, y in pairs]))
        assert paired.difference.low < paired.difference.difference < paired.difference.high
        assert sum(paired.alone) == len(set(a.items) ^ set(b))
    mirrored = beside(summarise(OTHER), summarise(ONE))
    for paired, back in zip(found.paired, mirrored.paired, strict=True):
        assert back.difference.difference == pytest.approx(-paired.difference.difference)
        assert back.alone == paired.alone[::-1]
    assert mirrored.hypervolume == pytest.approx(found.hypervolume[::-1])


def fewer(result, n):
    """The study tested on n items less per objective."""

    def cut(trial):
        test = trial.outcomes.get("test")
        if not isinstance(test, Measured):
            return trial
        scores = {
            name: replace(s, items=s.items[:-n], values=s.values[:-n])
            for name, s in test.scores.items()
        }
        return replace(trial, outcomes={**trial.outcomes, "test": replace(test, scores=scores)})

    return replace(result, trials=tuple(map(cut, result.trials)))


def test_items_of_one_study_only_are_counted_and_no_hypervolume_is_claimed():
    found = beside(summarise(ONE), summarise(fewer(ONE, 30)))
    assert [p.alone for p in found.paired] == [(30, 0), (30, 0)]
    assert [p.difference.difference for p in found.paired] == [0.0, 0.0]
    assert found.hypervolume is None


def test_items_that_a_study_chose_by_are_counted():
    """The other study selected on what this one tests, so its model knows these items."""

    def swapped(trial):
        outcomes = dict(trial.outcomes)
        if "test" in outcomes:
            outcomes["select"] = outcomes["test"]
        return replace(trial, outcomes=outcomes)

    unseen = beside(summarise(ONE), summarise(ONE)).paired
    found = beside(summarise(ONE), summarise(replace(ONE, trials=tuple(map(swapped, ONE.trials)))))
    assert [p.seen for p in found.paired] == [p.difference.n for p in found.paired]
    assert all(p.seen < p.difference.n for p in unseen)


def test_what_is_not_the_same_is_not_compared():
    renamed = replace(ONE.objectives[1], metric="exact_match")
    other = replace(ONE, objectives=(ONE.objectives[0], renamed))
    assert beside(summarise(ONE), summarise(other)).left_out == {"code": "another task or metric"}
    tasks = dict.fromkeys(("gsm8k", *ONE.provenance.tasks), "another digest")
    other = replace(ONE, provenance=replace(ONE.provenance, tasks=tasks))
    found = beside(summarise(ONE), summarise(other))
    assert found.left_out["maths"] == "other documents or settings"
    three = study(OBJECTIVES[:3], n_trials=20)
    left_out = beside(summarise(ONE), summarise(three)).left_out
    assert left_out == {"german": "only in the second study"}


def test_an_untested_study_is_not_compared():
    untested = replace(
        ONE,
        trials=tuple(
            replace(t, outcomes={p: o for p, o in t.outcomes.items() if p != "test"})
            for t in ONE.trials
        ),
    )
    assert beside(summarise(ONE), summarise(untested)) is None
