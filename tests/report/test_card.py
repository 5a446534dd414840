import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from automerge.report.card import escape, model_card
from automerge.report.summary import summarise
from automerge.store.result import ModelOrigin

from .factory import OBJECTIVES, PERPLEXITY, running, study

RESULT = study((*OBJECTIVES[:2], PERPLEXITY), n_trials=20)


def test_the_card_is_read_by_the_hub_and_quotes_test_scores_only():
    card = ModelCard(model_card(summarise(RESULT), RESULT.front[0], "acme/merge"))
    data = card.data
    member = next(m for m in summarise(RESULT).members if m.trial.trial.number == RESULT.front[0])
    assert data.base_model == [f"acme/{name}" for name in ("base", *RESULT.sources)]
    assert {"merge", "automerge"} <= set(data.tags)
    values = {e.metric_name: e.metric_value for e in data.eval_results}
    expected = {
        f"{o.metric},{o.filter}": member.scores[o.name]["test"].value for o in RESULT.objectives
    }
    assert values == pytest.approx(expected)
    assert data.license == "other"
    assert "cc-by-nc-4.0" in card.text


def test_the_recipe_in_the_card_is_the_recipe():
    card = model_card(summarise(RESULT), RESULT.front[0], "acme/merge")
    text = re.search(r"```yaml\n(.*?)```", card, re.DOTALL).group(1)
    trial = next(t for t in RESULT.trials if t.trial.number == RESULT.front[0])
    assert yaml.safe_load(text) == trial.trial.recipe.plain()


def test_equal_licences_stay_and_unknown_ones_are_said():
    def with_license(license):
        models = tuple(replace(m, license=license) for m in RESULT.provenance.models)
        return replace(RESULT, provenance=replace(RESULT.provenance, models=models))

    same = model_card(summarise(with_license("mit")), RESULT.front[0], "x")
    assert ModelCard(same).data.license == "mit"
    unknown = model_card(summarise(with_license(None)), RESULT.front[0], "x")
    assert ModelCard(unknown).data.license is None
    assert "Unknown, check before use: base" in unknown


def test_the_alignment_of_its_models_is_part_of_the_recipe_and_said():
    how = f"git_rebasin@{'0' * 32}"
    models = tuple(
        m if m.name == "base" else replace(m, align=how) for m in RESULT.provenance.models
    )
    result = replace(RESULT, provenance=replace(RESULT.provenance, models=models))
    card = model_card(summarise(result), RESULT.front[0], "x")
    recipe = result.by_number[RESULT.front[0]].trial.recipe
    [text] = re.findall(r"```yaml\n(.*?)```", card, flags=re.DOTALL)
    assert yaml.safe_load(text)["align"] == {source.name: how for source in recipe.sources}
    assert "Put in the order of the base's units before merging" in card
    assert "align" not in model_card(summarise(RESULT), RESULT.front[0], "x")


def test_paths_of_the_machine_stay_off_the_card():
    models = tuple(
        ModelOrigin(m.name, f"/home/somebody/{m.name}") for m in RESULT.provenance.models
    )
    result = replace(RESULT, provenance=replace(RESULT.provenance, models=models))
    card = model_card(summarise(result), RESULT.front[0], "x")
    assert "somebody" not in card
    assert ModelCard(card).data.base_model is None


def test_names_of_a_stranger_stay_text():
    evil = "x](javascript:alert(1)) <b>|\n# head\n---\ntags: [evil]"
    result = study(OBJECTIVES[:2], n_trials=6, name=evil, sources=(evil, "b", "c"))
    card = model_card(summarise(result), result.front[0], evil)
    body = re.sub(r"```.*?```", "", card.split("\n---\n", 1)[1], flags=re.DOTALL)
    assert "<b>" not in body
    assert "](javascript" not in body
    assert "\n# head" not in body
    assert "evil" not in ModelCard(card).data.tags
    assert escape(evil).count("\n") == 0


def test_fences_are_longer_than_any_in_the_text():
    result = replace(RESULT, provenance=replace(RESULT.provenance, command="a\n````\n# out"))
    assert "`````sh\na\n````\n# out\n`````" in model_card(summarise(result), RESULT.front[0], "x")


def test_well_known_benchmarks_that_were_optimised_for_are_named():
    card = model_card(summarise(RESULT), RESULT.front[0], "x")
    (line,) = [line for line in card.splitlines() if "GSM8K" in line]
    items = {i for t in RESULT.trials if (s := t.scores("search", "maths")) for i in s.items}
    assert f"was optimised for, on {len(items)} search items of gsm8k" in line
    assert "no longer measure general ability" in line
    own = [replace(o, task=f"own_{i}") for i, o in enumerate(OBJECTIVES[:2])]
    result = study(own, n_trials=6)
    assert "Optimised for" not in model_card(summarise(result), result.front[0], "x")


def test_a_model_that_was_not_tested_claims_nothing():
    card = model_card(summarise(running(RESULT), [9]), 9, "x")
    assert "so nothing is claimed" in card
    assert "model-index" not in card
    assert "not on the front" in card


def test_a_trial_the_study_lacks_is_an_error():
    with pytest.raises(ValueError, match=r"trial 999 of .* was not summarised"):
        model_card(summarise(RESULT), 999, "x")


def test_tokens_are_hidden():
    command = "HF_TOKEN=hf_abcdefghijklmnopqrstuv automerge search"
    result = replace(RESULT, provenance=replace(RESULT.provenance, command=command))
    assert "hf_abcdef" not in model_card(summarise(result), RESULT.front[0], "x")
