"""Read mergekit's YAML as mergekit 0.1.5 means it.

Unknown keys and parameters, which mergekit ignores, are faults here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automerge.errors import ConfigError, Location, nearest
from automerge.mergekit.models import Models
from automerge.mergekit.parameters import At, Parameters, Reader
from automerge.mergekit.tables import (
    COUNTERPARTS,
    DTYPES,
    KEYS,
    NOTES,
    PARAMETERS,
    REQUIRED,
    RESCALES,
    SWITCHES,
    UNSUPPORTED_KEYS,
    our_method,
)
from automerge.methods import METHODS
from automerge.recipe import BASE, Profile, Recipe, RecipeSource, Value
from automerge.recipe_check import recipe_faults
from automerge.yaml_file import Located, Plain


@dataclass(frozen=True)
class Imported:
    """A mergekit file as a recipe; the base is named `base`, others by the end of their path.

    `models` holds the base of adapters too, merged or not.
    """

    name: str | None
    recipe: Recipe
    models: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Input:
    """A model of the merge, and the path of its entry."""

    name: str
    at: At


def is_mergekit(data: Mapping[str, Plain]) -> bool:
    """Whether a mapping is meant for mergekit."""
    return "merge_method" in data or "slices" in data or isinstance(data.get("models"), list)


def parse_mergekit(document: Located, folder: Path) -> Imported:
    """Read a mergekit configuration; raise ConfigError with every fault, located.

    Relative model paths are relative to `folder`.
    """
    merge = _Merge(Reader(document), folder)
    imported = merge.read()
    faults = merge.reader.faults
    if imported is None or faults:
        raise ConfigError(sorted(faults, key=lambda fault: fault.location or Location("")))
    return imported


class _Merge:
    """Reads one file."""

    def __init__(self, reader: Reader, folder: Path) -> None:
        self.reader = reader
        self._parameters = Parameters(reader)
        self._names = Models(reader, folder)
        self._notes: list[str] = []

    def read(self) -> Imported | None:
        """Read all of it; None where its structure is wrong."""
        reader = self.reader
        for key, message in UNSUPPORTED_KEYS.items():
            if key in reader.data:
                reader.fault((key,), message, key=True)
        reader.check_keys((), (*KEYS, *UNSUPPORTED_KEYS))
        theirs, base = self._method(), self._names.base()
        self._check_tokenizer()
        inputs, levels = self._inputs()
        dtype = self._dtype()
        if theirs is None or reader.faults:
            return None
        self._check_parameters(theirs, inputs, levels)
        method = self._our_method(theirs, base, levels)
        recipe = Recipe(
            method,
            tuple(
                RecipeSource(model.name, self._source_knobs(method, model, levels))
                for model in self._sources(method, base, inputs)
            ),
            base=base if METHODS[method].anchored else None,
            knobs=self._recipe_knobs(method, levels),
            dtype=dtype,
        )
        if not reader.faults:
            reader.faults += recipe_faults(recipe, self._locate)
        if self._parameters.first_for_final:
            self._notes.append(
                "final norm and lm_head take a gradient's first value, as mergekit's"
            )
        self._notes += NOTES.get(method, ())
        name = reader.data.get("name")
        used = (*recipe.models, *([BASE] if self._names.owns_adapters else []))
        models = {n: r for r, n in self._names.names.items() if n in used}
        return Imported(str(name) if name else None, recipe, models, tuple(self._notes))

    def _locate(self, source: str | None, knob: str | None) -> Location:
        at_method = self.reader.locate(("merge_method",))
        return (
            at_method if knob is None else self._parameters.written.get((source, knob), at_method)
        )

    def _method(self) -> str | None:
        method = self.reader.data.get("merge_method")
        if isinstance(method, str) and method in PARAMETERS:
            return method
        supported = f"supported: {', '.join(PARAMETERS)}"
        if method is None:
            self.reader.fault((), f"missing key 'merge_method'; {supported}")
        else:
            advice = nearest(str(method), tuple(PARAMETERS))
            self.reader.fault(("merge_method",), f"unknown merge method {method!r}{advice}")
        return None

    def _our_method(self, theirs: str, base: str | None, levels: list[At]) -> str:
        switches = {
            name: self._parameters.switch(name, levels, default)[0]
            for name, default in SWITCHES.get(theirs, {}).items()
        }
        return our_method(theirs, base is not None, switches)

    def _check_tokenizer(self) -> None:
        source = self.reader.data.get("tokenizer_source")
        if source not in (None, "base", self.reader.data.get("base_model")):
            message = f"only the base's tokenizer is supported yet: remove it; got {source!r}"
            self.reader.fault(("tokenizer_source",), message)

    def _dtype(self) -> str | None:
        data = self.reader.data
        for key in ("dtype", "out_dtype"):
            if data.get(key) not in (None, *DTYPES):
                advice = nearest(str(data[key]), DTYPES)
                self.reader.fault((key,), f"unknown dtype {data[key]!r}{advice}")
        chosen = data.get("out_dtype") or data.get("dtype")
        return None if chosen is None else str(chosen)

    # Models

    def _inputs(self) -> tuple[list[_Input], list[At]]:
        """The models, and the levels of parameters that all share, the most specific first."""
        data, whole = self.reader.data, [("parameters",)]
        if "slices" not in data:
            models = self._models(("models",), ("model", "parameters"))
            return models, [*whole]
        slices = data["slices"]
        if "models" in data:
            message = "expected either `models` or `slices`, got both"
            self.reader.fault(("slices",), message, key=True)
        if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict):
            message = "merges of several slices are not supported yet: give one, of all layers"
            self.reader.fault(("slices",), message)
            return [], []
        at: At = ("slices", 0)
        self.reader.check_keys(at, ("sources", "parameters"))
        models = self._models((*at, "sources"), ("model", "layer_range", "parameters"))
        self._check_ranges([model.at for model in models])
        return models, [(*at, "parameters"), *whole]

    def _models(self, at: At, keys: Sequence[str]) -> list[_Input]:
        entries = self.reader.at(at)
        if not isinstance(entries, list) or not entries:
            self.reader.fault(at, f"expected `{at[-1]}`, a list of models")
            return []
        inputs: list[_Input] = []
        for i, entry in enumerate(entries):
            here = (*at, i)
            if not isinstance(entry, dict) or "model" not in entry:
                message = f"expected a mapping with `model`, got {json.dumps(entry)}"
                self.reader.fault(here, message)
                continue
            self.reader.check_keys(here, keys)
            name = self._names.name((*here, "model"), entry["model"])
            if any(model.name == name for model in inputs):
                message = f"{entry['model']} is listed twice; give it one weight"
                self.reader.fault((*here, "model"), message)
            if name is not None:
                inputs.append(_Input(name, here))
        return inputs

    def _check_ranges(self, entries: Sequence[At]) -> None:
        known = self._names.layer_counts()
        given = [self.reader.at((*at, "layer_range")) for at in entries]
        for at, layers in zip(entries, given, strict=True):
            if not _is_range(layers) or layers != given[0] or layers[1] not in (known or layers):
                whole = f"[0, {known[0]}]" if known else "[0, number of layers]"
                message = f"expected all layers, {whole}, of every model, got {json.dumps(layers)}"
                path = (*at, "layer_range")
                self.reader.fault(path, f"{message}; other slices are not supported yet")
        if given and not known:
            self._notes.append(f"layer_range {given[0]} is taken for all layers")

    def _sources(self, method: str, base: str | None, inputs: list[_Input]) -> list[_Input]:
        """The models in order; the base is one unless task vectors are taken from it.

        mergekit adds a base that is not listed as the last input; slerp starts at the base.
        """
        others = [model for model in inputs if model.name != base]
        listed = [model for model in inputs if model.name == base]
        if base is None and (METHODS[method].anchored or method == "slerp"):
            theirs = COUNTERPARTS[method].method
            self.reader.fault((), f"mergekit's {theirs} needs a base_model")
        if METHODS[method].anchored:
            if any(self.reader.at((*model.at, "parameters")) for model in listed):
                self._notes.append("parameters of the base model itself have no effect")
            return others
        if base is None:
            return inputs
        bases = listed or [_Input(base, ("base_model",))]
        if method == "slerp":
            return [*bases, *others]
        return inputs if listed else [*others, *bases]

    # Parameters

    def _check_parameters(self, method: str, inputs: Sequence[_Input], levels: list[At]) -> None:
        own, whole = PARAMETERS[method]
        for level in levels:
            self.reader.check_keys(level, (*own, *whole), f"parameter of {method}")
        for model in inputs:
            path = (*model.at, "parameters")
            self.reader.check_keys(path, own, f"parameter of a model in {method}")

    def _source_knobs(self, method: str, model: _Input, levels: list[At]) -> dict[str, Profile]:
        theirs = COUNTERPARTS[method].method
        own, _ = PARAMETERS[theirs]
        declared = [knob.name for knob in METHODS[method].source_knobs]
        knobs = {}
        for knob in own:
            profile = self._parameters.profile(
                model.name, knob, [(*model.at, "parameters"), *levels]
            )
            if profile is None:
                if knob in REQUIRED:
                    message = f"mergekit needs a {knob} for each model; {model.name} has none"
                    self.reader.fault(model.at, message)
            elif knob not in declared:
                self._notes.append(f"{theirs} uses no {knob}; that of {model.name} is left out")
            else:
                knobs[knob] = profile
        return knobs

    def _recipe_knobs(self, method: str, levels: list[At]) -> dict[str, Profile | Value]:
        theirs = COUNTERPARTS[method].method
        _, whole = PARAMETERS[theirs]
        knobs: dict[str, Profile | Value] = {}
        for knob in METHODS[method].recipe_knobs:
            if knob.name not in whole:
                continue
            if knob.kind == "bool":
                value, _ = self._parameters.switch(knob.name, levels, bool(knob.default))
                if value != knob.default:
                    knobs[knob.name] = value
                continue
            profile = self._parameters.profile(None, knob.name, levels)
            if profile is not None:
                knobs[knob.name] = profile
            elif knob.name in REQUIRED:
                self.reader.fault((), f"mergekit's {theirs} needs a parameter {knob.name!r}")
        rescale, at = self._parameters.switch("rescale", levels, theirs in RESCALES)
        if rescale != (theirs in RESCALES):
            shown = json.dumps(rescale)
            self.reader.fault(at, f"{theirs} with rescale: {shown} is not supported")
        self._parameters.switch("int8_mask", levels, False)  # saves memory; changes no weight
        return knobs


def _is_range(layers: Plain) -> bool:
    return (
        isinstance(layers, list)
        and [type(n) for n in layers] == [int, int]
        and layers[0] == 0 < layers[1]
    )
