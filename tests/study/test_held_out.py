"""Held-out objectives: scored in the test, and nothing before it depends on them."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest

from automerge.commands.export_trials import trial_rows
from automerge.commands.status import study_status
from automerge.config import load_config
from automerge.errors import ConfigError
from automerge.executors.local import LocalExecutor
from automerge.items import ItemDraw, Sealed, StudyItems
from automerge.report.card import model_card
from automerge.report.front import front_document
from automerge.report.html import html_report
from automerge.report.pick import pick
from automerge.report.summary import summarise
from automerge.samplers import SAMPLERS
from automerge.session.panel import study_panel
from automerge.session.plan import plan_study
from automerge.store.read_result import study_result
from automerge.store.store import Store
from automerge.study import Driver
from automerge.testing.studies import plain_record
from automerge.trial import PARTS, Job, Measured, Outcome
from tests.studies import SPACE, Unwatched, toy_plan
from tests.toy import ITEMS, OBJECTIVES, ToyWorker

GOAL, OTHER = OBJECTIVES
HELD_OUT = replace(OTHER, goal=False, held_out=True)
ONE = {"one": ITEMS["one"], "two": ()}


class Worker(ToyWorker):
    """Knows slopes and answers of the goal only, as a worker does."""

    def measure(self, job: Job) -> Outcome:
        found = super().measure(job)
        own = {name: own for name, own in found.slopes.items() if name == GOAL.name}
        return replace(found, slopes=own, answers={})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same study without and with a held-out task."""
    made = {}
    for name, objectives, test in (("plain", (GOAL,), ONE), ("held", (GOAL, HELD_OUT), ITEMS)):
        folder = tmp_path_factory.mktemp(name)
        draw = ItemDraw({"first": ("one",)}, 8, seed=0)
        plan = replace(toy_plan(12), objectives=(GOAL,), draw=draw)
        plan = replace(plan, items=StudyItems(ONE, ONE, Sealed(test)))
        record = plain_record(plan, ("a", "b"), n_layers=4)
        members = {o.name: (o.task,) for o in objectives}
        inputs = replace(record.begun.inputs, objectives=objectives, members=members)
        with Store(folder, write=True) as store:
            store.begin(replace(record, begun=replace(record.begun, inputs=inputs)))
            Driver(
                store,
                plan,
                SPACE,
                SAMPLERS["gp"](SPACE, 1, 0, 12),
                lambda: LocalExecutor(Worker),
                Unwatched(),
                lambda: False,
            ).run()
        made[name] = folder
    return made


def result_of(run):
    with Store(run, write=False) as store:
        return study_result(run, store)


def test_a_held_out_objective_changes_no_trial_and_no_choice(runs):
    plain, held = result_of(runs["plain"]), result_of(runs["held"])
    assert [t.trial.recipe for t in held.trials] == [t.trial.recipe for t in plain.trials]
    assert held.front == plain.front != ()
    assert held.knee == plain.knee
    for own, other in zip(held.trials, plain.trials, strict=True):
        for part in PARTS:
            assert own.scores(part, "first") == other.scores(part, "first")


def test_it_is_scored_in_the_test_only(runs):
    result = result_of(runs["held"])
    tested = [t for t in result.trials if isinstance(t.outcomes.get("test"), Measured)]
    assert {t.trial.number for t in tested} > set(result.front)
    for trial in result.trials:
        for part in ("search", "select"):
            scores = trial.scores(part, "second")
            assert scores is None or not scores.items
    for trial in tested:
        assert [doc for _, doc in trial.scores("test", "second").items] == list(ITEMS["two"])


def test_reports_have_its_test_scores_and_the_best_parent_on_them(runs):
    summary = summarise(result_of(runs["held"]))
    rivals = [m for m in summary.members if m.kind in ("base", "parent")]
    best = max(rivals, key=lambda m: m.scores["second"]["test"].value)
    assert summary.best_parent["second"] == best.name
    schema = json.loads(files("automerge.report").joinpath("front.schema.json").read_text())
    document = front_document(summary)
    jsonschema.validate(document, schema)
    assert [o["held_out"] for o in document["objectives"]] == [False, True]
    assert "held out" in html_report(summary)
    assert "second" in model_card(summary, summary.front[0].trial.trial.number, "merge")
    assert "second" not in summary.optimism


def test_nothing_is_chosen_by_it(runs):
    summary = summarise(result_of(runs["held"]))
    for chosen in ({"prefer": {"second": 1.0}}, {"at_least": {"second": 0.1}}):
        with pytest.raises(ConfigError, match="second is held out"):
            pick(summary, **{"prefer": {}, "at_least": {}, **chosen})
    assert pick(summary, {}, {}).member.on_front


def test_tables_have_columns_for_it_in_the_test_only(runs):
    with Store(runs["held"], write=False) as store:
        rows = list(trial_rows(store))
    assert "test.second.value" in rows[0]
    assert "search.second.value" not in rows[0]
    assert "second" not in json.dumps(study_status(runs["held"])["front"])


def test_the_plan_of_a_study_leaves_it_out():
    config = load_config(
        {
            "base": "org/base@1",
            "models": {"a": "org/a@1", "b": "org/b@1"},
            "tasks": ["one", {"task": "two", "held_out": True}],
        }
    )
    inputs = plain_record(toy_plan(20), ("a", "b"), 4).begun.inputs
    inputs = replace(inputs, objectives=(GOAL, HELD_OUT))
    plan, _ = plan_study(config, inputs, None)
    assert plan.objectives == (GOAL,)
    assert list(plan.draw.members) == ["first"]
    entries = study_panel(config).entries
    assert [entry.goal for entry in entries] == [True, False]
