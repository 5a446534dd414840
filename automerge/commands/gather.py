"""`automerge gather`: evidence from models and a text, for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.bars import progress_bars
from automerge.errors import ConfigError, nearest
from automerge.evidence import KINDS
from automerge.files.yaml_file import dump_yaml
from automerge.recipe import BASE
from automerge.session.gathering import GatherSettings, gather
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console


def gather_command(
    models: Sequence[str], kind: str, text: Path, settings: GatherSettings, console: Console
) -> None:
    """Gather evidence from models, the base first, and print a recipe's `evidence`."""
    from automerge.inspection.examine import name_models
    from automerge.session.preflight import open_models

    if kind not in KINDS:
        raise ConfigError(f"unknown kind of evidence {kind!r}{nearest(kind, tuple(KINDS))}")
    named = name_models(models)
    base, *sources = named
    opened = open_models(
        {BASE: named[base], **{n: named[n] for n in sources}}, BASE, lambda _: None
    )
    folders = {name: folder.path for name, folder in opened.folders.items()}
    with progress_bars(console) as show:
        found = gather(folders, tuple(folders), kind, text, settings, show)
    plain = {"evidence": {kind: {name: file.digest for name, file in found.items()}}}
    say(console, dump_yaml(plain), end="")
    for name, file in found.items():
        say(console, f"# {name}: {file.path}")
