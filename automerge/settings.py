"""The validated settings of a study, and which of them a resumed study may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, TypeAlias

from pydantic import (
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
from automerge.methods import METHODS, Knob
from automerge.objective import Direction
from automerge.recipe import COMPONENTS, DEFAULT, Recipe
from automerge.references import NAME
from automerge.space import Groups, Knots, PerLayer, SpaceSettings
from automerge.yaml_file import Step

SAMPLER_NAMES = ("auto", "cma", "tpe", "nsga2", "nsga3", "gp", "random")
EXECUTOR_NAMES = ("local", "ray")
RESERVED = ("base", DEFAULT)
MAX_MODELS = 64

Path_: TypeAlias = tuple[Step, ...]
KnobSetting: TypeAlias = float | bool | tuple[float, float] | tuple[bool, bool]


def refuse(problems: Sequence[tuple[Path_, str]]) -> NoReturn:
    """Fail a pydantic validator with problems, each at a path below the field."""
    raise PydanticCustomError("problems", "see context", {"problems": list(problems)})


def safe(default: Any = ..., **rules: Any) -> Any:
    """A field that a resumed study may change."""
    return Field(default, json_schema_extra={"resume": "safe"}, **rules)


def unsafe(default: Any = ..., **rules: Any) -> Any:
    """A field whose change would make a study's earlier trials incomparable."""
    return Field(default, json_schema_extra={"resume": "unsafe"}, **rules)


def one_of(names: Sequence[str], noun: str) -> BeforeValidator:
    """Refuse all but some names, naming the nearest."""

    def check(value: object) -> object:
        if isinstance(value, str) and value not in names:
            refuse([((), f"unknown {noun} {value!r}{nearest(value, tuple(names))}")])
        return value

    return BeforeValidator(check)


class Section(BaseModel):
    """A mapping of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Task(Section):
    """A task with one of its metrics ("acc" or "acc,none"); None is the task's own choice."""

    task: str = unsafe(min_length=1)
    name: str = unsafe(min_length=1, max_length=200)
    metric: str | None = unsafe(None, min_length=1)
    direction: Direction | None = unsafe(None)
    num_fewshot: int | None = unsafe(None, ge=0, le=1000)
    gen_kwargs: dict[str, Any] = unsafe({})


class NamedRecipe(Section):
    """A recipe that is tried before the search, in the names of the study's models."""

    name: str = unsafe(min_length=1)
    plain: dict[str, Any] = unsafe()

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_plain(self.plain)


class Depth(Section):
    """How values vary over the layers; exactly one is given."""

    knots: int | None = unsafe(None, ge=1, le=64)
    groups: int | None = unsafe(None, ge=1, le=1000)
    per_layer: Literal[True] | None = unsafe(None)

    @model_validator(mode="after")
    def _one_kind(self) -> Depth:
        if len(self.model_fields_set) != 1:
            refuse([((), "give one of {knots: N}, {groups: N} and per_layer")])
        return self

    def for_space(self) -> Knots | Groups | PerLayer:
        """The same in the words of the search space."""
        if self.knots is not None:
            return Knots(self.knots)
        return PerLayer() if self.groups is None else Groups(self.groups)


