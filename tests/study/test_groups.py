"""Studies of a group: what is told, kept, chosen and reported, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from automerge.config import load_config
from automerge.errors import ConfigError, PreflightError
from automerge.executors.local import LocalExecutor
from automerge.objective import Objective, estimate
from automerge.recipe import uniform_average
from automerge.report.followed import followed
from automerge.report.front import front_document
from automerge.report.html import html_report
from automerge.report.summary import summarise
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Sampler
from automerge.session.groups import group_objectives
from automerge.store.read_result import study_result
from automerge.store.store import Store
from automerge.study import Driver
from automerge.testing.studies import plain_record
from automerge.trial import Measured
from tests.studies import SPACE, Unwatched, toy_plan
from tests.toy import OBJECTIVES, ToyWorker

MEMBERS = tuple(replace(o, goal=False) for o in OBJECTIVES)
WORST = Objective(
    "weakest",
    "first, second",
    "worst",
    "none",
    "maximize",
    "min_of_means",
    members=("first", "second"),
    relative=True,
)


def run(folder, budget, sampler="gp", window=None):
    plan = replace(toy_plan(budget), objectives=(*MEMBERS, WORST), window=window)
    with Store(folder, write=True) as store:
        if not store.begun:
            store.begin(plain_record(plan, ("a", "b"), n_layers=4))
        Driver(
            store,
            plan,
            SPACE,
            SAMPLERS[sampler](SPACE, 1, 0, 14),
            lambda: LocalExecutor(ToyWorker),
            Unwatched(),
            lambda: False,
        ).run()
        return study_result(folder, store, state="finished")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(tmp_path_factory.mktemp("group"), 14)


def test_the_front_is_the_best_by_the_worst_ratio_to_the_experts(result):
    assert [o.name for o in result.goals] == ["weakest"]
    values = {}
    for trial in result.trials:
        if isinstance(found := trial.outcomes.get("select"), Measured):
            values[trial.trial.number] = {
                name: np.mean(found.scores[name].values) for name in ("first", "second")
            }
    experts = {name: max(values[n][name] for n in result.parents) for name in ("first", "second")}
    worst = {n: min(own[k] / experts[k] for k in experts) for n, own in values.items()}
    assert list(result.front) == [n for n in worst if worst[n] == max(worst.values())]
    for number, value in worst.items():
        scores = result.by_number[number].scores("select", "weakest")
        assert estimate(scores, "min_of_means").value == pytest.approx(value)


def test_nothing_of_a_group_is_stored_and_reports_show_it(result):
    summary = summarise(result)
    document = json.loads(json.dumps(front_document(summary)))
    schema = json.loads(files("automerge.report").joinpath("front.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert {m["name"] for m in document["members"]} >= {"a", "b", "uniform"}
    (member,) = [m for m in document["members"] if m["name"] == "uniform"]
    assert 0 < member["scores"]["weakest"]["test"]["value"] < 2
    assert "weakest" in html_report(summary)


def test_a_study_of_a_group_resumes_as_if_it_had_never_stopped(result, tmp_path):
    run(tmp_path, 3)  # before all sources are measured
    run(tmp_path, 9)
    again = run(tmp_path, 14)
    assert [t.trial for t in again.trials] == [t.trial for t in result.trials]
    assert again.front == result.front


def test_nothing_is_proposed_before_the_units_of_a_group_are_known(tmp_path):
    run(tmp_path, 9, window=7)  # room for three proposals beside base, sources and average
    with Store(tmp_path, write=False) as store:
        events = [(event.kind, event.trial) for event in store.events()]
    first_proposal = events.index(("ask", 4))
    assert {("tell", 1), ("tell", 2)} <= set(events[:first_proposal])  # the sources


class Listener(Sampler):
    """Asks for slopes of the uniform average's neighbours, and keeps what it is told."""

    def __init__(self):
        self.told = {}

    def ask(self, number):
        at = SPACE.position(SPACE.params(uniform_average(("a", "b"))))
        at[: len(SPACE.roles)] += 0.01 * (number - 3)
        return SPACE.at(at)

    def wants_slopes(self, number):
        return 1.0

    def tell(self, number, params, told):
        self.told[number] = told


