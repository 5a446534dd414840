import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

from automerge.objective import ItemScores
from automerge.report.conclusion import conclusion
from automerge.report.front import front_document, write_front
from automerge.report.summary import summarise
from automerge.trial import Measured, Timings

from .factory import OBJECTIVES, PERPLEXITY, all_failed, empty, running, study

SCHEMA = json.loads(files("automerge.report").joinpath("front.schema.json").read_text())
DOCS = Path(__file__).parents[2] / "docs" / "front_schema.md"


def cases():
    five = (*OBJECTIVES, PERPLEXITY)
    return {
        "four objectives": study(),
        "one objective": study(OBJECTIVES[:1]),
        "mixed units": study((OBJECTIVES[0], PERPLEXITY)),
        "five objectives": study(five, n_trials=30),
        "running": running(study(n_trials=10)),
        "all failed": all_failed(study(n_trials=10)),
        "empty": empty(study(n_trials=1)),
    }


CASES = cases()


@pytest.mark.parametrize("result", CASES.values(), ids=CASES)
def test_the_document_follows_its_schema_and_is_json(result, tmp_path):
    path = write_front(summarise(result), tmp_path)
    document = json.loads(path.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert [p.name for p in tmp_path.iterdir()] == ["front.json"]


def test_the_documentation_names_every_field_of_the_schema():
    def fields(schema):
        for name, inner in schema.get("properties", {}).items():
            yield name
            yield from fields(inner)
        for inner in schema.get("$defs", {}).values():
            yield from fields(inner)
        if isinstance(inner := schema.get("additionalProperties"), dict):
            yield from fields(inner)

    text = DOCS.read_text()
    missing = [name for name in dict.fromkeys(fields(SCHEMA)) if f"`{name}`" not in text]
    assert missing == []


def scored(result, number, part, objective, values):
    """The study with one trial's scores of one objective replaced."""

    def change(trial):
        if trial.trial.number != number:
            return trial
        old = trial.outcomes[part]
        items = old.scores[objective].items
        scores = {**old.scores, objective: ItemScores(items, tuple(map(float, values)))}
        outcomes = {**trial.outcomes, part: Measured(scores, Timings())}
        return replace(trial, outcomes=outcomes)

    return replace(result, trials=tuple(map(change, result.trials)))


def test_the_best_parent_is_chosen_on_select_items_though_another_wins_the_test():
    result = scored(study(n_trials=12), 2, "test", "maths", [1] * 600)
    document = front_document(summarise(result))
    assert document["objectives"][0]["best_parent"] == "maths-expert"
    front = next(m for m in document["members"] if m["kind"] == "front")
    assert front["versus"]["best_parent"]["maths"]["parent"] == "maths-expert"
    moved = scored(result, 2, "select", "maths", [1] * 250)
    assert front_document(summarise(moved))["objectives"][0]["best_parent"] == "code-expert"


def test_differences_are_those_of_the_test_items():
    document = front_document(summarise(study()))
    members = {m["name"]: m for m in document["members"]}
    front = next(m for m in document["members"] if m["kind"] == "front")
    versus = front["versus"]["best_parent"]["code"]
    scores = [m["scores"]["code"]["test"]["value"] for m in (front, members[versus["parent"]])]
    assert versus["difference"] == pytest.approx(scores[0] - scores[1])
    assert versus["low"] < versus["difference"] < versus["high"]
    assert versus["n"] == 600


def test_a_parent_on_the_front_appears_once():
    result = study(n_trials=12)
    result = replace(result, front=(*result.front, 1))
    members = [m for m in front_document(summarise(result))["members"] if m["trial"] == 1]
    assert [(m["kind"], m["on_front"]) for m in members] == [("parent", True)]


def test_a_front_of_parents_only_is_said():
    result = replace(study(n_trials=5), front=(1, 2), knee=1)
    assert "No merge is on the front" in conclusion(summarise(result))[0]


def test_the_search_value_is_what_the_search_believed():
    result = study(n_trials=12)
    front = next(t for t in result.trials if t.trial.number == result.front[0])
    document = front_document(summarise(result))
    member = next(m for m in document["members"] if m["trial"] == front.trial.number)
    assert member["scores"]["code"]["search"]["value"] == front.believed["code"].value
    assert member["scores"]["code"]["search"]["stderr"] == front.believed["code"].stderr


def test_noise_is_not_called_a_finding():
    """Merges that are copies of a parent in skill are hardly ever said to beat every parent."""
    claims = 0
    for seed in range(12):
        result = study(OBJECTIVES[:2], n_trials=6, seed=seed)
        best = next(t for t in result.trials if t.trial.number == 1)
        fresh = study(OBJECTIVES[:2], n_trials=6, seed=1000 + seed)
        copies = dict.fromkeys(result.front, fresh.trials[1].outcomes)
        trials = tuple(
            replace(
                t,
                outcomes={
                    **t.outcomes,
                    **{p: copies[t.trial.number][p] for p in ("select", "test")},
                },
            )
            if t.trial.number in copies
            else t
            for t in result.trials
        )
        assert best.trial.name == "maths-expert"
        means = summarise(replace(result, trials=trials)).means
        claims += bool(means.winners)
    assert claims <= 2


def test_a_clear_winner_is_called_one():
    result = study(OBJECTIVES[:2], n_trials=8)
    winner = result.front[0]
    for objective in ("maths", "code"):
        for part, size in (("select", 250), ("test", 600)):
            result = scored(result, winner, part, objective, [1] * size)
    summary = summarise(result)
    name = next(t.trial.name for t in result.trials if t.trial.number == winner)
    assert name in summary.means.winners
    assert summary.means.chosen == name
    assert name in summary.gains
    first = conclusion(summary)[1]
    assert "every parent on the mean of 2 objectives" in first
    assert not first.startswith("None")


def test_a_member_not_yet_tested_makes_no_claim():
    result = study(n_trials=8)
    trials = tuple(
        replace(t, outcomes={p: o for p, o in t.outcomes.items() if p != "test"})
        for t in result.trials
    )
    document = front_document(summarise(replace(result, trials=trials)))
    assert "not tested yet" in document["conclusion"][0]
    assert document["hypervolume"] is None
    assert document["optimism"] == {}


def test_an_all_equal_objective_gives_no_number_that_json_lacks():
    result = study(OBJECTIVES[:2], n_trials=4)
    for t in result.trials:
        for part, size in (("select", 250), ("test", 600)):
            if part in t.outcomes:
                result = scored(result, t.trial.number, part, "maths", [7] * size)
    json.dumps(front_document(summarise(result)), allow_nan=False)


def test_budget_nothing_and_all_failed_are_said():
    assert conclusion(summarise(CASES["empty"])) == ("Nothing was measured: the budget was 0.",)
    assert conclusion(summarise(CASES["all failed"]))[0].startswith("All 15 trials failed")


def test_minimised_objectives_are_judged_the_right_way_round():
    summary = summarise(CASES["mixed units"])
    for member in summary.front:
        versus = member.versus_parent["wikitext"]
        if versus.difference.low > 0:
            assert member.name not in summary.gains
