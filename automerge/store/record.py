"""A study apart from its trials: how it began, its current state, and what it decided.

A `StudyRecord` is a value. `plain` returns the JSON that `automerge.store.schema` describes, whose
version is the store's; `from_plain` reads what fits that schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from automerge.constraint import Constraint
from automerge.items import Sealed, StudyItems
from automerge.objective import Estimate, Objective
from automerge.recipe import Recipe
from automerge.store.result import ModelOrigin, State, Versions

Plain: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What is known about models and tasks from examining them.

    Attributes:
        objectives: the objectives, in order.
        items: the items that the split assigned to search, select and test.
        members: objective → its leaf tasks.
        split: a digest of the split and the documents.
        n_layers: the base's number of layers.
        dtype: the torch name of the dtype that most of the base is stored in.
        tasks: task → its digest.
        clusters: leaf task → the cluster of each item, if some depend on each other.
        evidence: kind → source → digest of what was gathered.
        warnings: sentences for the user.
        score_commands: commands that score a model on the test items, as in
            `automerge.store.result`.
        warm: recipes of an earlier study that are measured first, by the names of their trials.
        smooth: objectives that have a smooth loss, whose slopes can be followed.
        generated: objectives that need generated answers.
    """

    objectives: tuple[Objective, ...]
    items: StudyItems
    members: Mapping[str, tuple[str, ...]]
    split: str
    n_layers: int
    dtype: str
    tasks: Mapping[str, str]
    clusters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    evidence: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    score_commands: tuple[tuple[str, ...], ...] = ()
    warm: Mapping[str, Recipe] = field(default_factory=dict)
    smooth: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()

    def plain(self) -> Plain:
        """Return the inputs as JSON values."""
        items = self.items
        return {
            "objectives": [asdict(objective) for objective in self.objectives],
            "items": {
                "search": _lists(items.search),
                "select": _lists(items.select),
                "test": _lists(items.test.for_files()),
            },
            "members": _lists(self.members),
            "split": self.split,
            "clusters": _lists(self.clusters),
            "n_layers": self.n_layers,
            "dtype": self.dtype,
            "tasks": dict(self.tasks),
            "evidence": {kind: dict(digests) for kind, digests in self.evidence.items()},
            "warnings": list(self.warnings),
            "score_commands": [list(command) for command in self.score_commands],
            "warm": {name: recipe.plain() for name, recipe in self.warm.items()},
            "smooth": list(self.smooth),
            "generated": list(self.generated),
        }

    @classmethod
    def from_plain(cls, plain: Plain) -> Inputs:
        """Invert `plain`."""
        items = {part: _tuples(tasks) for part, tasks in plain["items"].items()}
        return cls(
            objectives=tuple(map(_objective, plain["objectives"])),
            items=StudyItems(items["search"], items["select"], Sealed(items["test"])),
            members=_tuples(plain["members"]),
            split=plain["split"],
            clusters=_tuples(plain["clusters"]),
            n_layers=plain["n_layers"],
            dtype=plain["dtype"],
            tasks=plain["tasks"],
            evidence=plain["evidence"],
            warnings=tuple(plain["warnings"]),
            score_commands=tuple(map(tuple, plain["score_commands"])),
            warm={name: Recipe.from_plain(own) for name, own in plain["warm"].items()},
            smooth=tuple(plain["smooth"]),
            generated=tuple(plain["generated"]),
        )


@dataclass(frozen=True)
class Begun:
    """What was fixed when the study began.

    Attributes:
        inputs: the study's models and tasks.
        sampler: the name in `SAMPLERS`, with "auto" resolved.
        window: the number of trials that a deterministic study keeps in flight; None if results are
            taken as they come.
        fingerprint: a digest of the configuration.
        origins: base and sources, as they were named then.
        machine: a description of the driver's machine.
        started: the time in ISO 8601.
        command: the command line.
    """

    inputs: Inputs
    sampler: str
    window: int | None
    fingerprint: str
    origins: tuple[ModelOrigin, ...]
    machine: str
    started: str
    command: str

    def plain(self) -> Plain:
        """Return it as JSON values."""
        origins = [asdict(origin) for origin in self.origins]
        return {**vars(self), "inputs": self.inputs.plain(), "origins": origins}

    @classmethod
    def from_plain(cls, plain: Plain) -> Begun:
        """Invert `plain`."""
        origins = tuple(ModelOrigin(**origin) for origin in plain["origins"])
        return cls(**{**plain, "inputs": Inputs.from_plain(plain["inputs"]), "origins": origins})


@dataclass(frozen=True)
class StudyModel:
    """Where the base or a source is, and how to find it again.

    Attributes:
        name: its name in the study.
        reference: a hub id, noise, its folder relative to the run folder, or `local:NAME@DIGEST` of
            one that is not near.
        revision: the commit of a hub id.
        digest: a digest of all its files.
        sample: a digest of a sample of them.
        license: the licence that its card names.
        align: how it is aligned with the base (`automerge.files.align`); "" if it is not.
    """

    name: str
    reference: str
    revision: str | None
    digest: str
    sample: str
    license: str | None = None
    align: str = ""

    @property
    def pinned(self) -> str:
        """The reference, of a hub id with its commit."""
        if self.revision is None:
            return self.reference
        return f"{self.reference.partition('@')[0]}@{self.revision}"


