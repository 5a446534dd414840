"""docs/configuration.md and docs/store.md name every key, option and fact there is."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from automerge import cli
from automerge.config import StudyConfig
from automerge.config.section import leaves
from automerge.samplers import SAMPLERS
from automerge.store.schema import META, StoredBegun, StoredCurrent, StoredDecided, StoredInputs

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
SECTIONS = ("search", "evaluation", "split")
STORE = (DOCS / "store.md").read_text(encoding="utf-8")


def names(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_every_key_of_a_study_is_listed():
    listed = set(re.findall(r"^\| `(\w+)", CONFIGURATION, flags=re.MULTILINE))
    assert set(StudyConfig.model_fields) <= listed


def test_every_option_of_search_is_listed():
    command = typer.main.get_command(cli.app).commands["search"]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {name for name in options if name.startswith("--")} <= set(
        re.findall(r"`(--[\w-]+)", CONFIGURATION)
    )


def test_the_keys_that_a_resumed_study_may_change_are_those_listed():
    section = CONFIGURATION.split("## What a resumed study may change\n")[1].split("\n## ")[0]
    plain = dict.fromkeys(StudyConfig.model_fields) | {name: {} for name in SECTIONS}
    safe = {name for name, (_, is_safe) in leaves(plain, StudyConfig).items() if is_safe}
    moved = {"base", "models"}  # may point elsewhere, if what is there is the same
    assert names(section) == safe | moved


def test_the_facts_of_a_store_are_those_listed():
    facts = STORE.split("Keys of `meta`:\n")[1]
    table, inputs = facts.split("\nThe `inputs` of `begun` describe", 1)
    rows = [row.split("|")[1:4] for row in table.splitlines() if row.startswith("| `")]
    listed = {key.strip(" `"): names(re.sub(r"\([^()]*\)", "", fields)) for key, _, fields in rows}
    assert set(listed) == set(META)
    parts = {"begun": StoredBegun, "current": StoredCurrent, "decided": StoredDecided}
    for key, kind in parts.items():
        assert listed[key] == set(kind.model_fields)
    said = names(re.sub(r"\([^()]*\)", "", inputs.split("In the code")[0]))
    assert said == set(StoredInputs.model_fields)


def test_the_samplers_of_a_study_are_those_listed():
    row = next(row for row in CONFIGURATION.splitlines() if row.startswith("| `sampler` |"))
    assert names(re.sub(r"\([^()]*\)", "", row.split("|")[4])) == set(SAMPLERS)
