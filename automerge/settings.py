"""The validated settings of a study, and which of them a resumed study may change."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NoReturn, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from automerge.errors import Location, nearest
from automerge.methods import METHODS
from automerge.objective import Direction
from automerge.recipe import COMPONENTS, Recipe
from automerge.references import NAME
from automerge.yaml_file import Step

SAMPLER_NAMES = ("auto", "cma", "tpe", "nsga2", "nsga3", "gp", "random")
EXECUTOR_NAMES = ("local", "ray")
RESERVED = ("base", "default")

Path_: TypeAlias = tuple[Step, ...]


def refuse(*problems: tuple[Path_, str]) -> NoReturn:
    """Fail a pydantic validator with several problems, each at a path below the field."""
    first = problems[0][1].replace("{", "(").replace("}", ")")
    raise PydanticCustomError("problems", first, {"problems": problems})  # type: ignore[arg-type]


def safe(default: Any = ..., **rules: Any) -> Any:
    """A field that a resumed study may change."""
    return Field(default, json_schema_extra={"resume": "safe"}, **rules)


def unsafe(default: Any = ..., **rules: Any) -> Any:
    """A field whose change would make earlier trials of the study incomparable."""
    return Field(default, json_schema_extra={"resume": "unsafe"}, **rules)


def one_of(names: Sequence[str], noun: str) -> BeforeValidator:
    """Refuse all but some names, naming the nearest."""

    def check(value: object) -> object:
        if isinstance(value, str) and value not in names:
            refuse(((), f"unknown {noun} {value!r}{nearest(value, tuple(names))}"))
        return value

    return BeforeValidator(check)


class Section(BaseModel):
    """A mapping of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Task(Section):
    """An objective: a task with one of its metrics; None is the task's own choice."""

    task: str = unsafe(min_length=1)
    name: str = unsafe(min_length=1, max_length=200)
    metric: str | None = unsafe(None, min_length=1)
    filter: str | None = unsafe(None, min_length=1)
    direction: Direction | None = unsafe(None)
    num_fewshot: int | None = unsafe(None, ge=0, le=1000)
    gen_kwargs: dict[str, bool | int | float | str | list[str] | None] | None = unsafe(None)

    @property
    def conditions(self) -> tuple[object, ...]:
        """What lm-eval builds the task with; one task is built once."""
        return (self.num_fewshot, json.dumps(self.gen_kwargs, sort_keys=True))


class Knots(Section):
    """Values at equally spaced depths, interpolated between them."""

    knots: int = unsafe(ge=1, le=64)


class Groups(Section):
    """One value for each of some equal groups of layers."""

    groups: int = unsafe(ge=1, le=1000)


def parse_depth(value: object) -> object:
    """Choose the kind of depth encoding by its key."""
    if value == "per_layer" or isinstance(value, Knots | Groups):
        return value
    if isinstance(value, Mapping) and len(value) == 1:
        key = next(iter(value))
        kind = {"knots": Knots, "groups": Groups}.get(key)
        if kind is not None and isinstance(value[key], int) and not isinstance(value[key], bool):
            most = 64 if kind is Knots else 1000
            if 1 <= value[key] <= most:
                return kind(**value)
            refuse(((key,), f"expected a whole number from 1 to {most}, got {value[key]}"))
    shown = json.dumps(value)
    message = f"expected {{knots: N}}, {{groups: N}} or per_layer, got {shown}"
    refuse(((), message))


Depth: TypeAlias = Annotated[Knots | Groups | Literal["per_layer"], BeforeValidator(parse_depth)]


def check_bounds(low: float, high: float) -> Iterator[str]:
    """Yield what is wrong with an ordered pair of bounds."""
    if low > high:
        yield f"the lower bound {low:g} is above the upper bound {high:g}; swap them"
    elif low == high:
        yield f"the bounds are equal ({low:g}); leave room to search"


def weight_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Refuse bounds that are not in order or out of all proportion."""
    problems = list(check_bounds(*bounds))
    if not -10 <= min(bounds) <= max(bounds) <= 10:
        problems.append(f"weights lie in [-10, 10], got {list(bounds)}")
    if problems:
        refuse(*(((), problem) for problem in problems))
    return bounds


def density_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Refuse bounds that are not in order or outside [0, 1]."""
    problems = list(check_bounds(*bounds))
    if not 0 <= min(bounds) <= max(bounds) <= 1:
        problems.append(f"densities are shares kept, in [0, 1]; got {list(bounds)}")
    if problems:
        refuse(*(((), problem) for problem in problems))
    return bounds


class Search(Section):
    """What is searched: methods, and how their values vary over depth and components."""

    methods: tuple[Annotated[str, one_of(tuple(METHODS), "method")], ...] = unsafe(
        tuple(METHODS), min_length=1
    )
    depth: Depth = unsafe(Knots(knots=3))
    components: Literal["all"] | tuple[Annotated[str, one_of(COMPONENTS, "component")], ...] = (
        unsafe("all")
    )
    weight: Annotated[tuple[float, float], AfterValidator(weight_bounds)] | None = unsafe(None)
    density: Annotated[tuple[float, float], AfterValidator(density_bounds)] | None = unsafe(None)
    leave_out: bool = unsafe(True)