def aligned_by(models: Sequence[StudyModel]) -> dict[str, str]:
    """Return how models are aligned, by name; only those that are."""
    return {model.name: model.align for model in models if model.align}


@dataclass(frozen=True)
class Run:
    """The versions of packages in a run, and the number of measurements before it."""

    after: int
    versions: Versions


@dataclass(frozen=True)
class Current:
    """What each run may change.

    Attributes:
        config: the configuration as `StudyConfig.to_plain` writes it, without secrets.
        models: where base and sources are.
        versions: the versions in the first run, and in each run that differs from the one before.
        state: how the last run ended.
        finished: when the study finished, in ISO 8601.
    """

    config: Plain
    models: tuple[StudyModel, ...]
    versions: tuple[Run, ...]
    state: State = "interrupted"
    finished: str | None = None

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.config["models"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def budget(self) -> int | None:
        """The number of trials that the configuration allows; None for any number."""
        budget = self.config["budget"]
        return None if budget == "unlimited" else int(budget)

    @property
    def max_items(self) -> int | None:
        return self.config.get("max_items")

    @property
    def max_time(self) -> str | None:
        return self.config.get("max_time")

    @property
    def patience(self) -> int | None:
        return self.config.get("patience")

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        return tuple(map(Constraint.parse, self.config.get("constraints", ())))

    @property
    def extensions(self) -> Mapping[str, str]:
        """The user's modules → digests of their source."""
        return dict(self.config.get("extensions", {}))

    def plain(self) -> Plain:
        """Return it as JSON values."""
        return {
            **vars(self),
            "models": [asdict(model) for model in self.models],
            "versions": [{"after": r.after, "versions": dict(r.versions)} for r in self.versions],
        }

    @classmethod
    def from_plain(cls, plain: Plain) -> Current:
        """Invert `plain`."""
        models = tuple(StudyModel(**model) for model in plain["models"])
        versions = tuple(Run(**run) for run in plain["versions"])
        return cls(**{**plain, "models": models, "versions": versions})


@dataclass(frozen=True)
class Freeze:
    """A shortlist that was frozen: its digest, and the number of trials before it."""

    digest: str
    trials: int


@dataclass(frozen=True)
class Decided:
    """What search and selection decided; models are trial numbers.

    Attributes:
        shortlist: the merges that are measured on select items.
        frozen: every shortlist so far, in order.
        believed: the search's estimates, by trial and objective.
        baselines: the models that the front is compared with.
        front: the front; None before it is chosen.
        remarks: what the search had to say at its end.
    """

    shortlist: tuple[int, ...] = ()
    frozen: tuple[Freeze, ...] = ()
    believed: Mapping[int, Mapping[str, Estimate]] = field(default_factory=dict)
    baselines: tuple[int, ...] = ()
    front: tuple[int, ...] | None = None
    remarks: tuple[str, ...] = ()

    def plain(self) -> Plain:
        """Return it as JSON values."""
        return {
            "shortlist": list(self.shortlist),
            "frozen": [asdict(freeze) for freeze in self.frozen],
            "believed": {
                str(number): {name: asdict(value) for name, value in values.items()}
                for number, values in self.believed.items()
            },
            "baselines": list(self.baselines),
            "front": None if self.front is None else list(self.front),
            "remarks": list(self.remarks),
        }

    @classmethod
    def from_plain(cls, plain: Plain) -> Decided:
        """Invert `plain`."""
        return cls(
            shortlist=tuple(plain["shortlist"]),
            frozen=tuple(Freeze(**freeze) for freeze in plain["frozen"]),
            believed={
                int(number): {name: Estimate(**value) for name, value in values.items()}
                for number, values in plain["believed"].items()
            },
            baselines=tuple(plain["baselines"]),
            front=None if plain["front"] is None else tuple(plain["front"]),
            remarks=tuple(plain.get("remarks", ())),
        )


@dataclass(frozen=True)
class StudyRecord:
    """Everything about a study except what was measured."""

    begun: Begun
    current: Current
    decided: Decided = Decided()

    def plain(self) -> Mapping[str, Plain]:
        """Return the record as JSON values, by the parts that are written separately."""
        return {
            "begun": self.begun.plain(),
            "current": self.current.plain(),
            "decided": self.decided.plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Plain]) -> StudyRecord:
        """Invert `plain`."""
        return cls(
            Begun.from_plain(plain["begun"]),
            Current.from_plain(plain["current"]),
            Decided.from_plain(plain["decided"]),
        )


KEYS = ("begun", "current", "decided")
"""The parts of a record, each of which is one fact in a store's `meta`."""


def _objective(plain: Plain) -> Objective:
    return Objective(**{**plain, "members": tuple(plain.get("members", ()))})


def _lists(mapping: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    return {key: list(values) for key, values in mapping.items()}


def _tuples(mapping: Mapping[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(values) for key, values in mapping.items()}
