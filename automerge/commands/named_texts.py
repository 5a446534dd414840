"""Texts on the command line: one for all sources, or one per source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from automerge.errors import ConfigError, Fault
from automerge.files.references import NAME


def named_texts(arguments: Sequence[str], option: str = "--text") -> dict[str | None, Path]:
    """Read texts given to an option as NAME=PATH or PATH; at most one has no name.

    Raises:
        ConfigError: with all faults found.
    """
    named: dict[str | None, Path] = {}
    faults = []
    for argument in arguments:
        before, equals, after = argument.partition("=")
        plain = not equals or "/" in before or Path(argument).exists()
        name, path = (None, argument) if plain else (before, after)
        if name is not None and (not NAME.fullmatch(name) or not path):
            faults.append(Fault(f"{option} {argument!r}: expected [NAME=]PATH"))
        elif name in named:
            twice = "two texts have no name" if name is None else f"two texts are named {name!r}"
            faults.append(Fault(f"{twice}; write NAME=PATH, each with a name of its own"))
        elif not Path(path).exists():
            faults.append(Fault(f"{option} {path}: there is no such file or folder"))
        else:
            named[name] = Path(path)
    if faults:
        raise ConfigError(faults)
    return named
