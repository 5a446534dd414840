"""The report in Chromium: charts, sliders, sorting, copying, keyboard, contrast, no scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from automerge.report.html import html_report
from automerge.report.pick import pick
from automerge.report.summary import summarise
from tests.browser import CHROMIUM, Browser, browser

from .factory import OBJECTIVES, PERPLEXITY, study
from .test_html import CASES, EVIL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
FOUR = CASES["four objectives"]
MIXED = study((*OBJECTIVES[:2], PERPLEXITY), n_trials=40)
OPEN_ALL = "for (const node of document.querySelectorAll('details')) node.open = true"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium") / "profile") as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for number, (name, result) in enumerate({**CASES, "mixed": MIXED}.items()):
        found[name] = folder / f"{number}.html"
        found[name].write_text(html_report(summarise(result)), encoding="utf-8")
    return found


DRAWN = """(() => {
  OPEN_ALL;
  return new Promise((done) => setTimeout(() => done({
    empty: [...document.querySelectorAll('.chart')]
      .filter((c) => !c.children.length).map((c) => c.id),
    wrong: [...document.querySelectorAll('svg *')].filter((n) =>
      [...n.attributes].some((a) => /NaN|undefined|Infinity/.test(a.value))).length,
    over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }), 300));
})()""".replace("OPEN_ALL", OPEN_ALL)


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
@pytest.mark.parametrize("name", CASES)
def test_every_chart_is_drawn_without_complaint(
    chromium: Browser, pages: Mapping[str, Path], name: str, width: int, dark: bool
) -> None:
    chromium.open(pages[name], width=width, dark=dark)
    assert chromium.run(DRAWN) == {"empty": [], "wrong": 0, "over": 0}
    assert chromium.complaints == []


def wish(key: str, value: object, place: int) -> str:
    return (
        f"(() => {{ const node = document.querySelector('[data-{key}=\"{place}\"]');"
        f"node.value = {json.dumps(str(value))};"
        "node.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


PICKED = "document.querySelector('[data-picked]')?.dataset.picked ?? null"


@pytest.mark.parametrize(("name", "result"), [("four objectives", FOUR), ("mixed", MIXED)])
def test_the_sliders_pick_what_the_command_picks(
    chromium: Browser, pages: Mapping[str, Path], name: str, result: object
) -> None:
    summary = summarise(result)
    objectives = summary.result.objectives
    chromium.open(pages[name])
    assert chromium.run(PICKED) == pick(summary, {}, {}).member.name
    found = set()
    wanted = [[4 if k == row else 0.5 * (k % 3) for k in range(4)] for row in range(4)]
    for weights in [*wanted, [0, 0.5, 4, 2.5], [3.5, 0, 1, 0]]:
        for place, weight in enumerate(weights[: len(objectives)]):
            chromium.run(wish("weight", weight, place))
        prefer = {o.name: w for o, w in zip(objectives, weights, strict=False) if w}
        best = pick(summary, prefer, {})
        assert chromium.run(PICKED) == best.member.name
        found.add(best.member.name)
        said = chromium.run("document.querySelector('#picked .about').textContent")
        utility = f"{best.utility:.3f}" if best.rescaled else f"{100 * best.utility:.1f} %"
        assert f"weighted mean {utility}" in said
        command = chromium.run("document.querySelector('#picked pre').textContent")
        text = ",".join(f"{o}={w:g}" for o, w in prefer.items())
        assert command.startswith(f"automerge pick . --prefer {text}\n")
        assert f"--trial {best.member.trial.trial.number}" in command
    assert len(found) > 1


def test_bounds_hold_and_too_hard_ones_are_said(
    chromium: Browser, pages: Mapping[str, Path]
) -> None:
    summary = summarise(MIXED)
    chromium.open(pages["mixed"])
    scores = sorted(m.scores["wikitext"]["select"].value for m in summary.front)
    bound = scores[1] + 1e-6
    chromium.run(wish("bound", bound, 2))
    best = pick(summary, {}, {"wikitext": bound})
    assert chromium.run(PICKED) == best.member.name
    assert f"of {best.left} merges within the bounds" in chromium.run(
        "document.getElementById('picked').textContent"
    )
    chromium.run(wish("bound", 99.9, 0))
    assert chromium.run(PICKED) is None
    assert "No merge on the front meets" in chromium.run(
        "document.getElementById('picked').textContent"
    )
    chromium.run("document.querySelector('#preferences button').click()")
    assert chromium.run(PICKED) == pick(summary, {}, {}).member.name
    for place in range(3):
        chromium.run(wish("weight", 0, place))
    assert "a weight above 0" in chromium.run("document.getElementById('picked').textContent")


def test_a_click_on_a_head_sorts_and_another_sorts_back(
    chromium: Browser, pages: Mapping[str, Path]
) -> None:
    chromium.open(pages["four objectives"])
    column = """(click) => {
      const table = document.querySelector('#numbers table.sortable');
      const head = table.tHead.rows[0].cells[2];
      if (click) head.querySelector('button').click();
      return [head.getAttribute('aria-sort'),
        [...table.tBodies[0].rows].map((row) => Number(row.cells[2].dataset.sort))];
    }"""
    values = [m.scores["maths"]["test"].value for m in summarise(FOUR).members]
    assert chromium.run(f"({column})(false)")[0] is None
    assert chromium.run(f"({column})(true)") == ["descending", sorted(values, reverse=True)]
    assert chromium.run(f"({column})(true)") == ["ascending", sorted(values)]


def test_commands_are_copied(chromium: Browser, pages: Mapping[str, Path]) -> None:
    chromium.open(pages["four objectives"])
    script = """(async () => {
      let copied = null;
      navigator.clipboard.writeText = async (text) => { copied = text; };
      const place = document.querySelector('#provenance .copyable');
      place.querySelector('button').click();
      await new Promise((done) => setTimeout(done));
      return [copied, place.querySelector('button').textContent];
    })()"""
    assert chromium.run(script) == [FOUR.provenance.command, "Copied"]
    commands = chromium.run("document.querySelectorAll('pre.command').length")
    assert chromium.run("document.querySelectorAll('.copyable > .copy').length") == commands


def test_a_chart_is_one_stop_and_arrows_go_through_it(
    chromium: Browser, pages: Mapping[str, Path]
) -> None:
    chromium.open(pages["four objectives"])
    chromium.run(OPEN_ALL)
    chromium.press("Tab", 9)
    assert chromium.run("document.activeElement.className") == "skip"
    chromium.run("new Promise((done) => setTimeout(done, 300))")
    stops = "[...document.querySelectorAll('.chart:not(#progress-chart), .heat')].map((c) =>"
    stops += " c.querySelectorAll('[tabindex=\"0\"]').length)"
    assert set(chromium.run(stops)) == {1}
    chromium.run("document.querySelector('#front-chart [tabindex=\"0\"]').focus()")
    label = "document.activeElement.getAttribute('aria-label').split(',')[0]"
    seen = [chromium.run(label)]
    for _ in range(3):
        chromium.press("ArrowRight", 39)
        seen.append(chromium.run(label))
    chromium.press("ArrowLeft", 37)
    assert chromium.run(label) == seen[2]
    assert len(set(seen)) == 4
    assert not chromium.run("document.querySelector('.tooltip').hidden")
    chromium.press("Escape", 27)
    assert chromium.run("document.querySelector('.tooltip').hidden")


CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out(chromium: Browser, pages: Mapping[str, Path], dark: bool) -> None:
    chromium.open(pages["five objectives, 200 trials"], dark=dark)
    chromium.run(f"{OPEN_ALL}; new Promise((done) => setTimeout(done, 300))")
    chromium.run("document.querySelector('tr[data-member]').classList.add('emphasised')")
    assert chromium.run(CONTRAST) == {}


def test_what_can_be_used_has_a_name(chromium: Browser, pages: Mapping[str, Path]) -> None:
    chromium.open(pages["five objectives, 200 trials"])
    chromium.run(f"{OPEN_ALL}; new Promise((done) => setTimeout(done, 300))")
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    used = ("button", "combobox", "slider", "spinbutton", "link", "image", "table", "region")
    roles = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in used
    ]
    assert {role for role, _ in roles} >= {"button", "combobox", "slider", "spinbutton", "table"}
    assert [role for role, name in roles if not name.strip()] == []
    headings = [
        int(found["value"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] == "heading"
        for found in node["properties"]
        if found["name"] == "level"
    ]
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))


def test_without_scripts_every_table_is_there_and_nothing_is_dead(
    chromium: Browser, pages: Mapping[str, Path]
) -> None:
    chromium.open(pages["four objectives"], scripts=False)
    shown = "[...document.querySelectorAll('SELECTOR')].filter((n) => n.checkVisibility()).length"
    assert chromium.run(shown.replace("SELECTOR", "noscript p")) == 1
    assert chromium.run(shown.replace("SELECTOR", "#numbers tbody tr")) == len(
        summarise(FOUR).members
    )
    for dead in ("button", "select", "input", ".chart", "[data-scripted]"):
        assert chromium.run(shown.replace("SELECTOR", dead)) == 0, dead
    lost = """[...document.querySelectorAll('nav li')].filter((n) => n.checkVisibility()
      && !document.querySelector(n.firstChild.hash).checkVisibility()).length"""
    assert chromium.run(lost) == 0


def test_texts_of_a_stranger_run_nothing(chromium: Browser, tmp_path: Path) -> None:
    evil = replace(OBJECTIVES[0], name=EVIL)
    page = tmp_path / "page.html"
    result = study((evil, *OBJECTIVES[1:3]), n_trials=12, name=EVIL, sources=(EVIL, "b", "c"))
    page.write_text(html_report(summarise(result)), encoding="utf-8")
    chromium.open(page)
    chromium.run(OPEN_ALL)
    assert chromium.complaints == []
    assert chromium.run("document.querySelectorAll('img').length") == 0
    assert "'\"'\"'" in chromium.run("document.querySelector('#picked pre').textContent")
