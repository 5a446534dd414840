"""The help of every command: groups, kinds of values, defaults, 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from automerge import cli
from automerge.cli.application import COMMANDS
from automerge.config import StudyConfig
from automerge.config.load import OPTIONS

TYPES = re.compile(r"<(?:str|bool|list)[^>]*>")


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands, those of groups too, by the words that name them."""
    group = get_command(cli.app) if group is None else group
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


def shown(*words: str) -> str:
    result = CliRunner().invoke(
        cli.app, [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    )
    assert result.exit_code == 0
    return result.output


@pytest.mark.sample(18)
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_help_fits_and_says_kinds_of_values(words: tuple[str, ...]) -> None:
    text = shown(*words)
    assert max(map(len, text.splitlines())) <= 80
    assert "[[" not in text
    options = [line for line in text.splitlines() if re.match("│ .*--", line)]
    assert not [line for line in options if TYPES.search(line)]


def test_every_command_is_in_one_group_of_the_help() -> None:
    text = shown()
    listed = [command for group in COMMANDS.values() for command in group]
    assert len(set(listed)) == len(listed)
    assert all(f"─ {title} ─" in text for title in COMMANDS)
    assert "─ Commands ─" not in text


def test_the_defaults_shown_are_those_of_a_study() -> None:
    options = {option.name: option for option in get_command(cli.app).commands["search"].params}
    for name, (*sections, key) in OPTIONS.items():
        fields: Any = StudyConfig.model_fields
        for section in sections:
            fields = type(fields[section].default).model_fields
        default = fields[key].default
        said = re.findall(r" Default: (\S+)\.$", options[name].help)
        told = isinstance(default, int | str) and not isinstance(default, bool)
        assert said == ([str(default)] if told else ["runs/NAME"] if name == "out" else []), name


def test_the_options_of_search_are_grouped() -> None:
    text = shown("search")
    assert "Number of recipes to measure. Default: 200." in " ".join(text.replace("│", " ").split())
    ungrouped = text.split("─ Options ─")[1].split("╰")[0]
    assert set(re.findall(r"--[\w-]+", ungrouped)) == {"--help", "--extension", "--no-menu"}
