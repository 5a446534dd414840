"""Read mergekit's parameters: numbers, gradients, filters, and which level takes precedence."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from automerge.errors import Fault, Location, nearest
from automerge.files.document import Document
from automerge.files.yaml_file import Plain, Step
from automerge.mergekit.tables import REQUIRED, Part, final_values, glob
from automerge.recipe import DEFAULT, Profile

At: TypeAlias = tuple[Step, ...]


class Reader:
    """Looks up values by path, and collects faults with their locations."""

    def __init__(self, document: Document) -> None:
        self.data = document.data
        self.faults: list[Fault] = []
        self._document = document

    def at(self, path: At) -> Plain:
        """Return the value at a path; None if there is none."""
        value: Plain = self.data
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int):
                value = value[step]
            else:
                return None
        return value

    def locate(self, path: At) -> Location:
        """Return where the value at a path was written."""
        return self._document.locate(path)

    def fault(self, path: At, message: str, *, key: bool = False) -> None:
        """Record a fault, once."""
        fault = Fault(message, self._document.locate(path, key=key))
        if fault not in self.faults:
            self.faults.append(fault)

    def check_keys(
        self, path: At, keys: Sequence[str], what: str = "key", idle: Collection[str] = ()
    ) -> list[str]:
        """Record unknown keys of the mapping at a path as faults, except those in `idle`.

        Args:
            path: the path of a mapping.
            keys: the keys it may have.
            what: what a key is called in messages.
            idle: keys that are ignored.

        Returns:
            The mapping's keys that are in `idle`.
        """
        value = self.at(path)
        if value is not None and not isinstance(value, dict):
            self.fault(path, f"expected a mapping, got {json.dumps(value)}")
            return []
        others = [key for key in value or {} if key not in keys]
        for key in others:
            if key not in idle:
                self.fault((*path, key), f"unknown {what} {key!r}{nearest(key, keys)}", key=True)
        return [key for key in others if key in idle]


class Parameters:
    """The parameters of one merge. A level is the path of a `parameters` mapping."""

    def __init__(self, reader: Reader) -> None:
        self.written: dict[tuple[str | None, str], Location] = {}
        """Where the knob of a source, or of the merge (None), was set."""
        self.first_for_final = False
        """Whether some gradient gives final norm and head its first value."""
        self._reader = reader

    def switch(self, name: str, levels: Sequence[At], default: bool) -> tuple[bool, At]:
        """Return a parameter that is true or false, and the path where it was set."""
        for level in levels:
            value = (self._reader.at(level) or {}).get(name)
            if value is not None:
                if isinstance(value, bool | int | float) and value in (0, 1):
                    return bool(value), (*level, name)
                message = f"expected true or false for all tensors, got {json.dumps(value)}"
                self._reader.fault((*level, name), message)
        return default, ()

    def profile(self, source: str | None, knob: str, levels: Sequence[At]) -> Profile | None:
        """Return a knob's values over the tensors; None if no level sets it.

        Tensors that no filter of one level matches take the value of the next level.
        """
        parts: list[Part] = []
        for level in levels:
            value = (self._reader.at(level) or {}).get(knob)
            if value is not None:
                here = (*level, knob)
                self.written.setdefault((source, knob), self._reader.locate(here))
                parts += self._parts(here, value)
        if not parts:
            return None
        reached = next((i for i, part in enumerate(parts) if part[0] is None), len(parts))
        if reached == len(parts) and knob in REQUIRED:
            message = f"no {knob} where no filter matches; end the list with `- value: NUMBER`"
            self._reader.faults.append(Fault(message, self.written[source, knob]))
            return None
        selected: dict[str, tuple[float, ...]] = dict(final_values(parts))
        self.first_for_final |= bool(selected)
        for substring, knots in parts[: reached + 1]:
            selected.setdefault(DEFAULT if substring is None else glob(substring), knots)
        return Profile.of(selected)

    def _parts(self, at: At, value: Plain) -> list[Part]:
        entries = [value] if isinstance(value, dict) else value
        if not isinstance(entries, list) or not any(isinstance(e, dict) for e in entries):
            knots = self._knots(at, value)
            return [(None, knots)] if knots else []
        parts: list[Part] = []
        for i, entry in enumerate(entries):
            here = at if isinstance(value, dict) else (*at, i)
            if isinstance(entry, dict) and "value" in entry:
                parts += self._filtered(here, entry)
            else:
                message = f"expected `filter` and `value`, got {json.dumps(entry)}"
                self._reader.fault(here, message)
        return parts

    def _filtered(self, at: At, entry: Mapping[str, Plain]) -> list[Part]:
        self._reader.check_keys(at, ("filter", "value"))
        substring = entry.get("filter")
        if substring is not None and not isinstance(substring, str):
            message = f"expected a part of tensor names, got {json.dumps(substring)}"
            self._reader.fault((*at, "filter"), message)
            return []
        knots = self._knots((*at, "value"), entry["value"])
        return [(None if substring in (None, "*", "") else substring, knots)] if knots else []

    def _knots(self, at: At, value: Plain) -> tuple[float, ...]:
        knots = value if isinstance(value, list) else [value]
        if knots and all(isinstance(v, int | float) and not isinstance(v, bool) for v in knots):
            return tuple(float(v) for v in knots)
        message = f"expected a number or a list of numbers, got {json.dumps(value)}"
        self._reader.fault(at, message)
        return ()
