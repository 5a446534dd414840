"""The validated settings of a study, and which of them a resumed study may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from automerge.config.checks import (
    NAME_RULE,
    constraint_faults,
    evidence_faults,
    goal_faults,
    group_faults,
    model_faults,
    recipe_faults,
    task_faults,
)
from automerge.config.duration import seconds
from automerge.config.origin import Origin
from automerge.config.search import Search
from automerge.config.section import (
    KEY,
    Problem,
    Section,
    entry_of,
    leaves,
    one_of,
    refuse,
    repeated,
    safe,
    unsafe,
)
from automerge.config.sections import Evaluation, EvidenceText, Group, NamedRecipe, Split
from automerge.config.task import Task
from automerge.errors import Locate, Location, nearest
from automerge.evaluation.generation.table import VLLM
from automerge.evaluation.table import LM_EVAL
from automerge.executors import EXECUTORS
from automerge.expert_groups import EVIDENCE as ROUTING
from automerge.files.align import align_fault
from automerge.files.known import KIND
from automerge.files.noise import is_noise
from automerge.files.references import NAME, is_local
from automerge.files.shared import near, shared_name
from automerge.files.yaml_file import Step
from automerge.methods import METHODS
from automerge.mixture import EVIDENCE, HIDDEN
from automerge.objective import KL_TO_BASE, MEASURED
from automerge.recipe import CALIBRATED_BY, Recipe
from automerge.samplers import SAMPLERS
from automerge.space import SpaceSettings, sweep_size
from automerge.trackers.table import TRACKERS

MAX_MODELS = 64
UNKNOWN_BUDGET = 200
"""The budget samplers assume where only time limits a search."""

MAX_SWEEP = 1000
"""The most merges of a sweep."""

TRIALS_PER_START = 6
"""A search of this many trials may begin with one of the usual merges."""

MIN_SHORTLIST, TRIALS_PER_PLACE = 12, 10
"""The fewest places in a shortlist, and the number of trials per place."""


class StudyConfig(Section):
    """Everything that decides a study.

    `base` and `models` are absolute paths or hub ids with a revision (`org/name@revision`).
    `extensions` are the user's modules that may be loaded, each with the digest of its source.
    `align` says how sources are aligned with the base, by name.
    `item_files` are the files of tasks' items, by the objective's name; what they hold is compared,
    not where they lie.
    """

    name: str = safe(max_length=100)
    base: str = unsafe()
    models: dict[str, str] = unsafe(min_length=1, max_length=MAX_MODELS)
    align: dict[str, str] = unsafe({})
    tasks: tuple[Task, ...] = unsafe(min_length=1, max_length=64)
    groups: tuple[Group, ...] = unsafe((), max_length=64)
    item_files: dict[str, str] = safe({})
    properties: tuple[Annotated[str, one_of(MEASURED, "property")], ...] = unsafe(())
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
    warm_start: str | None = safe(None)
    starts: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = safe("auto")
    sweep: int = unsafe(0, ge=0, le=100)
    sampler: Annotated[str, entry_of(SAMPLERS)] = unsafe("auto")
    slopes: Literal["auto", "off"] = unsafe("auto")
    budget: int | Literal["unlimited"] = safe(200)
    max_items: int | None = safe(None, ge=1)
    max_time: str | None = safe(None)
    patience: int | None = safe(None, ge=1, le=10**6)
    constraints: tuple[str, ...] = unsafe((), max_length=64)
    seed: int = unsafe(0, ge=0, lt=2**32)
    executor: Annotated[str, entry_of(EXECUTORS)] = safe("local")
    workers: int | None = safe(None, ge=1, le=100_000)
    gpus_per_worker: int = safe(1, ge=1, le=1024)
    ray_address: str | None = safe(None, min_length=1)
    deterministic: bool = unsafe(False)
    evaluation: Evaluation = unsafe(Evaluation())
    split: Split = unsafe(Split())
    shortlist: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = safe("auto")
    resolution: float = safe(0.02, ge=0, le=1)
    out: str = safe(min_length=1)
    export: Literal["best", "front", "knee", "adapter", "none"] = safe("best")
    adapter_rank: int | None = safe(None, ge=1, le=100_000)
    trackers: tuple[Annotated[str, one_of(tuple(TRACKERS), "tracker")], ...] = safe(())

    _origin: Origin = PrivateAttr(default_factory=Origin)

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
        if problems := list(model_faults(models, info.data.get("base"))):
            refuse(problems)
        return models

    @field_validator("tasks")
    @classmethod
    def _distinct_tasks(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        if problems := list(task_faults(tasks)):
            refuse(problems)
        return tasks

    @field_validator("groups")
    @classmethod
    def _fitting_groups(cls, groups: tuple[Group, ...], info: ValidationInfo) -> tuple[Group, ...]:
        tasks = info.data.get("tasks")
        if tasks is not None and (problems := list(group_faults(groups, tasks))):
            refuse(problems)
        return groups

    @field_validator("recipes")
    @classmethod
    def _named_recipes(
        cls, recipes: tuple[NamedRecipe, ...], info: ValidationInfo
    ) -> tuple[NamedRecipe, ...]:
        if problems := list(recipe_faults(recipes, tuple(info.data.get("models", ())))):
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

    @field_validator("slopes")
    @classmethod
    def _followed(cls, value: str, info: ValidationInfo) -> str:
        if value == "off" and info.data.get("sampler") == "descent":
            refuse([((), "descent follows slopes: remove slopes: off, or choose another sampler")])
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
        if value and info.data.get("workers") is None and _can(info, "parallel"):
            problem = "deterministic runs need a fixed number of workers: set `workers`"
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
        known = tuple(name for name, text in models.items() if not is_noise(text))
        named = (*tasks, *info.data.get("groups", ()))
        names = [*(each.name for each in named), *info.data.get("properties", ())]
        if problems := list(constraint_faults(texts, names, known)):
            refuse(problems)
        return texts

    @model_validator(mode="after")
    def _swept(self) -> StudyConfig:
        n = sweep_size(len(self.trained), self.sweep)
        if n > min(self.expected_budget, MAX_SWEEP):
            refuse(
                [
                    (
                        ("sweep",),
                        f"steps of 1/{self.sweep} are {n} merges of {len(self.trained)} sources, "
                        f"more than {'the budget' if n <= MAX_SWEEP else MAX_SWEEP}; "
                        "choose a smaller number",
                    )
                ]
            )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> StudyConfig:
        layers = self.search.layers
        if "distance_to_base" in self.properties and layers.others:
            problem = "distance_to_base needs models with the base's layers: remove search.layers"
            refuse([(("properties",), problem)])
        return self

    @model_validator(mode="after")
    def _as_adapters(self) -> StudyConfig:
        layers = self.search.layers
        if self.export != "adapter":
            if self.adapter_rank is not None:
                problem = (
                    "the rank of adapters that are exported: add export: adapter, or remove it"
                )
                refuse([(("adapter_rank",), problem)])
        elif layers.others:
            problem = "an adapter keeps its base's layers: remove search.layers, or export: adapter"
            refuse([(("export",), problem)])
        elif problems := [
            (
                ("recipes", i),
                f"{named.name!r} has {other}, which no adapter can hold: remove the recipe, or "
                "export: adapter",
            )
            for i, named in enumerate(self.recipes)
            if (other := _no_adapter(named.recipe)) is not None
        ]:
            refuse(problems)
        return self

    @model_validator(mode="after")
    def _routed(self) -> StudyConfig:
        if self.evaluation.generator == VLLM:
            end = "cannot be handed a mixture of dense models"
            if self.search.layers.mixture:
                refuse([(("evaluation", "generator"), f"vLLM {end}: use auto")])
            if routed := [
                (("recipes", i), f"vLLM {end}, as {named.name!r} is one: use generator: auto")
                for i, named in enumerate(self.recipes)
                if named.recipe.mixture
            ]:
                refuse(routed)
        return self

    @model_validator(mode="after")
    def _spread(self) -> StudyConfig:
        if self.gpus_per_worker > 1 and self.evaluation.device == "cpu":
            problem = "layers are spread over GPUs only: remove it, or evaluation.device: cpu"
            refuse([(("gpus_per_worker",), problem)])
        return self

    @model_validator(mode="after")
    def _prompted(self) -> StudyConfig:
        prompts = any(task.evaluator == LM_EVAL for task in self.tasks)
        if KL_TO_BASE in self.properties and KL_TO_BASE not in self.item_files and not prompts:
            problem = f"no task is lm-eval's, so there are no prompts: {{{KL_TO_BASE}: FILE}}"
            refuse([(("properties", self.properties.index(KL_TO_BASE)), problem)])
        return self

    @model_validator(mode="after")
    def _goals(self) -> StudyConfig:
        if problems := list(goal_faults(self.tasks, self.constraints, self.groups)):
            refuse(problems)
        return self

    @field_validator("align")
    @classmethod
    def _alignments(cls, align: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        models = info.data.get("models")
        if models is None:
            return align  # their faults are reported first
        sources = tuple(name for name, text in models.items() if not is_noise(text))
        problems: list[Problem] = []
        for name, text in align.items():
            if name not in sources:
                problems.append(((name, KEY), f"no source {name!r}{nearest(name, sources)}"))
            elif (fault := align_fault(text)) is not None:
                problems.append(((name,), fault))
        if problems:
            refuse(problems)
        return align

    @property
    def kinds_of_evidence(self) -> tuple[str, ...]:
        """What is gathered from the sources before a search."""
        needs = [kind for name in self.search.methods for kind in METHODS[name].needs]
        if self.hidden_gates:
            needs.append(EVIDENCE)
        if self.search.layers.experts is not None:
            needs.append(ROUTING)
        if self.search.calibrate:
            needs.append(CALIBRATED_BY)
        return tuple(dict.fromkeys(needs))

    @model_validator(mode="after")
    def _evidence(self) -> StudyConfig:
        if problems := evidence_faults(self):
            refuse(problems)
        return self

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > 1 and not _can(info, "parallel"):
            name = info.data["executor"]
            refuse([((), f"the {name} executor has one worker; use executor: ray for more")])
        return value

    @field_validator("ray_address")
    @classmethod
    def _ray_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not _can(info, "joins"):
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
    def grouped(self) -> frozenset[str]:
        """The tasks that are measured for a group and are no goals of their own."""
        return frozenset(name for group in self.groups for name in group.members)

    @property
    def n_goals(self) -> int:
        """How many tasks and groups are optimised."""
        own = [t for t in self.tasks if t.is_optimised and t.name not in self.grouped]
        return len(own) + len(self.groups)

    @property
    def n_starts(self) -> int:
        """How many usual merges the search may begin with."""
        return self.expected_budget // TRIALS_PER_START if self.starts == "auto" else self.starts

    @property
    def n_shortlisted(self) -> int:
        """How many merges may go on to the select items."""
        if self.shortlist != "auto":
            return self.shortlist
        return max(MIN_SHORTLIST, self.expected_budget // TRIALS_PER_PLACE)

    @property
    def references(self) -> dict[str, str]:
        """All models by name, the base first, as `base`."""
        return {"base": self.base, **self.models}

    @property
    def noise(self) -> tuple[str, ...]:
        """The names of the sources that are low-rank noise."""
        return tuple(name for name, reference in self.models.items() if is_noise(reference))

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the sources that are models: all but noise."""
        return tuple(name for name in self.models if name not in self.noise)

    def space_settings(self) -> SpaceSettings:
        """Return what is searched, as the search space's settings."""
        return self.search.for_space(self.seed, self.noise, self.evidence is not None)

    @property
    def hidden_gates(self) -> bool:
        """Whether mixtures are searched whose gates come from the base's hidden states."""
        mixture = self.search.layers.mixture
        return mixture is not None and HIDDEN in mixture.chosen(self.evidence is not None)

    def locate(self, path: Sequence[Step]) -> Location | None:
        """Return where a setting was written; None for one read back from a study."""
        return self._origin.locate(path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a file for another program asks for that these settings cannot express."""
        return self._origin.notes

    def located_by(self, locate: Locate, notes: tuple[str, ...] = ()) -> StudyConfig:
        """Return the same settings, with where they were written and what they leave out."""
        located = self.model_copy()
        located._origin = Origin(locate, notes)
        return located

    def to_plain(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return self.model_dump(mode="json")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> StudyConfig:
        """Invert `to_plain`."""
        return cls.model_validate_json(json.dumps(plain))

    def shared(self, run: Path) -> StudyConfig:
        """Return the same settings as a store keeps them, for others to read.

        Paths are relative to the run folder where they are near it. Otherwise a model is named
        `local:NAME`, and a file or folder by the last part of its path.
        """

        def model(name: str, reference: str) -> str:
            if not is_local(reference):
                return reference
            return near(reference, run) or f"{KIND}:{name}"

        def path(text: str | None) -> str | None:
            return None if text is None else shared_name(text, run)

        evidence = self.evidence
        if evidence is not None:
            text = evidence.named_by(lambda file: Path(file).name)
            evidence = evidence.model_copy(update={"text": text})
        return self.model_copy(
            update={
                "base": model("base", self.base),
                "models": {name: model(name, text) for name, text in self.models.items()},
                "include_path": path(self.include_path),
                "item_files": {name: path(text) for name, text in self.item_files.items()},
                "warm_start": path(self.warm_start),
                "evidence": evidence,
                "out": ".",
            }
        )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the settings a resumed study must keep."""
        fixed = {
            k: v for k, (v, is_safe) in leaves(self.to_plain(), StudyConfig).items() if not is_safe
        }
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


def _can(info: ValidationInfo, capability: Literal["parallel", "joins"]) -> bool:
    """Return whether the executor declares a capability; of an unknown one nothing is asked."""
    name = info.data.get("executor")
    return name is None or bool(getattr(EXECUTORS[name], capability))


def _no_adapter(recipe: Recipe) -> str | None:
    """Return, in words, what gives a merge other layers or experts than its base's, if anything."""
    if recipe.slices:
        return "`slices`"
    if recipe.mixture is not None:
        return "a `mixture`"
    return None if recipe.experts is None else "fewer `experts`"