class Search(Section):
    """What is searched.

    `components` are groups of selectors that share a value. `knobs` maps a method's knob to its
    bounds, to `[false, true]` for a switch, or to the one value it has.
    """

    methods: tuple[Annotated[str, one_of(tuple(METHODS), "method")], ...] = unsafe(
        tuple(METHODS), min_length=1
    )
    depth: Depth = unsafe(Depth(knots=3))
    components: tuple[tuple[str, ...], ...] = unsafe(((DEFAULT,),), min_length=1, max_length=64)
    knobs: dict[str, Any] = unsafe({})
    varying: tuple[str, ...] = unsafe(("weight", "t"))
    shared: tuple[str, ...] = unsafe(())
    leave_out: bool = unsafe(True)

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if problems := repeated(methods, "method"):
            refuse(problems)
        return methods

    @field_validator("components")
    @classmethod
    def _selectors(cls, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        problems: list[tuple[Path_, str]] = []
        seen: set[str] = set()
        for i, group in enumerate(groups):
            if not group:
                problems.append(((i,), "an empty group"))
            for j, selector in enumerate(group):
                if selector not in (*COMPONENTS, DEFAULT) and "*" not in selector:
                    advice = nearest(selector, COMPONENTS)
                    advice += ", or a pattern such as '*q_proj*'"
                    problems.append(((i, j), f"unknown component {selector!r}{advice}"))
                elif selector in seen:
                    problems.append(((i, j), f"component {selector!r} is listed twice"))
                seen.add(selector)
        if problems:
            refuse(problems)
        return groups

    @field_validator("knobs")
    @classmethod
    def _knobs(cls, knobs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        declared = declared_knobs(info.data.get("methods", tuple(METHODS)))
        fields = tuple(name for name in cls.model_fields if name != "knobs")
        valid = (*fields, "space", *declared_knobs(tuple(METHODS)))
        problems: list[tuple[Path_, str]] = []
        for name, value in knobs.items():
            if name in declared:
                problems += (((name,), problem) for problem in check_range(declared[name], value))
            elif name in valid:
                methods = ", ".join(info.data["methods"])
                problems.append(((name, "[key]"), f"none of the methods {methods} has a {name!r}"))
            else:
                problems.append(((name, "[key]"), f"unknown key {name!r}{nearest(name, valid)}"))
        if problems:
            refuse(problems)
        return {k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items()}

    @field_validator("varying", "shared")
    @classmethod
    def _knob_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        valid = tuple(declared_knobs(tuple(METHODS)))
        problems = repeated(names, "knob")
        for i, name in enumerate(names):
            if name not in valid:
                problems.append(((i,), f"unknown knob {name!r}{nearest(name, valid)}"))
        if problems:
            refuse(problems)
        return names

    def for_space(self, seed: int) -> SpaceSettings:
        """The same in the words of the search space; `seed` is that of random masks."""
        ranges = {k: v for k, v in self.knobs.items() if isinstance(v, tuple)}
        return SpaceSettings(
            methods=self.methods,
            components=self.components,
            depth=self.depth.for_space(),
            bounds={k: v for k, v in ranges.items() if not is_switch(k)},
            fixed={k: v for k, v in self.knobs.items() if k not in ranges},
            switches=tuple(k for k in ranges if is_switch(k)),
            varying=self.varying,
            shared=self.shared,
            leave_out=self.leave_out,
            seed=seed,
        )


def repeated(names: Sequence[str], noun: str) -> list[tuple[Path_, str]]:
    """List the names that came before."""
    return [
        ((i,), f"{noun} {name!r} is listed twice")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def declared_knobs(methods: Sequence[str]) -> dict[str, Knob]:
    """The knobs of some methods, by name."""
    return {knob.name: knob for method in methods for knob in METHODS[method].knobs}


def is_switch(knob: str) -> bool:
    """Whether a knob is true or false."""
    return declared_knobs(tuple(METHODS))[knob].kind == "bool"


def check_range(knob: Knob, value: object) -> Iterator[str]:
    """Yield what is wrong with the bounds, or the fixed value, that a search gives a knob."""
    shown = json.dumps(value)
    if knob.kind == "bool":
        switch = isinstance(value, list | tuple) and sorted(map(repr, value)) == ["False", "True"]
        if not (switch or isinstance(value, bool)):
            yield f"expected true, false or [false, true], got {shown}"
        return
    bounds = list(value) if isinstance(value, list | tuple) else [value, value]
    numbers = [v for v in bounds if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(bounds) != 2 or len(numbers) != 2:
        yield f"expected bounds [low, high] or one number, got {shown}"
        return
    low, high = knob.domain
    if not low <= min(numbers) <= max(numbers) <= high:
        yield f"a {knob.name} lies in [{low:g}, {high:g}], got {shown}"
    if isinstance(value, list | tuple) and numbers[0] >= numbers[1]:
        yield f"the lower bound must be below the upper one, got {shown}"


class Evaluation(Section):
    """How candidates are scored."""

    batch_size: int = unsafe(32, ge=1, le=65536)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = unsafe("auto")
    device: Literal["auto", "cpu", "cuda"] = unsafe("auto")
    items_per_candidate: Literal["full"] | int = unsafe(200)
    max_length: int | None = unsafe(None, ge=8, le=10_000_000)

    @field_validator("items_per_candidate", mode="before")
    @classmethod
    def _items(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 8 <= value <= 10**7:
            return value
        if value != "full":
            shown = json.dumps(value)
            refuse([((), f"expected full, or a whole number from 8 to 10000000, got {shown}")])
        return value


class Split(Section):
    """The shares of each task's items that search, selection and the sealed test get."""

    search: float = unsafe(0.5, gt=0, lt=1)
    select: float = unsafe(0.25, gt=0, lt=1)
    test: float = unsafe(0.25, gt=0, lt=1)
    max_select: int | None = unsafe(None, ge=8)
    max_test: int | None = unsafe(None, ge=8)

    @model_validator(mode="after")
    def _sum(self) -> Split:
        total = self.search + self.select + self.test
        if abs(total - 1) > 1e-9:
            refuse([((), f"search, select and test must add up to 1; they add up to {total:g}")])
        return self


class Locator(Protocol):
    """Finds where a value was written."""

    def __call__(self, path: Sequence[Step]) -> Location | None: ...


@dataclass(frozen=True)
class _Origin:
    """Where the settings come from; no part of their value."""

    locate: Locator = field(default=lambda path: None, compare=False)


class StudyConfig(Section):
    """Everything that decides a study.

    `base` and `models` are absolute paths or hub ids with a revision (`org/name@revision`).
    """

    name: str = safe(max_length=100)
    base: str = unsafe()
    models: dict[str, str] = unsafe(min_length=1, max_length=MAX_MODELS)
    tasks: tuple[Task, ...] = unsafe(min_length=1, max_length=64)
    include_path: str | None = safe(None)
    apply_chat_template: bool = unsafe(False)
    fewshot_as_multiturn: bool | None = unsafe(None)
    system_instruction: str | None = unsafe(None)
    allow_task_code: bool = safe(False)
    search: Search = unsafe(Search())
    recipes: tuple[NamedRecipe, ...] = unsafe(())
    sampler: Annotated[str, one_of(SAMPLER_NAMES, "sampler")] = unsafe("auto")
    budget: int = safe(200, ge=0, le=1_000_000)
    seed: int = unsafe(0, ge=0, lt=2**32)
    executor: Annotated[str, one_of(EXECUTOR_NAMES, "executor")] = safe("local")
    workers: int | None = safe(None, ge=1, le=100_000)
    ray_address: str | None = safe(None, min_length=1)
    evaluation: Evaluation = unsafe(Evaluation())
    split: Split = unsafe(Split())
    shortlist: int = safe(12, ge=1, le=1000)
    out: str = safe(min_length=1)
    export: Literal["front", "knee", "none"] = safe("front")

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            refuse([((), f"{name!r} is no name: {NAME_RULE}")])
        return name

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, models: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        problems: list[tuple[Path_, str]] = []
        first = {info.data["base"]: "the base"} if "base" in info.data else {}
        for name, reference in models.items():
            if not NAME.fullmatch(name):
                problems.append(((name, "[key]"), f"{name!r} is no name: {NAME_RULE}"))
            elif name in RESERVED:
                problems.append(((name, "[key]"), f"{name!r} has a meaning; choose another name"))
            if reference in first:
                problem = f"{reference} is {first[reference]} already; list each model once"
                problems.append(((name,), problem))
            first.setdefault(reference, f"the model {name!r}")
        if problems:
            refuse(problems)
        return models

    @field_validator("tasks")
    @classmethod
    def _distinct_tasks(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        problems: list[tuple[Path_, str]] = []
        names: set[str] = set()
        for i, task in enumerate(tasks):
            if task.name in names:
                problem = f"two objectives are named {task.name!r}; give one another `name`"
                problems.append(((i,), problem))
            names.add(task.name)
        if problems:
            refuse(problems)
        return tasks

    @field_validator("fewshot_as_multiturn")
    @classmethod
    def _multiturn(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("apply_chat_template") is False:
            refuse([((), "fewshot_as_multiturn needs apply_chat_template: true")])
        return value

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > 1 and info.data.get("executor") == "local":
            refuse([((), "the local executor has one worker; use executor: ray for more")])
        return value

    @field_validator("ray_address")
    @classmethod
    def _ray_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("executor") == "local":
            refuse([((), "a Ray address needs executor: ray")])
        return value

    @property
    def references(self) -> dict[str, str]:
        """All models by name, the base first, as `base`."""
        return {"base": self.base, **self.models}

    @property
    def out_dir(self) -> Path:
        """The run folder."""
        return Path(self.out)

    def space_settings(self) -> SpaceSettings:
        """What is searched, in the words of the search space."""
        return self.search.for_space(self.seed)

    def locate(self, path: Sequence[Step]) -> Location | None:
        """Where a setting was written; None for one read back from a study."""
        return self._origin.locate(path)

    def located_by(self, locate: Locator) -> StudyConfig:
        """The same settings, knowing where they were written."""
        located = self.model_copy()
        located._origin = _Origin(locate)
        return located

    def to_plain(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> StudyConfig:
        """Invert `to_plain`."""
        return cls.model_validate_json(json.dumps(plain))

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the settings a resumed study must not change."""
        fixed = {k: v for k, (v, is_safe) in leaves(self.to_plain()).items() if not is_safe}
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


NAME_RULE = "letters, digits, '_', '.' and '-', beginning with a letter or digit"


@dataclass(frozen=True)
class Difference:
    """A setting that differs between a study and the configuration to resume it with."""

    field: str
    old: Any
    new: Any
    safe: bool


def differences(old: Mapping[str, Any], new: StudyConfig) -> list[Difference]:
    """List what changed since a study was stored with `to_plain`."""
    before, after = leaves(old), leaves(new.to_plain())
    return [
        Difference(name, before[name][0], value, is_safe)
        for name, (value, is_safe) in after.items()
        if name in before and before[name][0] != value
    ]


def leaves(
    plain: Mapping[str, Any], model: type[BaseModel] = StudyConfig, prefix: str = ""
) -> dict[str, tuple[Any, bool]]:
    """Flatten sections: dotted field → its value and whether a resumed study may change it.

    A field that is absent, stored by an older version, has its default.
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
