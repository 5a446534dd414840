"""YAML and command-line options → one validated configuration, or every fault at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from automerge.config.messages import message
from automerge.config.recipe_file import read_recipe
from automerge.config.search import SEARCHED, Search
from automerge.config.section import KEY
from automerge.config.settings import StudyConfig
from automerge.errors import ConfigError, Fault, Location
from automerge.evaluation.base import default_name
from automerge.evaluation.table import LM_EVAL, PYTHON
from automerge.extensions import install, read_extension
from automerge.files.align import align_fault
from automerge.files.document import Document, GivenMapping
from automerge.files.noise import is_noise
from automerge.files.references import NAME, is_folder, join, resolve, short_name, split_name
from automerge.files.yaml_file import Plain, Step, load_yaml
from automerge.mergekit import Evolution, is_evolve, parse_evolve
from automerge.methods import METHODS
from automerge.objective import KL_TO_BASE
from automerge.recipe import DEFAULT
from automerge.space.named import is_name, space_file

OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "name": ("name",),
        "base": ("base",),
        "model": ("models",),
        "task": ("tasks",),
        "include_path": ("include_path",),
        "apply_chat_template": ("apply_chat_template",),
        "allow_task_code": ("allow_task_code",),
        "allow_code_eval": ("allow_code_eval",),
        "extension": ("extensions",),
        "space": ("search",),
        "sampler": ("sampler",),
        "slopes": ("slopes",),
        "warm_start": ("warm_start",),
        "budget": ("budget",),
        "max_items": ("max_items",),
        "max_time": ("max_time",),
        "patience": ("patience",),
        "constraint": ("constraints",),
        "seed": ("seed",),
        "executor": ("executor",),
        "workers": ("workers",),
        "ray_address": ("ray_address",),
        "deterministic": ("deterministic",),
        "items_per_candidate": ("evaluation", "items_per_candidate"),
        "batch_size": ("evaluation", "batch_size"),
        "dtype": ("evaluation", "dtype"),
        "device": ("evaluation", "device"),
        "out": ("out",),
        "export": ("export",),
        "track": ("trackers",),
    }
)
"""Option → the key of the configuration that it replaces."""
NUMBERS = (
    "budget",
    "max_items",
    "patience",
    "seed",
    "workers",
    "batch_size",
    "items_per_candidate",
)


def load_config(source: Path | str | Mapping[str, object]) -> StudyConfig:
    """Read a study's configuration (docs/configuration.md).

    A file for mergekit-evolve is read as the study it describes; the configuration's `notes` say
    what has no counterpart.

    Args:
        source: a YAML file, or a mapping with the same keys and values. Relative paths are
            relative to the file, those of a mapping to the working directory.

    Raises:
        ConfigError: with every fault found, each located in the file or by its keys.
    """
    return load_with_options(source, {})


def load_with_options(
    source: Path | str | Mapping[str, object] | None, options: Mapping[str, object]
) -> StudyConfig:
    """Read a configuration for the command line, whose options replace keys of the file.

    Args:
        source: as of `load_config`; None is no file.
        options: values by the names in OPTIONS; None and () leave the key alone. `model` holds
            texts "NAME=PATH" or "PATH", `task` texts "TASK[:METRIC[:DIRECTION]]", `space` a named
            search space or a file. Relative paths are relative to the working directory.

    Raises:
        ConfigError: with every fault found, each located.
    """
    document: Document | None = None
    if isinstance(source, Mapping):
        document = GivenMapping(source)
    elif source is not None:
        document = load_yaml(source)
    draft = _Draft(document)
    if document is not None and is_evolve(draft.data):
        draft.take(parse_evolve(document, document.folder), document)
    draft.apply(options)
    draft.complete(Path(source).absolute().stem if isinstance(source, Path | str) else "study")
    config = draft.validate()
    if draft.faults or config is None:
        raise ConfigError(sorted(draft.faults, key=_order))
    return config.located_by(draft.locate, draft.notes)


def _order(fault: Fault) -> tuple[str, int, int]:
    where = fault.location or Location("")
    return where.source, where.line or 0, where.column or 0


@dataclass(frozen=True)
class _Origin:
    """Where one part of the configuration was written: in a file below `at`, or as an option."""

    file: Document | None
    option: str = ""
    at: tuple[Step, ...] = ()

    def locate(self, key: bool) -> Location:
        if self.file is None:
            return Location(self.option)
        return self.file.locate(self.at, key=key)

    @property
    def folder(self) -> Path:
        return Path.cwd() if self.file is None else self.file.folder


class _Draft:
    """A configuration on its way from text to values."""

    def __init__(self, document: Document | None) -> None:
        self.data: dict[str, Plain] = {} if document is None else document.data
        self.faults: list[Fault] = []
        self.notes: tuple[str, ...] = ()
        self._unresolved = False
        self._origins: dict[tuple[Step, ...], _Origin] = {(): _Origin(document, "the command line")}

    def take(self, evolution: Evolution, document: Document) -> None:
        """Replace a file for mergekit-evolve by the study it describes."""
        self.data = dict(evolution.plain)
        self.notes = evolution.notes
        for path, at in evolution.origins.items():
            self._origins[path] = _Origin(document, at=at)

    def locate(self, path: Sequence[Step], key: bool = False) -> Location:
        """Return where the setting at a path was written."""
        return self._origin(path).locate(key)

    def _origin(self, path: Sequence[Step]) -> _Origin:
        """Return the origin of a path's longest known prefix, followed to the path's end."""
        known = next(n for n in range(len(path), -1, -1) if tuple(path[:n]) in self._origins)
        origin = self._origins[tuple(path[:known])]
        return replace(origin, at=(*origin.at, *path[known:]))

    def fault(self, path: Sequence[Step], message: str, key: bool = False) -> None:
        """Record what is wrong at a path."""
        self.faults.append(Fault(message, self.locate(path, key)))

    def apply(self, options: Mapping[str, object]) -> None:
        """Let options replace keys."""
        for option, value in options.items():
            if value is None or value == () or value == []:
                continue
            *sections, key = OPTIONS[option]
            place: dict[str, Plain] = self.data
            for section in sections:
                if not isinstance(place.get(section, {}), dict):
                    self.fault((section,), "expected a mapping of keys to values")
                    del place[section]
                place.setdefault(section, {})
                place = place[section]
            flag = f"--{option.replace('_', '-')}"
            self._origins[OPTIONS[option]] = _Origin(None, flag)
            place[key] = _plain(option, value)
            if option == "model":
                texts = [str(text) for text in place[key]]
                place[key] = self._name_models(
                    texts, [_Origin(None, f"--model {text}") for text in texts]
                )

    def _name_models(self, texts: Sequence[str], origins: Sequence[_Origin]) -> dict[str, str]:
        """Return models listed as NAME=PATH, or as PATH, whose last part becomes the name."""
        models: dict[str, str] = {}
        for text, origin in zip(texts, origins, strict=True):
            try:
                name, reference = split_name(text, origin.folder)
            except ValueError as error:
                self.faults.append(Fault(str(error), origin.locate(key=False)))
                self._unresolved = True
                continue
            name = name or short_name(text)
            self._origins["models", name] = origin
            if name in models:
                problem = f"two models are named {name!r}; write NAME=PATH"
                self.faults.append(Fault(problem, origin.locate(key=False)))
            models[name] = reference
        return models

    def complete(self, stem: str) -> None:
        """Expand short forms, resolve paths and read the files that are referred to."""
        data = self.data
        if data.get("name") is None:
            data["name"] = stem if NAME.fullmatch(stem) else "study"
        if data.get("out") is None:
            data["out"] = str(Path.cwd() / "runs" / str(data["name"]))
        elif isinstance(data["out"], str):
            data["out"] = str(join(self._origin(("out",)).folder, data["out"]))
        for key in set(StudyConfig.model_fields) - {"base"}:
            if key in data and data[key] is None:
                del data[key]
        if data.get("budget") is None and {"max_items", "max_time"} & set(data):
            data["budget"] = "unlimited"
        self._resolve_models()
        self._resolve_align()
        self._resolve_include_path()
        self._resolve_warm_start()
        self._load_extensions()
        self._resolve_evidence()
        if isinstance(data.get("tasks"), list):
            self._complete_tasks(data["tasks"])
        if isinstance(data.get("properties"), list):
            self._complete_properties(data["properties"])
        if isinstance(data.get("search"), str):
            data["search"] = {"space": data["search"]}
            self._origins["search", "space"] = self._origin(("search",))
        if isinstance(data.get("search"), dict):
            self._complete_search()
        if isinstance(data.get("recipes"), list):
            data["recipes"] = self._read_recipes(data["recipes"])

    def _resolve_models(self) -> None:
        places: list[tuple[dict[str, Plain], tuple[str, ...]]] = [(self.data, ("base",))]
        models = self.data.get("models")
        if isinstance(models, list) and all(isinstance(text, str) for text in models):
            origins = [self._origin(("models", i)) for i in range(len(models))]
            models = self.data["models"] = self._name_models(models, origins)
        if isinstance(models, dict):
            places += [(models, ("models", name)) for name in models]
        for mapping, path in places:
            text = mapping.get(path[-1])
            if isinstance(text, str):
                try:
                    mapping[path[-1]] = resolve(text, self._origin(path).folder)
                except ValueError as error:
                    self.fault(path, str(error))
                    self._unresolved = True

    def _resolve_align(self) -> None:
        """Write one kind of alignment out for each source that is a model."""
        align, models = self.data.get("align"), self.data.get("models")
        if isinstance(align, str) and (fault := align_fault(align)) is not None:
            self.fault(("align",), fault)
            del self.data["align"]
        elif isinstance(align, str) and isinstance(models, dict):
            names = [name for name, text in models.items() if not is_noise(str(text))]
            self.data["align"] = dict.fromkeys(names, align)
            for name in names:
                self._origins["align", name] = self._origin(("align",))

    def _align(self) -> dict[str, str]:
        """Return how sources are aligned, as far as that is well-formed."""
        align = self.data.get("align")
        found = align.items() if isinstance(align, dict) else ()
        return {name: text for name, text in found if align_fault(text) is None}

    def _resolve_include_path(self) -> None:
        text = self.data.get("include_path")
        if isinstance(text, str):
            folder = join(self._origin(("include_path",)).folder, text)
            if not is_folder(folder):
                self.fault(("include_path",), f"no such folder: {folder}")
            self.data["include_path"] = str(folder)

    def _resolve_warm_start(self) -> None:
        text = self.data.get("warm_start")
        if isinstance(text, str):
            self.data["warm_start"] = str(join(self._origin(("warm_start",)).folder, text))

    def _resolve_evidence(self) -> None:
        evidence = self.data.get("evidence")
        if isinstance(evidence, str):
            evidence = self.data["evidence"] = {"text": evidence}
            self._origins["evidence", "text"] = self._origin(("evidence",))
        if not isinstance(evidence, dict):
            return
        text = evidence.get("text")
        places: list[tuple[dict[str, Plain], tuple[str, ...]]] = [(evidence, ("text",))]
        if isinstance(text, dict):
            places = [(text, ("text", str(name))) for name in text]
        for mapping, path in places:
            name = path[-1]
            if isinstance(given := mapping.get(name), str):
                mapping[name] = self._existing(("evidence", *path), given)

    def _existing(self, path: Sequence[Step], text: str) -> str:
        """Return where a text leads from the file it was written in; it must lead somewhere."""
        found = join(self._origin(path).folder, text)
        if not found.exists():
            self.fault(path, f"no such file or folder: {found}")
        return str(found)

    def _load_extensions(self) -> None:
        """Import the user's modules, so that what they define can be named below."""
        listed = self.data.pop("extensions", [])
        if not isinstance(listed, list):
            self.fault(("extensions",), f"expected a list of modules, got {json.dumps(listed)}")
            return
        loaded: dict[str, Plain] = {}
        for i, text in enumerate(listed):
            try:
                extension = read_extension(str(text), self._origin(("extensions",)).folder)
                install([extension])
            except ConfigError as error:
                self.fault(("extensions", i), str(error))
                continue
            loaded[extension.name] = extension.digest
        self.data["extensions"] = loaded

    def _complete_tasks(self, tasks: list[Plain]) -> None:
        for i, task in enumerate(tasks):
            if isinstance(task, str):
                name, *rest = task.split(":")
                tasks[i] = {"task": name, **dict(zip(("metric", "direction"), rest, strict=False))}
                if len(rest) > 2:
                    problem = f"expected TASK[:METRIC[:DIRECTION]], got {task!r}"
                    self.fault(("tasks", i), problem)
        written = [task for task in tasks if isinstance(task, dict)]
        if "item_files" in self.data:
            self.fault(("item_files",), "unknown key; write `items:` in a task", key=True)
        files: dict[str, Plain] = {}
        for i, task in enumerate(tasks):
            if isinstance(task, dict):
                self._complete_evaluated(i, task, files)
        self.data["item_files"] = files
        for task in written:
            if task.get("name") is None and isinstance(task.get("task"), str):
                alone = sum(other.get("task") == task["task"] for other in written) == 1
                task["name"] = default_name(task["task"], task.get("metric"), alone)

    def _complete_evaluated(self, i: int, task: dict[str, Plain], files: dict[str, Plain]) -> None:
        """Write `python: MODULE:FUNCTION` out, and move a file of items out of the task."""
        python = task.pop("python", None)
        if python is not None:
            if "task" in task or "evaluator" in task:
                problem = "give one of `task` and `python`, and no `evaluator` with `python`"
                self.fault(("tasks", i), problem)
            task |= {"task": python, "evaluator": PYTHON}
            self._origins["tasks", i, "task"] = self._origin(("tasks", i, "python"))
            if task.get("name") is None and isinstance(python, str):
                task["name"] = python.rpartition(":")[2]
        if task.get("evaluator") in (None, LM_EVAL):
            return
        items = task.pop("items", None)
        if isinstance(items, str):
            files[str(task.get("name") or task.get("task"))] = str(
                join(self._origin(("tasks", i, "items")).folder, items)
            )
        elif items is not None:
            self.fault(("tasks", i, "items"), f"expected a file, got {json.dumps(items)}")
        elif python is not None:
            self.fault(("tasks", i), "a Python task needs `items: FILE`, with one item per line")

    def _complete_properties(self, properties: list[Plain]) -> None:
        """Move the text of `kl_to_base: FILE` out of the list of properties."""
        for i, written in enumerate(properties):
            if not isinstance(written, dict):
                continue
            path = ("properties", i, KL_TO_BASE)
            text = written.get(KL_TO_BASE)
            if len(written) != 1 or not isinstance(text, str):
                shown = json.dumps(written)
                problem = f"expected a name or {{{KL_TO_BASE}: FILE}}, got {shown}"
                self.fault(path[:2], problem)
            else:
                file = self._existing(path, text)
                self.data.setdefault("item_files", {})[KL_TO_BASE] = file
            properties[i] = KL_TO_BASE

    def _complete_search(self) -> None:
        search: dict[str, Plain] = self.data["search"]
        space = search.pop("space", None)
        if space is not None:
            self._read_space(search, space)
        depth = search.get("depth")
        if isinstance(depth, str) and depth == "per_layer":
            search["depth"] = {"per_layer": True}
        elif depth is not None and not isinstance(depth, dict):
            shown = json.dumps(depth)
            problem = f"expected {{knots: N}}, {{groups: N}} or per_layer, got {shown}"
            self.fault(("search", "depth"), problem)
            del search["depth"]
        if isinstance(search.get("methods"), dict):
            self._read_methods(search, search["methods"])
        components = search.get("components")
        if components == "all":
            del search["components"]
        elif isinstance(components, list):
            search["components"] = _component_groups(components)
        elif components is not None:
            problem = f"expected all or a list of components, got {json.dumps(components)}"
            self.fault(("search", "components"), problem)
            del search["components"]
        known = set(Search.model_fields) - {"knobs"}
        knobs = {key: search.pop(key) for key in list(search) if key not in known}
        for key in knobs:
            self._origins["search", "knobs", key] = self._origin(("search", key))
        search["knobs"] = knobs

    def _read_methods(self, search: dict[str, Plain], given: dict[str, Plain]) -> None:
        """Put methods by selector in order: `other` is all that no selector names."""
        groups: dict[str, Plain] = {}
        for key, names in given.items():
            selector = DEFAULT if key == "other" else key
            groups[selector] = names if isinstance(names, list) else [names]
            self._origins["search", "by_group", selector] = self._origin(("search", "methods", key))
        self._origins["search", "by_group"] = self._origin(("search", "methods"))
        search["by_group"] = groups
        every = [name for names in groups.values() if isinstance(names, list) for name in names]
        known = [n for n in every if isinstance(n, str) and METHODS.problem(n) is None]
        search["methods"] = list(dict.fromkeys(known)) or list(SEARCHED)

    def _read_space(self, search: dict[str, Plain], space: Plain) -> None:
        if not isinstance(space, str):
            problem = f"expected a name or a file, got {json.dumps(space)}"
            self.fault(("search", "space"), problem)
            return
        folder = self._origin(("search", "space")).folder
        try:
            path = space_file(space) if is_name(space) else join(folder, space)
            document = load_yaml(path)
        except ConfigError as error:
            if any(fault.location is None for fault in error.faults):
                self.fault(("search", "space"), str(error))
            else:
                self.faults += error.faults
            return
        for key, value in document.data.items():
            if key not in search:
                search[key] = value
                self._origins["search", key] = _Origin(document, at=(key,))

    def _read_recipes(self, paths: list[Plain]) -> list[Plain]:
        models = self.data.get("models")
        named = {"base": self.data.get("base"), **(models if isinstance(models, dict) else {})}
        references = {name: text for name, text in named.items() if isinstance(text, str)}
        sound = len(references) == len(named) and not self._unresolved
        read: list[Plain] = []
        for i, text in enumerate(paths):
            if not isinstance(text, str):
                self.fault(("recipes", i), f"expected a file, got {json.dumps(text)}")
                continue
            path = join(self._origin(("recipes",)).folder, text)
            try:
                file = read_recipe(path)
                recipe = file.among(references, self._align()) if sound else file.recipe
            except ConfigError as error:
                for fault in error.faults:
                    if fault.location is None:
                        self.fault(("recipes", i), fault.message)
                    else:
                        self.faults.append(fault)
                continue
            read.append({"name": file.name, "plain": recipe.plain()})
        return read

    def validate(self) -> StudyConfig | None:
        """Check the rest; return None if anything is wrong."""
        try:
            return StudyConfig.from_plain(self.data)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                self._pydantic_fault(details)
            return None

    def _pydantic_fault(self, error: Mapping[str, Any]) -> None:
        at = tuple(error["loc"])
        if error["type"] != "problems":
            self.fault(at, message(error), key=error["type"] == "extra_forbidden")
            return
        for below, problem in error["ctx"]["problems"]:
            path = (*at, *below)
            is_key = path[-1:] == (KEY,)
            self.fault(path[:-1] if is_key else path, problem, key=is_key)


def _plain(option: str, value: object) -> Plain:
    """Return an option's value, with numbers parsed from text."""
    if isinstance(value, list | tuple):
        return [str(v) for v in value]
    if option in NUMBERS and isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", value):
        return int(value)
    return str(value) if isinstance(value, Path) else value


def _component_groups(components: list[Plain]) -> list[Plain]:
    """Return groups of selectors; `other`, added where missing, is all that no group names."""
    groups = [group if isinstance(group, list) else [group] for group in components]
    named = [[DEFAULT if selector == "other" else selector for selector in g] for g in groups]
    if not any(DEFAULT in group for group in named):
        named.append([DEFAULT])
    return named
