"""The sections of a recipe file that give layers experts, or fewer of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from automerge import expert_groups, mixture
from automerge.errors import nearest
from automerge.expert_groups import ExpertGroups
from automerge.files.yaml_file import Plain, Step
from automerge.mixture import Mixture


class Note(Protocol):
    """Takes the path of a fault, what is wrong, and whether the key itself is."""

    def __call__(self, path: tuple[Step, ...], message: str, *, key: bool = False) -> None:
        """Note it."""


def is_span(value: Plain) -> bool:
    """Return whether a value is a list of two whole numbers."""
    return isinstance(value, list) and [type(number) for number in value] == [int, int]


def _is_names(value: Plain) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_text(value: Plain) -> bool:
    return isinstance(value, str)


def _is_count(value: Plain) -> bool:
    return type(value) is int


_Wanted = Mapping[str, tuple[str, Callable[[Plain], bool]]]

_MIXTURE: _Wanted = {
    "experts": ("a list of models' names", _is_names),
    "per_token": ("a whole number", _is_count),
    "gates": (f"one of {', '.join(mixture.GATES)}", _is_text),
    "layers": ("[FIRST, END], numbers of layers from 0", is_span),
}
_EXPERTS: _Wanted = {
    "count": ("a whole number", _is_count),
    "by": (f"one of {', '.join(expert_groups.BY)}", _is_text),
    "per_token": ("a whole number", _is_count),
}


def read_mixture(given: Mapping[str, Any], note: Note) -> Mixture | None:
    """Return a recipe's mixture; None where a value is of another type, which is noted."""
    fits = _fits("mixture", given, _MIXTURE, ("layers",), note)
    return Mixture.from_plain(given) if fits else None


def read_experts(given: Mapping[str, Any], note: Note) -> ExpertGroups | None:
    """Return how experts are made fewer; None where a value is of another type."""
    fits = _fits("experts", given, _EXPERTS, ("per_token",), note)
    return ExpertGroups.from_plain(given) if fits else None


def _fits(
    section: str, given: Mapping[str, Any], wanted: _Wanted, optional: Sequence[str], note: Note
) -> bool:
    """Note unknown and missing keys, and values of another type; return whether there are none."""
    faults: list[tuple[tuple[Step, ...], str, bool]] = [
        ((section, key), f"unknown key {key!r}{nearest(key, tuple(wanted))}", True)
        for key in given
        if key not in wanted
    ]
    for key, (expected, is_one) in wanted.items():
        if key not in given and key not in optional:
            faults.append(((section,), f"missing key {key!r}: {expected}", False))
        elif key in given and not is_one(given[key]):
            message = f"expected {expected}; got {given[key]!r}"
            faults.append(((section, key), message, False))
    for path, message, at_key in faults:
        note(path, message, key=at_key)
    return not faults
