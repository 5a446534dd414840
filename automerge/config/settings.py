"""The validated settings of a study, and which of them a resumed study may change."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import (
    BaseModel,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from automerge.config.search import Search
from automerge.config.section import (
    KEY,
    Problem,
    Section,
    entry_of,
    one_of,
    refuse,
    repeated,
    safe,
    unsafe,
)
from automerge.constraint import BEST_PARENT, Constraint
from automerge.errors import Location, nearest
from automerge.evaluation.table import EVALUATORS, LM_EVAL
from automerge.evaluation.table import PROPERTIES as PROPERTIES_EVALUATOR
from automerge.executors import EXECUTORS
from automerge.files.references import NAME
from automerge.files.yaml_file import Step
from automerge.methods import METHODS
from automerge.objective import PROPERTIES, Direction
from automerge.recipe import DEFAULT, Recipe
from automerge.samplers import SAMPLERS
from automerge.space import SpaceSettings
from automerge.text.redaction import without_secrets
from automerge.trial import PARTS, Part, is_proposed_name

LM_EVAL_ONLY = ("metric", "num_fewshot", "gen_kwargs", "split")
RESERVED = ("base", DEFAULT, "uniform", BEST_PARENT)
MAX_MODELS = 64
UNKNOWN_BUDGET = 200
"""The budget samplers assume where only time limits a search."""
UNITS = {"d": 86400, "h": 3600, "min": 60, "m": 60, "s": 1}
LONGEST_NAME = 200
NAME_RULE = "letters, digits, '_', '.' and '-', beginning with a letter or digit"


def seconds(text: str) -> float | None:
    """Read 8h, 90min, 1d12h or 45s in seconds; return None for anything else."""
    if not re.fullmatch(r"(?:\s*\d+(?:\.\d+)?\s*(?:d|h|min|m|s))+\s*", text):
        return None
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", text)
    return sum(float(number) * UNITS[unit] for number, unit in found) or None


class Task(Section):
    """A task with one of its metrics ("acc" or "acc,none"); None is the task's default.

    `evaluator` is who knows the task; `options` are for evaluators other than lm-eval, the others
    for lm-eval only. `split` names the dataset splits that parts are taken from. Of these three,
    only what differs from the default is stored.
    """

    evaluator: Annotated[str, entry_of(EVALUATORS)] = unsafe(LM_EVAL)
    task: str = unsafe(min_length=1)
    name: str = unsafe(min_length=1, max_length=200)
    metric: str | None = unsafe(None, min_length=1)
    direction: Direction | None = unsafe(None)
    num_fewshot: int | None = unsafe(None, ge=0, le=1000)
    gen_kwargs: dict[str, Any] = unsafe({})
    split: dict[Part, str] = unsafe({})
    goal: bool = unsafe(True)
    options: dict[str, Any] = unsafe({})

    @field_validator("split", mode="before")
    @classmethod
    def _parts(cls, split: object) -> object:
        if isinstance(split, dict):
            unknown = [name for name in split if name not in PARTS]
            if unknown:
                problem = "unknown part {!r}{} (a task has search, select and test items)"
                refuse([((n, KEY), problem.format(n, nearest(str(n), PARTS))) for n in unknown])
        return split

    @model_validator(mode="after")
    def _fitting(self) -> Task:
        fields = ("options",) if self.evaluator == LM_EVAL else LM_EVAL_ONLY
        whose = "another evaluator" if self.evaluator == LM_EVAL else "lm-eval"
        problems: list[Problem] = [
            ((name, KEY), f"{name!r} is for tasks of {whose}; remove it")
            for name in fields
            if getattr(self, name) not in (None, {})
        ]
        if self.evaluator == PROPERTIES_EVALUATOR:
            problems.append((("evaluator",), "list properties under `properties:`"))
        if problems:
            refuse(problems)
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        defaults = {"evaluator": LM_EVAL, "options": {}, "split": {}}
        return {k: v for k, v in found.items() if k not in defaults or v != defaults[k]}


class NamedRecipe(Section):
    """A recipe measured before the search, under the study's model names."""

    name: str = unsafe(min_length=1)
    plain: dict[str, Any] = unsafe()

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_plain(self.plain)


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


class EvidenceText(Section):
    """The text on which evidence is gathered, for methods that need it."""

    text: str = unsafe(min_length=1)
    tokens: int = unsafe(65_536, ge=1, le=10**9)
    length: int = unsafe(512, ge=1, le=10**6)


class Split(Section):
    """The shares of each task's items for search, selection and the sealed test."""

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


def nowhere(path: Sequence[Step]) -> Location | None:
    """Return None: the locator of settings that no file or option gave."""


