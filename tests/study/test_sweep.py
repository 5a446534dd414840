"""A sweep of linear merges on the simplex, as a reference beside the search's front."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from automerge import pareto
from automerge.config import load_config
from automerge.errors import ConfigError
from automerge.executors.local import LocalExecutor
from automerge.report.front import front_document
from automerge.report.html import html_report
from automerge.report.summary import summarise
from automerge.samplers import SAMPLERS
from automerge.space import simplex_sweep, sweep_size
from automerge.store.read_result import study_result
from automerge.store.store import Store
from automerge.study import Driver, FirstTrial
from automerge.testing.studies import plain_record
from automerge.trial import Measured
from tests.studies import FIRST, SPACE, Unwatched, toy_plan
from tests.toy import OBJECTIVES, ToyWorker


@pytest.mark.parametrize(("n", "steps"), [(1, 3), (2, 1), (2, 4), (3, 3), (3, 4), (4, 4)])
def test_a_sweep_is_the_lattice_without_what_a_study_has_anyway(n, steps):
    sources = "abcd"[:n]
    points = [
        counts for counts in itertools.product(range(steps + 1), repeat=n) if sum(counts) == steps
    ]
    expected = {c for c in points if max(c) < steps and len(set(c)) > 1}
    found = dict(simplex_sweep(sources, steps))
    assert len(found) == sweep_size(n, steps) == len(expected)
    for counts in expected:
        recipe = found[f"sweep-{'-'.join(map(str, counts))}"]
        weights = {s.name: s.knobs["weight"].parts[0][1][0] for s in recipe.sources}
        own = {s: k / steps for s, k in zip(sources, counts, strict=True) if k}
        assert recipe.method == "linear"
        assert weights == pytest.approx(own, abs=5e-7)  # recipes have six decimals
    assert sweep_size(n, 0) == 0


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    sweep = tuple(FirstTrial(name, "sweep", made) for name, made in simplex_sweep("ab", 6))
    plan = replace(toy_plan(14), first=(*FIRST, *sweep), shortlist=2)
    folder = tmp_path_factory.mktemp("sweep")
    with Store(folder, write=True) as store:
        store.begin(plain_record(plan, ("a", "b"), n_layers=4))
        Driver(
            store,
            plan,
            SPACE,
            SAMPLERS["random"](SPACE, 2, 0, 14),
            lambda: LocalExecutor(ToyWorker),
            Unwatched(),
            lambda: False,
        ).run()
        return study_result(folder, store, state="finished")


def losses(trial, part):
    found = trial.outcomes[part]
    assert isinstance(found, Measured)
    return [-float(np.mean(found.scores[o.name].values)) for o in OBJECTIVES]


def test_what_neither_the_sweep_nor_a_parent_dominates_on_select_items_is_tested(result):
    swept = [t for t in result.trials if t.trial.origin == "sweep"]
    others = [t for t in result.trials if t.trial.number < 4]
    assert len(swept) == 4
    rows = [losses(t, "select") for t in (*swept, *others)]
    keep = pareto.nondominated(np.array(rows))[: len(swept)]
    on_front = [t.trial.number in result.front for t in swept]
    tested = ["test" in t.outcomes for t in swept]
    assert tested == [bool(k) or f for k, f in zip(keep, on_front, strict=True)]
    assert sum("select" in t.outcomes for t in result.trials) <= 8 + 2


def test_the_report_has_the_sweeps_hypervolume(result):
    summary = summarise(result)
    found = summary.hypervolume
    reference = [t for t in result.trials if t.trial.origin == "sweep" and "test" in t.outcomes]
    rows = [losses(t, "test") for t in (*reference, *(result.trials[i] for i in range(4)))]
    far = [-found.reference[o.name] for o in OBJECTIVES]
    ideal = [-found.ideal[o.name] for o in OBJECTIVES]
    box = np.prod(np.subtract(far, ideal))
    assert found.sweep == pytest.approx(pareto.hypervolume(rows, np.array(far)) / box)
    assert found.sweep >= max(found.parents, found.uniform)
    document = json.loads(json.dumps(front_document(summary)))
    schema = json.loads(files("automerge.report").joinpath("front.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert document["hypervolume"]["sweep"] == pytest.approx(found.sweep)
    assert "sweep of linear merges" in html_report(summary)


def test_a_sweep_that_the_budget_cannot_hold_is_refused(tmp_path):
    for name in ("base", "a", "b", "c"):
        (tmp_path / name).mkdir()
    study = {
        "base": "./base",
        "models": {n: f"./{n}" for n in "abc"},
        "tasks": ["one"],
        "sweep": 4,
        "budget": 11,
    }
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    with pytest.raises(ConfigError, match=r"steps of 1/4 are 12 merges of 3 sources"):
        load_config(path)
    path.write_text(json.dumps({**study, "budget": 12}))
    assert load_config(path).sweep == 4
