"""`automerge convert`: mergekit's files in automerge's format."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from automerge.config.recipe_file import read_recipe, recipe_text
from automerge.files.yaml_file import dump_yaml, load_yaml
from automerge.mergekit import is_evolve, parse_evolve


def converted(path: Path) -> str:
    """Return a mergekit-evolve file as a study's YAML, a mergekit file as a recipe's.

    Comments in it say what differs.

    Raises ConfigError with every fault of the file.
    """
    document = load_yaml(path)
    if is_evolve(document.data):
        evolution = parse_evolve(document, path.absolute().parent)
        return _comments(evolution.notes) + dump_yaml(evolution.plain)
    file = read_recipe(path)
    return _comments(file.notes) + recipe_text(file.recipe, file.models, file.name, file.align)


def _comments(notes: Iterable[str]) -> str:
    lines = (line for note in notes for line in textwrap.wrap(f"note: {note}", 97))
    return "".join(f"# {line}\n" for line in lines)
