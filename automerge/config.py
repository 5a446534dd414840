"""YAML and command-line options → one validated configuration, or every fault at once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from automerge.errors import ConfigError, Fault, Location, nearest
from automerge.recipe import DEFAULT
from automerge.recipe_files import read_recipe
from automerge.references import NAME, resolve, short_name
from automerge.settings import Difference, Search, StudyConfig, differences
from automerge.yaml_file import Located, Plain, Step, load_yaml

__all__ = ["OPTIONS", "Difference", "StudyConfig", "differences", "load_config"]

OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "name": ("name",),
        "base": ("base",),
        "model": ("models",),
        "task": ("tasks",),
        "include_path": ("include_path",),
        "apply_chat_template": ("apply_chat_template",),
        "allow_task_code": ("allow_task_code",),
        "sampler": ("sampler",),
        "budget": ("budget",),
        "seed": ("seed",),
        "executor": ("executor",),
        "workers": ("workers",),
        "ray_address": ("ray_address",),
        "items_per_candidate": ("evaluation", "items_per_candidate"),
        "batch_size": ("evaluation", "batch_size"),
        "dtype": ("evaluation", "dtype"),
        "device": ("evaluation", "device"),
        "out": ("out",),
        "export": ("export",),
    }
)
"""Option → the key of the configuration that it replaces."""
NUMBERS = ("budget", "seed", "workers", "batch_size", "items_per_candidate")


def load_config(
    path: Path | str | None, options: Mapping[str, object] = MappingProxyType({})
) -> StudyConfig:
    """Read a configuration; options replace keys of the file, and None or () leave them alone.

    `model` holds texts "NAME=PATH" or "PATH", `task` texts "TASK[:METRIC[:DIRECTION]]". Relative
    paths are relative to the file they are written in; in options, to the working directory.
    Raises ConfigError with every fault found.
    """
    document = None if path is None else load_yaml(path)
    draft = _Draft(document)
    draft.apply(options)
    draft.complete("study" if path is None else Path(path).absolute().stem)
    config = draft.validate()
    if draft.faults or config is None:
        raise ConfigError(sorted(draft.faults, key=_order))
    return config.located_by(draft.locate)


def _order(fault: Fault) -> tuple[str, int, int]:
    where = fault.location or Location("")
    return where.source, where.line or 0, where.column or 0


@dataclass(frozen=True)
class _Origin:
    """Where one part of the configuration was written: in a file below `at`, or as an option."""

    file: Located | None
    option: str = ""
    at: tuple[Step, ...] = ()

    def locate(self, path: Sequence[Step], key: bool) -> Location:
        if self.file is None:
            return Location(self.option)
        return self.file.locate((*self.at, *path), key=key)

    @property
    def folder(self) -> Path:
        return Path.cwd() if self.file is None else Path(self.file.source).absolute().parent


class _Draft:
    """A configuration on its way from text to values."""

    def __init__(self, document: Located | None) -> None:
        self.data: dict[str, Plain] = {} if document is None else document.data
        self.faults: list[Fault] = []
        self._origins: dict[tuple[Step, ...], _Origin] = {(): _Origin(document, "the command line")}
        self._wrong: set[Step] = set()

    def locate(self, path: Sequence[Step], key: bool = False) -> Location:
        """Where the setting at a path was written."""
        prefix = next(
            p for n in range(len(path), -1, -1) if (p := tuple(path[:n])) in self._origins
        )
        return self._origins[prefix].locate(path[len(prefix) :], key)

    def fault(self, path: Sequence[Step], message: str, key: bool = False) -> None:
        """Note what is wrong at a path; the setting is then kept from validation."""
        shown = ".".join(str(step) for step in path if not isinstance(step, int))
        location = self.locate(path, key)
        if location.line is None and path and location.source == "the command line":
            message = f"{shown}: {message}"
        self.faults.append(Fault(message, location))
        if path:
            self._wrong.add(path[0])

    def apply(self, options: Mapping[str, object]) -> None:
        """Let options replace keys."""
        for option, value in options.items():
            if value is None or value == () or value == []:
                continue
            *sections, key = OPTIONS[option]
            place: dict[str, Plain] = self.data
            for section in sections:
                if not isinstance(place.get(section), dict):
                    place[section] = {}
                place = place[section]
            flag = f"--{option.replace('_', '-')}"
            self._origins[OPTIONS[option]] = _Origin(None, flag)
            place[key] = self._models(value) if option == "model" else _plain(option, value)

    def _models(self, texts: object) -> dict[str, str]:
        assert isinstance(texts, Sequence)
        models: dict[str, str] = {}
        for text in texts:
            name, separator, reference = str(text).partition("=")
            if not separator or not NAME.fullmatch(name):
                name, reference = short_name(str(text)), str(text)
            self._origins["models", name] = _Origin(None, f"--model {text}")
            if name in models:
                message = f"two models are named {name!r}; write --model NAME=PATH"
                self.faults.append(Fault(message, Location(f"--model {text}")))
            models[name] = reference
        return models

    def complete(self, stem: str) -> None:
        """Write short forms out, resolve paths and read the files that are referred to."""
        data = self.data
        if data.get("name") is None:
            data["name"] = stem if NAME.fullmatch(stem) else "study"
        if data.get("out") is None:
            data["out"] = str(Path.cwd() / "runs" / str(data["name"]))
        elif isinstance(data["out"], str):
            data["out"] = str(self._folder(("out",)) / Path(data["out"]).expanduser())
        for key in [key for key, value in data.items() if value is None and key != "base"]:
            del data[key]
        self._resolve_models()
        self._resolve_include_path()
        if isinstance(data.get("tasks"), list):
            self._complete_tasks(data["tasks"])
        if isinstance(data.get("search"), dict):
            self._complete_search()
        if isinstance(data.get("recipes"), list):
            data["recipes"] = self._read_recipes(data["recipes"])

    def _folder(self, path: tuple[Step, ...]) -> Path:
        prefix = next(p for n in range(len(path), -1, -1) if (p := path[:n]) in self._origins)
        return self._origins[prefix].folder

    def _resolve_models(self) -> None:
        places: list[tuple[dict[str, Plain], tuple[str, ...]]] = [(self.data, ("base",))]
        models = self.data.get("models")
        if isinstance(models, dict):
            places += [(models, ("models", name)) for name in models]
        for mapping, path in places:
            text = mapping.get(path[-1])
            if isinstance(text, str):
                try:
                    mapping[path[-1]] = resolve(text, self._folder(path))
                except ValueError as error:
                    self.fault(path, str(error))

    def _resolve_include_path(self) -> None:
        text = self.data.get("include_path")
        if isinstance(text, str):
            folder = self._folder(("include_path",)) / Path(text).expanduser()
            if not folder.is_dir():
                self.fault(("include_path",), f"no such folder: {folder}")
            self.data["include_path"] = str(folder)

    def _complete_tasks(self, tasks: list[Plain]) -> None:
        for i, task in enumerate(tasks):
            if isinstance(task, str):
                name, *rest = task.split(":")
                tasks[i] = {"task": name, **dict(zip(("metric", "direction"), rest, strict=False))}
                if len(rest) > 2:
                    message = f"expected TASK[:METRIC[:DIRECTION]], got {task!r}"
                    self.fault(("tasks", i), message)
        written = [task for task in tasks if isinstance(task, dict)]
        for task in written:
            if task.get("name") is None and isinstance(task.get("task"), str):
                alone = sum(other.get("task") == task["task"] for other in written) == 1
                metric = task.get("metric")
                task["name"] = task["task"] if alone or not metric else f"{task['task']}:{metric}"

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
            message = f"expected {{knots: N}}, {{groups: N}} or per_layer, got {shown}"
            self.fault(("search", "depth"), message)
        components = search.get("components")
        if components == "all":
            del search["components"]
        elif isinstance(components, list):
            search["components"] = _component_groups(components)
        elif components is not None:
            message = f"expected all or a list of components, got {json.dumps(components)}"
            self.fault(("search", "components"), message)
        known = set(Search.model_fields) - {"knobs"}
        knobs = {key: search.pop(key) for key in list(search) if key not in known}
        for key in knobs:
            self._origins["search", "knobs", key] = self._origin_below(("search", key))
        search["knobs"] = knobs

    def _origin_below(self, path: tuple[Step, ...]) -> _Origin:
        prefix = next(p for n in range(len(path), -1, -1) if (p := path[:n]) in self._origins)
        origin = self._origins[prefix]
        return _Origin(origin.file, origin.option, (*origin.at, *path[len(prefix) :]))

    def _read_space(self, search: dict[str, Plain], space: Plain) -> None:
        if not isinstance(space, str):
            self.fault(("search", "space"), f"expected a file, got {json.dumps(space)}")
            return
        path = self._folder(("search",)) / Path(space).expanduser()
        try:
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
        complete = len(references) == len(named) and not self._wrong & {"base", "models"}
        read: list[Plain] = []
        for i, text in enumerate(paths):
            if not isinstance(text, str):
                self.fault(("recipes", i), f"expected a file, got {json.dumps(text)}")
                continue
            path = self._folder(("recipes",)) / Path(text).expanduser()
            try:
                file = read_recipe(path)
                recipe = file.among(references) if complete else file.recipe
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
        """Check all that is left; None where something is wrong."""
        for key in self._wrong:
            if key == "search":
                self.data.pop("search", None)
        try:
            text = json.dumps(self.data)
            config = StudyConfig.model_validate_json(text)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                self._pydantic_fault(dict(details))
            return None
        return config

    def _pydantic_fault(self, error: dict[str, Any]) -> None:
        at = tuple(error["loc"])
        if error["type"] == "problems":
            for below, message in error["ctx"]["problems"]:
                path = (*at, *below)
                is_key = bool(path) and path[-1] == "[key]"
                self.fault(path[:-1] if is_key else path, message, key=is_key)
            return
        self.fault(at, _message(error), key=error["type"] == "extra_forbidden")


def _plain(option: str, value: object) -> Plain:
    """An option's value, whose numbers are still text."""
    if isinstance(value, list | tuple):
        return [str(v) for v in value]
    if option in NUMBERS and isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,18}", value):
        return int(value)
    return str(value) if isinstance(value, Path) else value


