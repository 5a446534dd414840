"""Read mergekit's YAML with the meaning it has in mergekit 0.1.5.

Unknown keys and parameters, which mergekit ignores, are faults here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from automerge.errors import ConfigError, Location, nearest
from automerge.files.yaml_file import Located, Plain
from automerge.mergekit.groups import Group, Input, read_groups
from automerge.mergekit.models import Models
from automerge.mergekit.parameters import Parameters, Reader
from automerge.mergekit.slices import hoisted, slice_notes
from automerge.mergekit.tables import (
    ALL_PARAMETERS,
    BASELESS,
    COUNTERPARTS,
    DTYPES,
    KEYS,
    NOTES,
    PARAMETERS,
    REQUIRED,
    RESCALES,
    SWITCHES,
    our_method,
)
from automerge.mergekit.tokenizer import check_vocabulary, read_vocabulary, vocabulary_notes
from automerge.methods import METHODS
from automerge.methods.check import recipe_faults
from automerge.recipe import (
    BASE,
    Profile,
    Recipe,
    RecipeSource,
    Slice,
    Value,
    Vocabulary,
)


@dataclass(frozen=True)
class Imported:
    """A mergekit file as a recipe; the base is named `base`, others after the end of their path.

    `models` includes the base of adapters, whether it is merged or not.
    """

    name: str | None
    recipe: Recipe
    models: Mapping[str, str]
    notes: tuple[str, ...]


def is_mergekit(data: Mapping[str, Plain]) -> bool:
    """Return whether a mapping is a configuration of mergekit."""
    theirs = "slices" in data or "modules" in data or isinstance(data.get("models"), list)
    return "merge_method" in data or (theirs and "method" not in data and "recipe" not in data)


def parse_mergekit(document: Located, folder: Path) -> Imported:
    """Read a mergekit configuration.

    Relative paths of models are relative to the working directory, else to `folder`.

    Raises:
        ConfigError: with every fault and its location.
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
        self._names = Models(reader, folder)
        self._groups: list[Group] = []
        self._parameters: list[Parameters] = []
        self._notes: list[str] = []

    def read(self) -> Imported | None:
        """Read all of it; return None if its structure is wrong."""
        reader = self.reader
        reader.check_keys((), KEYS)
        theirs, base = self._method(), self._names.base()
        vocabulary = read_vocabulary(reader, self._names.name)
        self._groups = read_groups(reader, self._names, base)
        self._parameters = [Parameters(reader) for _ in self._groups]
        dtype = self._dtype()
        if theirs is None or reader.faults:
            return None
        method = self._our_method(theirs)
        recipe = self._recipe(theirs, method, dtype, vocabulary)
        if not reader.faults:
            check_vocabulary(reader, recipe)
            reader.faults += recipe_faults(recipe, METHODS, self._locate)
        self._notes += (*self._names.notes, *self._differences(recipe))
        name = reader.data.get("name")
        used = (*recipe.models, *([BASE] if self._names.owns_adapters else []))
        models = {n: r for r, n in self._names.names.items() if n in used}
        notes = tuple(dict.fromkeys(self._notes))
        return Imported(str(name) if name else None, recipe, models, notes)

    def _recipe(
        self, theirs: str, method: str, dtype: str | None, vocabulary: Vocabulary
    ) -> Recipe:
        """Return the recipe of the slices, or of one group of whole models."""
        self._check_parameters(theirs)
        sources = [self._sources(method, group) for group in self._groups]
        names = dict.fromkeys(model.name for models in sources for model in models)
        recipe = hoisted(
            Recipe(
                method,
                tuple(RecipeSource(name, {}) for name in names),
                base=self._groups[0].base if METHODS[method].anchored else None,
                dtype=dtype,
                vocabulary=vocabulary,
                slices=tuple(self._slice(i, method, s) for i, s in enumerate(sources)),
            )
        )
        return replace(recipe, slices=()) if self._groups[0].whole else recipe

    def _differences(self, recipe: Recipe) -> Iterable[str]:
        """Yield what the reader of the file should know."""
        if any(parameters.first_for_final for parameters in self._parameters):
            yield "final norm and lm_head take a gradient's first value, as in mergekit"
        yield from NOTES.get(recipe.method, ())
        yield from slice_notes(recipe)
        yield from vocabulary_notes(recipe.vocabulary)

    def _locate(self, path: Sequence[str | int]) -> Location:
        """Return where a part of the recipe was written; for knobs shared by slices, the first."""
        groups: Iterable[int] = range(len(self._groups))
        if path[0] == "slices":
            groups, path = [int(path[1])], path[2:]
        match path:
            case ("sources", source, knob) | ("parameters" as source, knob):
                key = (None if source == "parameters" else str(source), str(knob))
                for i in groups:
                    if key in self._parameters[i].written:
                        return self._parameters[i].written[key]
            case ("layers", model):
                entry = next(m for i in groups for m in self._groups[i].inputs if m.name == model)
                return self.reader.locate((*entry.at, "layer_range"))
        return self.reader.locate(("merge_method",))

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

    def _our_method(self, theirs: str) -> str:
        """Return our name for the method, which is the same for all slices."""
        methods: list[str] = []
        for group, parameters in zip(self._groups, self._parameters, strict=True):
            switches = {
                name: parameters.switch(name, group.levels, default)[0]
                for name, default in SWITCHES.get(theirs, {}).items()
            }
            methods.append(our_method(theirs, group.base is not None, switches))
            if methods[-1] != methods[0]:
                message = f"slices of both {methods[0]} and {methods[-1]} in one merge"
                self.reader.fault(group.at, f"{message} are not supported")
            if METHODS[methods[-1]].anchored and group.base != self._groups[0].base:
                message = "different base_models in one merge are not supported"
                self.reader.fault((*group.at, "base_model"), message)
        return methods[0]

    def _dtype(self) -> str | None:
        data = self.reader.data
        for key in ("dtype", "out_dtype"):
            if data.get(key) not in (None, *DTYPES):
                advice = nearest(str(data[key]), DTYPES)
                self.reader.fault((key,), f"unknown dtype {data[key]!r}{advice}")
        chosen = data.get("out_dtype") or data.get("dtype")
        return None if chosen is None else str(chosen)

    def _check_parameters(self, method: str) -> None:
        """Refuse parameters that mergekit does not have; note those it ignores for this method."""
        own, whole = PARAMETERS[method]
        of = f"parameter of {method}"
        idle: list[str] = []
        for group in self._groups:
            for level in group.levels:
                idle += self.reader.check_keys(level, (*own, *whole), of, ALL_PARAMETERS)
            for model in group.inputs:
                path = (*model.at, "parameters")
                of_model = f"parameter of a model in {method}"
                idle += self.reader.check_keys(path, own, of_model, ALL_PARAMETERS)
        said = (name for name in dict.fromkeys(idle) if name != "int8_mask")
        self._notes += (f"{method} ignores {name} there, here as in mergekit" for name in said)

    def _slice(self, index: int, method: str, sources: Sequence[Input]) -> Slice:
        """Return a group as a slice with all its knobs; a group of whole models has no layers."""
        group = self._groups[index]
        based = [group.base] if METHODS[method].anchored and group.base is not None else []
        layers = group.layers or {}
        return Slice(
            {n: layers[n] for n in (*based, *(s.name for s in sources)) if n in layers},
            {model.name: self._source_knobs(index, method, model) for model in sources},
            self._recipe_knobs(index, method),
        )

    def _sources(self, method: str, group: Group) -> list[Input]:
        """Return the models in order, including the base unless task vectors are taken from it.

        Except in slices, mergekit adds a base that is not listed as the last input; slerp starts
        at the base.
        """
        base, inputs = group.base, list(group.inputs)
        others = [model for model in inputs if model.name != base]
        listed = [model for model in inputs if model.name == base]
        theirs = COUNTERPARTS[method].method
        if base is None and (METHODS[method].anchored or method == "slerp"):
            self.reader.fault((), f"mergekit's {theirs} needs a base_model")
        elif base and not listed and group.layers is not None and theirs not in BASELESS:
            self.reader.fault(group.at, "mergekit needs the base_model among the slice's sources")
        if METHODS[method].anchored:
            if any(self.reader.at((*model.at, "parameters")) for model in listed):
                self._notes.append("parameters of the base model itself have no effect")
            return others
        if base is None or (group.layers is not None and theirs in BASELESS):
            return inputs
        bases = listed or [Input(base, ("base_model",))]
        if method == "slerp":
            return [*bases, *others]
        return inputs if listed else [*others, *bases]

    def _source_knobs(self, index: int, method: str, model: Input) -> dict[str, Profile]:
        theirs = COUNTERPARTS[method].method
        own, _ = PARAMETERS[theirs]
        declared = [knob.name for knob in METHODS[method].source_knobs]
        levels = [(*model.at, "parameters"), *self._groups[index].levels]
        knobs = {}
        for knob in own:
            profile = self._parameters[index].profile(model.name, knob, levels)
            if profile is None:
                if knob in REQUIRED:
                    message = f"mergekit needs a {knob} for each model; add one for {model.name}"
                    self.reader.fault(model.at, message)
            elif knob not in declared:
                self._notes.append(f"{theirs} does not use {knob}; that of {model.name} is ignored")
            else:
                knobs[knob] = profile
        return knobs

    def _recipe_knobs(self, index: int, method: str) -> dict[str, Profile | Value]:
        theirs = COUNTERPARTS[method].method
        _, whole = PARAMETERS[theirs]
        parameters, levels = self._parameters[index], self._groups[index].levels
        knobs: dict[str, Profile | Value] = {}
        for knob in METHODS[method].recipe_knobs:
            if knob.name not in whole:
                continue
            if knob.kind == "bool":
                value, _ = parameters.switch(knob.name, levels, bool(knob.default))
                if value != knob.default:
                    knobs[knob.name] = value
                continue
            profile = parameters.profile(None, knob.name, levels)
            if profile is not None:
                knobs[knob.name] = profile
            elif knob.name in REQUIRED:
                self.reader.fault((), f"mergekit's {theirs} needs a parameter {knob.name!r}")
        rescale, at = parameters.switch("rescale", levels, theirs in RESCALES)
        if rescale != (theirs in RESCALES):
            shown = json.dumps(rescale)
            self.reader.fault(at, f"{theirs} with rescale: {shown} is not supported")
        parameters.switch("int8_mask", levels, False)  # saves memory; changes no weight
        return knobs