@pytest.mark.parametrize("worst", [True, False])
def test_members_of_a_group_are_told_in_its_unit_with_the_slopes_of_their_losses(tmp_path, worst):
    group = WORST if worst else replace(WORST, aggregation="mean_of_means")
    plan, sampler = replace(toy_plan(8), objectives=(*MEMBERS, group)), Listener()
    with Store(tmp_path, write=True) as store:
        store.begin(plain_record(plan, ("a", "b"), n_layers=4))
        context = LocalExecutor(ToyWorker)
        Driver(store, plan, SPACE, sampler, lambda: context, Unwatched(), lambda: False).run()
        measured = store.outcomes("search")
        trials = {trial.number: trial for trial in store.trials()}
    experts = [sampler.told[n].members[0].losses for n in (1, 2)]
    assert min(own[0] for own in experts) == min(own[1] for own in experts) == -1
    with_slopes = 0
    for number, told in sampler.told.items():
        (members,) = told.members
        combine = max if worst else np.mean
        assert told.losses[0] == pytest.approx(combine(members.losses))
        deciding = members.errors[int(np.argmax(members.losses))]
        error = deciding if worst else np.hypot(*members.errors) / 2
        assert told.errors[0] == pytest.approx(error)
        assert told.slopes is None or told.slopes == (None,)
        if members.slopes is not None:
            with_slopes += 1
            for name, slopes in zip(group.members, members.slopes, strict=True):
                kept = measured[number].slopes[name]
                assert slopes.loss == kept.loss
                assert slopes.by_role == SPACE.pull_back(trials[number].params, kept.by)
    assert with_slopes > 2


def test_a_study_of_a_group_follows_slopes_of_its_members_and_resumes(tmp_path):
    whole = run(tmp_path / "whole", 16, sampler="descent")
    assert sum(trial.trial.slopes > 0 for trial in whole.trials) > 5
    assert {row.objective for row in followed(whole)} == {"first", "second"}
    run(tmp_path / "parts", 9, sampler="descent")
    again = run(tmp_path / "parts", 16, sampler="descent")
    assert [t.trial for t in again.trials] == [t.trial for t in whole.trials]


def config_of(tmp_path, groups, tasks=("one", "two", "three")):
    (tmp_path / "base").mkdir(exist_ok=True)
    (tmp_path / "left").mkdir(exist_ok=True)
    study = {"base": "./base", "models": {"left": "./left"}, "tasks": list(tasks), "groups": groups}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))
    return load_config(path)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([{"name": "g", "worst": ["one", "tow"]}], "no task 'tow'; did you mean 'two'"),
        ([{"name": "g", "worst": ["one"]}], "needs two tasks or more"),
        ([{"name": "g"}], "either `mean` or `worst`"),
        ([{"name": "one", "mean": ["one", "two"]}], "another objective is named 'one'"),
        (
            [{"name": "g", "mean": ["one", "two"]}, {"name": "h", "worst": ["two", "three"]}],
            "'two' is in another group with other tasks",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused_where_they_are_written(tmp_path, groups, said):
    with pytest.raises(ConfigError, match=said):
        config_of(tmp_path, groups)


class Tasks:
    """What a group needs to know of tasks that were opened."""

    def __init__(self, *objectives, members=None):
        self.objectives = objectives
        self.members = {o.name: (o.task,) for o in objectives} | (members or {})


def test_a_group_takes_means_of_one_task_each_in_one_direction(tmp_path):
    config = config_of(tmp_path, [{"name": "g", "worst": ["one", "two"], "relative": True}])
    assert config.n_goals == 2
    assert config.grouped == {"one", "two"}
    one = Objective("one", "one", "acc", "none", "maximize")
    two = replace(one, name="two", task="two")
    (made,) = group_objectives(config, Tasks(one, two))
    assert (made.aggregation, made.members, made.relative) == (
        "min_of_means",
        ("one", "two"),
        True,
    )
    for tasks, said in (
        (Tasks(one, replace(two, direction="minimize")), "partly maximised"),
        (Tasks(one, replace(two, aggregation="perplexity")), "not the mean of one task"),
        (Tasks(one, two, members={"two": ("x", "y")}), "not the mean of one task"),
        (Tasks(one, replace(two, task="one")), "the same items"),
    ):
        with pytest.raises(PreflightError, match=said):
            group_objectives(config, tasks)
