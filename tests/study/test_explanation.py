"""What explains the model to take: slopes on the line from equal weights, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from automerge.report.choice import choose
from automerge.report.gains import LINE
from automerge.report.html import html_report
from automerge.report.study import load_study
from automerge.store.store import Store
from automerge.study.explanation import on_line
from automerge.trial import Failed, Job, Outcome
from tests.studies import toy_plan, toy_study
from tests.toy import ToyWorker, quality

BUDGET = 16


def explained_jobs(folder: Path) -> list[str]:
    lines = (folder / "witness").read_text().splitlines()
    return [line.rsplit(" ", 1)[0] for line in lines if line.startswith("explain")]


@pytest.fixture(scope="module")
def descended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("descended")
    return toy_study(folder, BUDGET, sampler="descent", worker=ToyWorker(folder / "witness"))


def test_the_model_to_take_is_measured_along_the_line(descended: Path) -> None:
    study = load_study(descended)
    choice = choose(study.summary)
    assert choice is not None
    [own] = [t for t in study.result.trials if t.explained]
    assert own.trial.name == choice.name
    recipes = [on_line(own.trial.recipe, at) for at in LINE]
    assert explained_jobs(descended) == [f"explain {k} {r.id}" for k, r in enumerate(recipes)]
    for found, recipe in zip(own.explained, recipes, strict=True):
        assert not found.scores
        assert not found.margins
        assert {name: slope.loss for name, slope in found.slopes.items()} == {
            name: pytest.approx(1 - quality(recipe, name)) for name in ("first", "second")
        }


def test_it_changes_no_result_and_is_measured_once(descended: Path, tmp_path: Path) -> None:
    def refuses(job: Job) -> Outcome | None:
        return Failed("error", "no slopes today") if job.part == "explain" else None

    without = load_study(
        toy_study(tmp_path, BUDGET, sampler="descent", worker=ToyWorker(fail=refuses))
    )
    whole = load_study(descended).result
    stripped = replace(
        whole,
        study=without.result.study,
        provenance=without.result.provenance,
        trials=tuple(replace(t, explained=()) for t in whole.trials),
    )
    assert stripped == without.result
    before = explained_jobs(descended)
    toy_study(descended, BUDGET, sampler="descent", worker=ToyWorker(descended / "witness"))
    assert explained_jobs(descended) == before


def test_a_search_without_slopes_is_not_explained(tmp_path: Path) -> None:
    found = load_study(toy_study(tmp_path, sampler="random"))
    assert found.front
    assert not any(t.explained for t in found.result.trials)


def test_an_interrupted_explanation_goes_on_where_it_stopped(
    descended: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stops(job: Job) -> Outcome | None:
        if job.part == "explain" and job.block == 1:
            raise Stopped
        return None

    with pytest.raises(Stopped):
        toy_study(tmp_path, BUDGET, sampler="descent", worker=ToyWorker(fail=stops))
    with Store(tmp_path, write=False) as store:
        assert [len(found) for found in store.explained().values()] == [1]
    resumed = load_study(toy_study(tmp_path, BUDGET, sampler="descent"))
    assert resumed.result.trials == load_study(descended).result.trials


def test_room_for_it_is_left_within_a_limit_on_items() -> None:
    plan = toy_plan(12)
    per_trial = plan.n_items("sampler")
    assert plan.n_later - replace(plan, slopes=False).n_later == len(LINE) * per_trial


def test_what_each_proposal_was_for_is_stored(descended: Path) -> None:
    with Store(descended, write=False) as store:
        trials = store.trials()
    found = [t.direction for t in trials if t.direction]
    assert found
    assert all(len(d) == 2 and sum(d) == pytest.approx(1) for d in found)
    assert not any(t.direction for t in trials if t.origin != "sampler")
    report = html_report(load_study(descended).summary)
    assert "What each direction of descent bought" in report