@dataclass(frozen=True)
class _Origin:
    """Where the settings come from; not part of their value."""

    locate: Locator = field(default=nowhere, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


class StudyConfig(Section):
    """Everything that decides a study.

    `base` and `models` are absolute paths or hub ids with a revision (`org/name@revision`).
    `extensions` are the user's modules that may be loaded, each with the digest of its source.
    `item_files` are the files of tasks' items, by the objective's name; what they hold is compared,
    not where they lie.
    """

    name: str = safe(max_length=100)
    base: str = unsafe()
    models: dict[str, str] = unsafe(min_length=1, max_length=MAX_MODELS)
    tasks: tuple[Task, ...] = unsafe(min_length=1, max_length=64)
    item_files: dict[str, str] = safe({})
    properties: tuple[Annotated[str, one_of(PROPERTIES, "property")], ...] = unsafe(())
    include_path: str | None = safe(None)
    apply_chat_template: bool = unsafe(False)
    fewshot_as_multiturn: bool | None = unsafe(None)
    system_instruction: str | None = unsafe(None)
    allow_task_code: bool = safe(False)
    allow_code_eval: bool = safe(False)
    extensions: dict[str, str] = unsafe({})
    evidence: EvidenceText | None = unsafe(None)
    search: Search = unsafe(Search())
    recipes: tuple[NamedRecipe, ...] = unsafe(())
    sampler: Annotated[str, entry_of(SAMPLERS)] = unsafe("auto")
    budget: int | Literal["unlimited"] = safe(200)
    max_items: int | None = safe(None, ge=1)
    max_time: str | None = safe(None)
    constraints: tuple[str, ...] = unsafe((), max_length=64)
    seed: int = unsafe(0, ge=0, lt=2**32)
    executor: Annotated[str, one_of(EXECUTORS, "executor")] = safe("local")
    workers: int | None = safe(None, ge=1, le=100_000)
    ray_address: str | None = safe(None, min_length=1)
    deterministic: bool = unsafe(False)
    evaluation: Evaluation = unsafe(Evaluation())
    split: Split = unsafe(Split())
    shortlist: int = safe(12, ge=1, le=1000)
    resolution: float = safe(0.02, ge=0, le=1)
    out: str = safe(min_length=1)
    export: Literal["front", "knee", "none"] = safe("front")

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            refuse([((), f"{name!r} is not a valid name: use {NAME_RULE}")])
        return name

    @field_validator("out")
    @classmethod
    def _is_path(cls, out: str) -> str:
        if "\0" in out:
            refuse([((), "a path must not contain a NUL character")])
        return out

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, models: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        problems: list[Problem] = []
        first = {info.data["base"]: "the base"} if "base" in info.data else {}
        for name, reference in models.items():
            if not NAME.fullmatch(name):
                problems.append(((name, KEY), f"{name!r} is not a valid name: use {NAME_RULE}"))
            elif name in RESERVED or is_proposed_name(name):
                problems.append(((name, KEY), f"{name!r} is reserved; choose another name"))
            if reference in first:
                problem = f"{reference} is already {first[reference]}; list each model once"
                problems.append(((name,), problem))
            first.setdefault(reference, f"the model {name!r}")
        if problems:
            refuse(problems)
        return models

    @field_validator("tasks")
    @classmethod
    def _distinct_tasks(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        problems: list[Problem] = []
        names: set[str] = set()
        for i, task in enumerate(tasks):
            if task.name in names:
                problem = f"two objectives are named {task.name!r}; give one a different `name`"
                problems.append(((i,), problem))
            elif task.name in PROPERTIES:
                problems.append(
                    ((i,), f"{task.name!r} is the name of a property; set a different `name`")
                )
            names.add(task.name)
        if problems:
            refuse(problems)
        return tasks

    @field_validator("recipes")
    @classmethod
    def _named_recipes(
        cls, recipes: tuple[NamedRecipe, ...], info: ValidationInfo
    ) -> tuple[NamedRecipe, ...]:
        """Check recipes' names, which become those of trials and of model folders."""
        problems: list[Problem] = []
        names = {*RESERVED, *info.data.get("models", ())}
        for i, recipe in enumerate(recipes):
            name = recipe.name
            if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
                problems.append(((i,), f"{name!r} is not a valid recipe name: use {NAME_RULE}"))
            elif name in names or is_proposed_name(name):
                problem = f"another trial is named {name!r}; rename the recipe's file"
                problems.append(((i,), problem))
            names.add(name)
        if problems:
            refuse(problems)
        return recipes

    @field_validator("properties")
    @classmethod
    def _distinct_properties(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if problems := repeated(names, "property"):
            refuse(problems)
        return names

    @field_validator("fewshot_as_multiturn")
    @classmethod
    def _multiturn(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("apply_chat_template") is False:
            refuse([((), "fewshot_as_multiturn needs apply_chat_template: true")])
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value != "unlimited" and not (whole and 0 <= value <= 10**6):  # type: ignore[operator]
            shown = json.dumps(value, default=str)
            refuse([((), f"expected a whole number from 0 to 1000000, or unlimited, got {shown}")])
        return value

    @field_validator("max_time")
    @classmethod
    def _max_time(cls, value: str | None) -> str | None:
        if value is not None and not seconds(value):
            refuse([((), f"expected a time such as 8h, 90min or 1d12h, got {value!r}")])
        return value

    @field_validator("deterministic")
    @classmethod
    def _deterministic(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_time") is not None:
            refuse(
                [((), "max_time cannot be combined with deterministic; use budget or max_items")]
            )
        if value and info.data.get("executor") == "ray" and info.data.get("workers") is None:
            problem = "deterministic runs on Ray need a fixed number of workers: set `workers`"
            refuse([((), problem)])
        return value

    @model_validator(mode="after")
    def _limited(self) -> StudyConfig:
        if self.budget == "unlimited" and self.max_items is None and self.max_time is None:
            refuse([(("budget",), "an unlimited budget needs max_time or max_items")])
        return self

    @field_validator("constraints")
    @classmethod
    def _constraints(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        tasks, models = info.data.get("tasks"), info.data.get("models")
        if tasks is None or models is None:
            return texts  # their faults are reported first
        names = [*(task.name for task in tasks), *info.data.get("properties", ())]
        references = (BEST_PARENT, "base", "uniform", *models)
        problems: list[Problem] = []
        for i, text in enumerate(texts):
            try:
                found = Constraint.parse(text)
            except ValueError as error:
                problems.append(((i,), str(error)))
                continue
            if found.objective not in names:
                advice = nearest(found.objective, names)
                problems.append(((i,), f"there is no objective {found.objective!r}{advice}"))
            if found.reference not in (None, *references):
                advice = nearest(str(found.reference), references)
                problems.append(((i,), f"there is no model {found.reference!r}{advice}"))
        if problems:
            refuse(problems)
        return texts

    @model_validator(mode="after")
    def _comparable(self) -> StudyConfig:
        layers = self.search.layers
        if "distance_to_base" in self.properties and (layers.drop or layers.repeat):
            problem = "distance_to_base needs models with the base's layers: remove search.layers"
            refuse([(("properties",), problem)])
        return self

    @model_validator(mode="after")
    def _goals(self) -> StudyConfig:
        bound = {Constraint.parse(text).objective for text in self.constraints}
        useless = "{!r} is neither a goal nor named by a constraint; remove it"
        problems: list[Problem] = [
            (("tasks", i), useless.format(task.name))
            for i, task in enumerate(self.tasks)
            if not task.goal and task.name not in bound
        ]
        if not any(task.goal for task in self.tasks):
            problems.append((("tasks",), "no task is a goal: there is nothing to search for"))
        if problems:
            refuse(problems)
        return self

    @model_validator(mode="after")
    def _evidence(self) -> StudyConfig:
        problems: list[Problem] = [
            (("search", "methods", i), f"{name} needs evidence: set `evidence: {{text: FILE}}`")
            for i, name in enumerate(self.search.methods)
            if METHODS[name].needs and self.evidence is None
        ]
        if problems:
            refuse(problems)
        return self

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
            refuse([((), "ray_address needs executor: ray")])
        return value

    @property
    def max_seconds(self) -> float | None:
        """`max_time` in seconds."""
        return None if self.max_time is None else seconds(self.max_time)

    @property
    def expected_budget(self) -> int:
        """An estimate of the number of trials, from the settings alone."""
        if self.budget != "unlimited":
            return self.budget
        each = self.evaluation.items_per_candidate
        if self.max_items is None or each == "full":
            return UNKNOWN_BUDGET
        return max(self.max_items // (each * len(self.tasks)), 1)

    @property
    def references(self) -> dict[str, str]:
        """All models by name, the base first, as `base`."""
        return {"base": self.base, **self.models}

    def space_settings(self) -> SpaceSettings:
        """Return what is searched, as the search space's settings."""
        return self.search.for_space(self.seed)

    def locate(self, path: Sequence[Step]) -> Location | None:
        """Return where a setting was written; None for one read back from a study."""
        return self._origin.locate(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a file for another program asks for that these settings cannot express."""
        return self._origin.notes

    def located_by(self, locate: Locator, notes: tuple[str, ...] = ()) -> StudyConfig:
        """Return the same settings, with where they were written and what they leave out."""
        located = self.model_copy()
        located._origin = _Origin(locate, notes)
        return located

    def to_plain(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> StudyConfig:
        """Invert `to_plain`."""
        return cls.model_validate_json(json.dumps(plain))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the settings a resumed study must keep."""
        fixed = {k: v for k, (v, is_safe) in leaves(self.to_plain()).items() if not is_safe}
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Difference:
    """A setting that differs between a study and the configuration to resume it with."""

    field: str
    old: Any
    new: Any
    safe: bool


def differences(old: Mapping[str, Any], new: StudyConfig) -> list[Difference]:
    """List what changed since a study was stored with `to_plain`, without secrets."""
    before, after = leaves(old), leaves(without_secrets(new.to_plain()))
    return [
        Difference(name, before[name][0], value, is_safe)
        for name, (value, is_safe) in after.items()
        if name in before and before[name][0] != value
    ]


def leaves(
    plain: Mapping[str, Any], model: type[BaseModel] = StudyConfig, prefix: str = ""
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
