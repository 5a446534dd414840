"""Read mergekit-evolve's files as studies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from automerge.errors import ConfigError, Location, nearest
from automerge.files.document import Document
from automerge.files.yaml_file import Plain
from automerge.mergekit.models import Models
from automerge.mergekit.parameters import At, Reader
from automerge.mergekit.tables import glob
from automerge.methods import METHODS
from automerge.recipe import BASE

KEYS = (
    *("genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init"),
    *("apply_chat_template", "fewshot_as_multiturn"),
)
GENOME_KEYS = (
    *("models", "merge_method", "base_model", "tokenizer_source", "layer_granularity"),
    *("normalize", "allow_negative_weights", "filters", "smooth"),
)
TASK_KEYS = ("name", "weight", "metric")
METHODS_OF_EVOLVE = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
NORMALIZED = ("linear", "ties", "dare_ties")
"""Methods that are normalised unless the file says otherwise."""
MIN_ITEMS = 8


@dataclass(frozen=True)
class Evolution:
    """A mergekit-evolve file as a study's configuration.

    `origins` map paths in the configuration to the paths in the file that they come from. `notes`
    say what has no counterpart.
    """

    plain: Mapping[str, Plain]
    origins: Mapping[At, At]
    notes: tuple[str, ...]


def is_evolve(data: Mapping[str, Plain]) -> bool:
    """Return whether a mapping is a configuration of mergekit-evolve."""
    return "genome" in data


def parse_evolve(document: Document, folder: Path) -> Evolution:
    """Read a mergekit-evolve configuration.

    Relative paths of models are relative to the working directory, else to `folder`.

    Raises:
        ConfigError: with every fault and its location.
    """
    found = _Evolve(Reader(document), folder)
    evolution = found.read()
    if found.reader.faults:
        order = sorted(found.reader.faults, key=lambda fault: fault.location or Location(""))
        raise ConfigError(order)
    return evolution


class _Evolve:
    """Reads one file."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self._names = Models(reader, folder, ("genome",))
        self._notes: list[str] = []

    def read(self) -> Evolution:
        reader = self.reader
        reader.check_keys((), KEYS)
        reader.check_keys(("genome",), GENOME_KEYS)
        method = self._method()
        base, models = self._models(method)
        plain: dict[str, Plain] = {
            "base": base,
            "models": models,
            "tasks": self._tasks(),
            "apply_chat_template": self._switch(("apply_chat_template",), True),
        }
        if plain["apply_chat_template"]:
            plain["fewshot_as_multiturn"] = self._switch(("fewshot_as_multiturn",), True)
        plain["search"] = self._search(method)
        plain |= self._evaluation()
        origins: dict[At, At] = {
            ("base",): ("genome", "base_model"),
            ("models",): ("genome", "models"),
            ("search",): ("genome",),
            ("search", "methods"): ("genome", "merge_method"),
            ("search", "components"): ("genome", "filters"),
            ("search", "depth"): ("genome", "layer_granularity"),
            ("evaluation", "items_per_candidate"): ("limit",),
        }
        notes = (*self._names.notes, *self._notes, *self._differences(method))
        return Evolution(plain, origins, notes)

    def _method(self) -> str:
        method = self.reader.at(("genome", "merge_method"))
        if isinstance(method, str) and method in METHODS_OF_EVOLVE:
            return method
        advice = nearest(str(method), METHODS_OF_EVOLVE)
        self.reader.fault(("genome", "merge_method"), f"unknown merge method {method!r}{advice}")
        return METHODS_OF_EVOLVE[0]

    def _models(self, method: str) -> tuple[str | None, dict[str, str]]:
        """Return the base's reference, and the sources' by name."""
        at: At = ("genome", "models")
        texts = self.reader.at(at)
        if not isinstance(texts, list) or not texts:
            self.reader.fault(at, "expected `models`, a list of models")
            return None, {}
        base = self._names.base()
        names = [self._names.name((*at, i), text) for i, text in enumerate(texts)]
        for i, name in enumerate(names):
            if name is not None and name in names[:i]:
                self.reader.fault((*at, i), f"{texts[i]} is listed twice")
        references = {name: reference for reference, name in self._names.names.items()}
        if base is None and method == "slerp":
            base = names[0]
            self._notes.append("the file has no base_model; its first model is the study's base")
        elif base is None:
            message = "missing key 'base_model': the model that the others are fine-tunes of"
            self.reader.fault(("genome",), message)
        elif base in names and method != "slerp":
            self._notes.append(
                "the base is among the models: its weight has no counterpart"
                + ("; search task_arithmetic to average it in" if method == "linear" else "")
            )
        if len(names) > 1 and method == "slerp":
            self._notes.append(
                "mergekit-evolve chooses the two models of slerp for each group of layers, "
                "automerge for the whole model"
            )
        sources = {n: references[n] for n in names if n is not None and n != base}
        return references.get(base or ""), sources

    def _tasks(self) -> list[Plain]:
        entries = self.reader.at(("tasks",))
        if not isinstance(entries, list) or not entries:
            self.reader.fault(("tasks",), "expected `tasks`, a list of lm-eval tasks")
            return []
        weights: list[float] = []
        tasks = [self._task(("tasks", i), weights) for i in range(len(entries))]
        if len({abs(weight) for weight in weights}) > 1:
            shown = ", ".join(f"{weight:g}" for weight in weights)
            self._notes.append(
                f"weights of tasks ({shown}) have no counterpart: each task is an objective, and "
                "the front shows how they trade off"
            )
        return [task for task in tasks if task]

    def _task(self, at: At, weights: list[float]) -> dict[str, Plain]:
        entry = self.reader.at(at)
        if isinstance(entry, str):
            entry = {"name": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            message = f"expected a task or a mapping with `name`, got {json.dumps(entry)}"
            self.reader.fault(at, message)
            return {}
        if isinstance(self.reader.at(at), dict):
            self.reader.check_keys(at, TASK_KEYS)
        task: dict[str, Plain] = {"task": entry["name"], "metric": entry.get("metric", "acc,none")}
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight == 0:
            message = f"expected a number other than 0, got {json.dumps(weight)}"
            self.reader.fault((*at, "weight"), message)
            return task
        weights.append(weight)
        if weight < 0:
            task["direction"] = "minimize"
        shots = self.reader.data.get("num_fewshot")
        return task | ({} if shots is None else {"num_fewshot": shots})

    def _search(self, method: str) -> dict[str, Plain]:
        weight = "t" if method == "slerp" else "weight"
        negative = self._switch(("genome", "allow_negative_weights"), False) and weight == "weight"
        search: dict[str, Plain] = {"methods": [method], "depth": self._depth()}
        filters = self.reader.at(("genome", "filters")) or []
        if isinstance(filters, list) and all(isinstance(text, str) and text for text in filters):
            if filters:
                search["components"] = [*([glob(text)] for text in filters), "other"]
        else:
            message = f"expected a list of parts of tensor names, got {json.dumps(filters)}"
            self.reader.fault(("genome", "filters"), message)
        search[weight] = [-1, 1] if negative else [0, 1]
        own = [knob.name for knob in METHODS[method].knobs]
        search["varying"] = [weight]
        if "density" in own:
            search["density"] = [0, 1]
            search["varying"].append("density")
        if "normalize" in own:
            search["normalize"] = self._switch(("genome", "normalize"), method in NORMALIZED)
        if "lambda" in own:
            search["lambda"] = 1
        return search | {"leave_out": False}

    def _depth(self) -> Plain:
        """Return how values vary over layers: in groups of layers, or linearly between knots."""
        at: At = ("genome", "layer_granularity")
        size = self.reader.at(at) or 0
        smooth = self._switch(("genome", "smooth"), False)
        if type(size) is not int or size < 0:
            self.reader.fault(at, f"expected a whole number of layers, got {json.dumps(size)}")
        elif size == 1:
            return "per_layer"
        elif size > 1:
            known = [n for name in self._names.names.values() if (n := self._names.n_layers(name))]
            if not known:
                message = (
                    "the number of layers, and thus of groups, is not known: download the first "
                    "model"
                )
                self.reader.fault(at, message)
            elif known[0] % size:
                message = f"the models' {known[0]} layers are not a multiple of {size}"
                self.reader.fault(at, message)
            else:
                return {"knots" if smooth else "groups": known[0] // size}
        return {"knots": 1}

    def _evaluation(self) -> dict[str, Plain]:
        limit = self.reader.data.get("limit")
        if limit is None:
            self._notes.append(
                "each candidate is scored on 200 fresh items per task, not on all items: see "
                "evaluation.items_per_candidate"
            )
            return {}
        if type(limit) is not int or limit < 1:
            self.reader.fault(("limit",), f"expected a whole number, got {json.dumps(limit)}")
        if type(limit) is int and limit < MIN_ITEMS:
            self._notes.append(f"limit {limit} is raised to {MIN_ITEMS} items")
            limit = MIN_ITEMS
        return {"evaluation": {"items_per_candidate": limit}}

    def _switch(self, at: At, default: bool) -> bool:
        value = self.reader.at(at)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.reader.fault(at, f"expected true or false, got {json.dumps(value)}")
        return value is True

    def _differences(self, method: str) -> Iterator[str]:
        """Yield what the search does differently, and which settings of the file have no effect."""
        genome = self.reader.at(("genome",))
        chosen = genome.get("tokenizer_source")
        if chosen not in (None, BASE) and not self._names.same(chosen, genome.get("base_model")):
            yield "tokenizer_source has no counterpart: all models get the base's vocabulary"
        if self._switch(("random_init",), False):
            yield (
                "random_init has no counterpart: a study starts with the base, the sources and "
                "their average"
            )
        self._switch(("shuffle",), False)  # items are drawn at random anyway
        if method != "slerp":
            yield "weights are searched within bounds, unlike in mergekit-evolve: see search.weight"
        if self._switch(("genome", "smooth"), False) and genome.get("layer_granularity"):
            yield (
                "final norm and lm_head take the last of the values over depth; in "
                "mergekit-evolve, the first"
            )
