"""A document of plain values that knows where each was written: a YAML file, or a mapping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Protocol

from automerge.errors import ConfigError, Fault, Location

MAX_DEPTH = 32
"""The maximum number of levels of a document, from its top to its deepest value."""


class Document(Protocol):
    """What a study or a recipe is read from."""

    @property
    def data(self) -> dict[str, Any]:
        """The values, as fresh dicts, lists and scalars."""
        ...

    @property
    def folder(self) -> Path:
        """The folder that relative paths in it are relative to."""
        ...

    def locate(self, path: Sequence[str | int] = (), *, key: bool = False) -> Location:
        """Return where the value at `path`, or its key, begins."""
        ...


@dataclass(frozen=True)
class GivenMapping:
    """A mapping from a Python program; relative paths in it are relative to the working directory.

    Paths are read as text, tuples as lists, and other libraries' numbers as numbers.
    """

    given: Mapping[str, object]

    @property
    def data(self) -> dict[str, Any]:
        """The values, as fresh dicts, lists and scalars.

        Raises:
            ConfigError: some values could not be written as YAML; names each of them.
        """
        faults: list[Fault] = []
        data: dict[str, Any] = self._plain(self.given, (), faults)
        if faults:
            raise ConfigError(faults)
        return data

    @property
    def folder(self) -> Path:
        """The working directory."""
        return Path.cwd()

    def locate(self, path: Sequence[str | int] = (), *, key: bool = False) -> Location:
        """Name a value by its keys, as in `split.max_test`; if it does not exist, its parent."""
        name = ""
        node: object = self.given
        for step in path:
            if isinstance(node, Mapping) and step in node:
                name, node = f"{name}.{step}", node[step]
            elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
                name, node = f"{name}[{step}]", node[step]
            else:
                break
        return Location(name.lstrip(".") or "the mapping given")

    def _plain(self, value: object, at: tuple[str | int, ...], faults: list[Fault]) -> Any:
        if len(at) >= MAX_DEPTH:
            faults.append(Fault(f"nested more than {MAX_DEPTH} levels deep", self.locate(at[:1])))
            return None
        if isinstance(value, Mapping):
            strange = [key for key in value if not isinstance(key, str)]
            faults += [
                Fault(f"expected keys that are text, got {key!r}", self.locate(at))
                for key in strange
            ]
            keys = [key for key in value if isinstance(key, str)]
            return {key: self._plain(value[key], (*at, key), faults) for key in keys}
        if isinstance(value, list | tuple):
            return [self._plain(each, (*at, i), faults) for i, each in enumerate(value)]
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real) and math.isfinite(value):
            return float(value)
        got = str(value) if isinstance(value, Real) else type(value).__name__
        problem = f"expected text, a finite number, true or false, a list or a mapping, got {got}"
        faults.append(Fault(problem, self.locate(at)))
        return None
