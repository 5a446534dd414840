"""What all sections of the configuration share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from automerge.errors import nearest
from automerge.files.yaml_file import Step

Path: TypeAlias = tuple[Step, ...]
Problem: TypeAlias = tuple[Path, str]
"""What is wrong at a path below a field; KEY at its end stands for the key itself."""
KEY = "[key]"


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """Fail a pydantic validator with problems, each at a path below the field."""
    raise PydanticCustomError("problems", "see context", {"problems": list(problems)})


def safe(default: Any = ..., **rules: Any) -> Any:
    """Declare a field that a resumed study may change."""
    return Field(default, json_schema_extra={"resume": "safe"}, **rules)


def unsafe(default: Any = ..., **rules: Any) -> Any:
    """Declare a field whose change would make a study's earlier trials incomparable."""
    return Field(default, json_schema_extra={"resume": "unsafe"}, **rules)


class Known(Protocol):
    """A table that explains why it lacks a name."""

    def problem(self, name: str) -> str | None: ...


def entry_of(table: Known) -> BeforeValidator:
    """Return a validator that refuses names a table lacks, with the table's reason."""

    def check(value: object) -> object:
        if isinstance(value, str) and (problem := table.problem(value)) is not None:
            refuse([((), problem)])
        return value

    return BeforeValidator(check)


def one_of(names: Sequence[str], noun: str) -> BeforeValidator:
    """Return a validator that refuses all but some names, suggesting the nearest."""

    def check(value: object) -> object:
        if isinstance(value, str) and value not in names:
            refuse([((), f"unknown {noun} {value!r}{nearest(value, tuple(names))}")])
        return value

    return BeforeValidator(check)


class Section(BaseModel):
    """A mapping of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def repeated(names: Sequence[str], noun: str) -> list[Problem]:
    """Return a problem for each name that occurs again."""
    return [
        ((i,), f"{noun} {name!r} is listed twice")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def leaves(
    plain: Mapping[str, Any], model: type[BaseModel], prefix: str = ""
) -> dict[str, tuple[Any, bool]]:
    """Flatten sections: dotted field → its value and whether a resumed study may change it.

    A field that an older version did not store has its default.
    """
    found: dict[str, tuple[Any, bool]] = {}
    for name, info in model.model_fields.items():
        section = info.annotation
        value = plain.get(name, None)
        if isinstance(section, type) and issubclass(section, BaseModel):
            found |= leaves(plain.get(name, {}), section, f"{prefix}{name}.")
            continue
        if name not in plain:
            value = json.loads(json.dumps(info.get_default(call_default_factory=False)))
        tag = info.json_schema_extra
        found[prefix + name] = (value, isinstance(tag, dict) and tag.get("resume") == "safe")
    return found