def _component_groups(components: list[Plain]) -> list[Plain]:
    """Groups of selectors; `other` is all that no group names, and added where it is missing."""
    groups = [group if isinstance(group, list) else [group] for group in components]
    named = [[DEFAULT if selector == "other" else selector for selector in g] for g in groups]
    if not any(DEFAULT in group for group in named):
        named.append([DEFAULT])
    return named


def _message(error: Mapping[str, Any]) -> str:
    """What pydantic found, in our words."""
    kind, at, got, context = error["type"], error["loc"], error["input"], error.get("ctx", {})
    shown = json.dumps(got, default=str)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    if kind == "missing":
        return f"missing key {at[-1]!r}{_HINTS.get(at[-1], '')}"
    if kind == "extra_forbidden":
        valid = _keys_at(at[:-1])
        return f"unknown key {at[-1]!r}{nearest(str(at[-1]), valid)}"
    if kind == "bool_type":
        written = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        advice = written.get(str(got).lower())
        return f"expected true or false, got {shown}" + (f"; write {advice}" if advice else "")
    if kind == "literal_error":
        choices = [c.strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"unknown value {shown}{nearest(str(got), choices)}"
    if kind.startswith(("greater_than", "less_than")):
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        bounds = [f"{word} {context[key]:g}" for key, word in words.items() if key in context]
        return f"must be {' and '.join(bounds)}, got {shown}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {shown}"
    return f"{error['msg']}, got {shown}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least one",
    "too_long": "fewer",
    "string_too_short": "text",
    "string_too_long": "a shorter text",
}
_HINTS = {
    "base": "; name the base model: a folder or a hub id (`base:` or --base)",
    "models": "; name the fine-tunes to merge (`models:` or --model NAME=PATH)",
    "tasks": "; name at least one lm-eval task (`tasks:` or --task NAME)",
}


def _keys_at(path: Sequence[Step]) -> tuple[str, ...]:
    """The keys that the configuration may have at a path."""
    model: type[BaseModel] = StudyConfig
    for step in path:
        if isinstance(step, str):
            annotation = model.model_fields[step].annotation
            inner: tuple[Any, ...] = get_args(annotation) or (annotation,)
            model = next(a for a in inner if isinstance(a, type) and issubclass(a, BaseModel))
    return tuple(model.model_fields)
