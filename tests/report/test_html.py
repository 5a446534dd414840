import base64
import hashlib
import json
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from automerge.report.charts import chart_data
from automerge.report.choice import choose, ranked
from automerge.report.html import html_report, write_html
from automerge.report.parameters import parameters
from automerge.report.search_tables import MAX_ROWS, trial_rows, trials_left
from automerge.report.summary import summarise
from automerge.trial import Failed

from .factory import OBJECTIVES, PERPLEXITY, all_failed, empty, running, study

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements, scripts and styles; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.content = [], [], {"script": [], "style": [], "text": []}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.content[inside if inside in self.content else "text"].append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.content["text"]).split())


def cases():
    return {
        "four objectives": study(),
        "one objective": study(OBJECTIVES[:1], n_trials=20),
        "two objectives": study((OBJECTIVES[0], PERPLEXITY), n_trials=20),
        "five objectives, 200 trials": study((*OBJECTIVES, PERPLEXITY), n_trials=200),
        "running": running(study(n_trials=20)),
        "all failed": all_failed(study(n_trials=10)),
        "empty": empty(study(n_trials=1)),
    }


CASES = cases()


@pytest.mark.sample(3)
@pytest.mark.parametrize("result", CASES.values(), ids=CASES)
def test_the_page_is_whole_and_loads_nothing(result, tmp_path):
    path = write_html(summarise(result), tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 2_000_000
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert "style" not in attributes, "the policy forbids style attributes"
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    style = page.content["style"][0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_our_script_and_style_alone():
    page = Page(html_report(summarise(CASES["four objectives"])))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    data, script = page.content["script"]
    json.loads(data)
    for text, directive in ((script, "script-src"), (page.content["style"][0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_names_and_texts_of_a_stranger_stay_text():
    result = study(OBJECTIVES[:2], n_trials=14, name=EVIL, sources=(EVIL, "b", "c"))
    objective = replace(OBJECTIVES[0], name=EVIL)
    evil = study((objective, OBJECTIVES[1]), n_trials=8)
    failed = Failed("error", EVIL, EVIL)
    first, *rest = result.trials
    result = replace(
        result,
        trials=(*rest, replace(first, outcomes={"search": failed})),
        warnings=(EVIL,),
        provenance=replace(result.provenance, machine=EVIL, command=EVIL, versions={EVIL: EVIL}),
    )
    for each in (result, evil):
        page = Page(html_report(summarise(each)))
        assert sum(tag == "script" for tag, _ in page.tags) == 2
        assert not any(tag == "img" for tag, _ in page.tags)
        assert EVIL in page.text
        assert EVIL in json.dumps(json.loads(page.content["script"][0])).replace('\\"', '"')


def test_the_page_says_what_was_found_failed_and_how_to_repeat_it():
    result = CASES["four objectives"]
    text = Page(html_report(summarise(result))).text
    assert "merges on the front" in text
    assert "merged tensor model.layers.3.mlp.up_proj.weight is not finite" in text
    assert result.provenance.command in text
    assert "lm_eval run --model hf --model_args pretrained=models/" in text
    for m in result.provenance.models:
        assert m.path in text


def test_models_that_are_not_exported_come_with_the_command_that_exports_them():
    result = CASES["four objectives"]
    first, *others = result.front
    trials = (replace(t, model_dir=None) if t.trial.number in others else t for t in result.trials)
    text = Page(html_report(summarise(replace(result, trials=tuple(trials))))).text
    names = {t.trial.number: t.trial.name for t in result.trials}
    assert f"automerge chat . --trial {first}" in text
    assert f"automerge export . --trial {first}" not in text
    for number in others:
        score = f"lm_eval run --model hf --model_args pretrained=models/{names[number]},"
        assert f"automerge export . --trial {number} automerge chat . --trial {number}" in text
        assert f"automerge export . --trial {number} {score}" in text


def test_charts_hold_the_numbers_of_the_members():
    summary = summarise(CASES["four objectives"])
    data = chart_data(summary, parameters(summary))
    json.dumps(data, allow_nan=False)
    for member, drawn in zip(summary.members, data["members"], strict=True):
        assert drawn["name"] == member.name
        assert drawn["scores"][0][0] == member.scores["maths"]["test"].value
    assert len(data["trials"]) == 61
    assert data["progress"]["points"][-1][0] == 65


def test_parameters_come_with_what_they_explain_and_point_to_better_scores():
    summary = summarise(study(n_trials=150))
    varied = parameters(summary)
    found = {p["name"]: p for p in chart_data(summary, varied)["parameters"]}
    for parameter in found.values():
        known = [value for value in parameter["values"] if value is not None]
        assert len(known) >= max(a["n"] for a in parameter["associations"])
    first = found["maths-expert.weight"]["associations"][0]
    assert first["rank"] > 0.3
    assert 0 < first["low"] < first["explained"] < first["high"] < 1
    assert found["method"]["categories"] == ("dare_ties", "task_arithmetic", "ties")
    page = Page(html_report(summary)).text
    percent = [f"{100 * first[key]:.0f}" for key in ("explained", "low", "high")]
    assert "maths-expert.weight {} {} {} to {}, ρ".format(first["n"], *percent) in page


def test_the_merges_and_their_recipes_come_in_the_order_of_their_ranks():
    summary = summarise(CASES["four objectives"])
    text = html_report(summary)
    names = [member.name for member in ranked(summary)]
    chosen = choose(summary)
    assert chosen is not None
    assert names[0] == chosen.name
    for tag in ('<span class="rowhead name">{}</span>', '<summary><h3 class="name">{}</h3>'):
        places = [text.index(tag.format(name)) for name in names]
        assert places == sorted(places)


def test_of_many_trials_the_table_has_the_best():
    summary = summarise(study(OBJECTIVES[:1], n_trials=MAX_ROWS + 60))
    rows = trial_rows(summary)
    assert len(rows) == MAX_ROWS
    shown = {row["name"] for row in rows}
    values = {t.trial.name: t.search_estimate(OBJECTIVES[0]) for t in summary.result.trials}
    left = [v.value for name, v in values.items() if v is not None and name not in shown]
    assert max(left) <= min(values[name].value for name in shown)
    assert f"The {MAX_ROWS} of " in trials_left(summary)


def test_secrets_are_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-secret-token")
    result = study(n_trials=6)
    command = "HF=hf_abcdefghijklmnopqrstuvwx TOKEN=planted-secret-token git clone https://u:p@h/x"
    result = replace(result, provenance=replace(result.provenance, command=command))
    text = write_html(summarise(result), tmp_path).read_text()
    assert "hf_abcdefghijkl" not in text
    assert "planted-secret-token" not in text
    assert "u:p@" not in text


@pytest.mark.slow
def test_ten_thousand_trials_are_reported_in_a_minute(tmp_path):
    result = study(OBJECTIVES[:2], n_trials=10_000)
    start = time.monotonic()
    path = write_html(summarise(result), tmp_path)
    assert time.monotonic() - start < 60
    assert path.stat().st_size < 6_000_000
