"""Write recipes as mergekit YAML with the same values for every tensor."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from automerge.errors import ConfigError, Fault
from automerge.files.noise import is_noise
from automerge.files.yaml_file import Plain, dump_yaml
from automerge.mergekit.setting import setting
from automerge.mergekit.slices import slice_notes
from automerge.mergekit.tables import COUNTERPARTS, INTEGERS, NOTES, PARAMETERS, REQUIRED
from automerge.mergekit.tokenizer import vocabulary_notes, write_vocabulary
from automerge.methods import METHODS, Knob, Method
from automerge.methods.base import number
from automerge.recipe import BASE, Place, Profile, Recipe, RecipeSource

MARGIN = 1e-5
"""How far an epsilon stays below its upper bound, relative to it."""

ROUNDING_NOTE = (
    "mergekit computes in the dtype that the tensors are stored in, automerge in float32 with one "
    "rounding at the end"
)


@dataclass(frozen=True)
class MergekitExport:
    """mergekit YAML, and how its result differs from ours, which the YAML's comments say too."""

    text: str
    differences: tuple[str, ...]


def to_mergekit(
    recipe: Recipe,
    models: Mapping[str, str],
    places: Sequence[Place],
    adapters: Mapping[str, str] = MappingProxyType({}),
) -> MergekitExport:
    """Express a recipe in mergekit's YAML.

    Args:
        recipe: the recipe.
        models: folders or hub ids by the models' names.
        places: the tensors of the merged model.
        adapters: the kinds (LoRA, IA³) of the models that are adapters of the base, by name.

    Raises:
        ConfigError: mergekit has no equivalent.
    """
    if recipe.methods:
        message = f"mergekit merges a whole model by one method, not by {recipe.methods_in_words}"
        raise ConfigError(Fault(message))
    if recipe.mixture is not None:
        message = "mergekit makes a mixture of models as they are, not of a merge (`mixture`)"
        raise ConfigError(Fault(message))
    if recipe.experts is not None:
        raise ConfigError(Fault("mergekit does not make a mixture's experts fewer (`experts`)"))
    if recipe.repair:
        raise ConfigError(Fault("mergekit does not calibrate merged models"))
    counterpart = COUNTERPARTS.get(recipe.method)
    if counterpart is None:
        raise ConfigError(Fault(f"mergekit has no equivalent of {recipe.method!r}"))
    if others := [name for name, kind in adapters.items() if kind != "LoRA"]:
        message = f"mergekit adds no adapters but LoRA, and {', '.join(others)} is of another kind"
        raise ConfigError(Fault(message))
    writer = _Writer(recipe, models, places, adapters)
    problems = list(dict.fromkeys(writer.problems()))
    if problems:
        raise ConfigError(map(Fault, problems))
    differences = tuple(_differences(recipe))
    return MergekitExport(_comments(recipe, differences) + dump_yaml(writer.plain()), differences)


def mergekit_text(
    recipe: Recipe,
    models: Mapping[str, str],
    places: Sequence[Place],
    adapters: Mapping[str, str] = MappingProxyType({}),
    aligned: Collection[str] = (),
) -> str:
    """Return the text of `to_mergekit`, or a comment that says why mergekit has no equivalent.

    `aligned` are models that are not merged as they are stored.
    """
    try:
        if aligned:
            problem = f"mergekit does not align models with their base, as {', '.join(aligned)}"
            raise ConfigError(Fault(problem))
        return to_mergekit(recipe, models, places, adapters).text
    except ConfigError as error:
        reasons = [f"{fault.message}." for fault in error.faults]
        return _wrapped([f"automerge recipe {recipe.id}.", *reasons])


@dataclass(frozen=True)
class _Part:
    """A slice of the merge, or the whole of it: its recipe, its tensors and, in a slice, layers."""

    recipe: Recipe
    places: Sequence[Place]
    layers: Mapping[str, tuple[int, int]] | None

    @property
    def base(self) -> str | None:
        """The model that is the base in mergekit."""
        if self.recipe.method == "slerp":
            return self.recipe.sources[0].name
        return self.recipe.base if METHODS[self.recipe.method].anchored else None


class _Writer:
    """Writes one recipe."""

    def __init__(
        self,
        recipe: Recipe,
        models: Mapping[str, str],
        places: Sequence[Place],
        adapters: Collection[str],
    ) -> None:
        self._recipe = recipe
        self._method = METHODS[recipe.method]
        self._counterpart = COUNTERPARTS[recipe.method]
        own, whole = PARAMETERS[self._counterpart.method]
        self._names = (*own, *whole)
        self._models = models
        self._adapters = adapters
        layers = [piece.layers for piece in recipe.slices]
        self._parts = [
            _Part(part, within, layers[i] if layers else None)
            for i, (part, within) in enumerate(
                zip(recipe.parts, regions_of(recipe, places), strict=True)
            )
        ]

    def problems(self) -> Iterator[str]:
        """Yield messages on what mergekit cannot do."""
        for name in self._recipe.models:
            if is_noise(self._models.get(name, "")):
                yield f"mergekit has no noise: it cannot make {name!r} ({self._models[name]})"
        for part in self._parts:
            yield from _beyond(part.recipe, self._method, self._names, part.places)

    def plain(self) -> dict[str, Plain]:
        """Return the content of the file."""
        first, recipe = self._parts[0], self._recipe
        plain: dict[str, Plain] = {"merge_method": self._counterpart.method}
        if first.base is not None:
            plain["base_model"] = self._reference(first.base)
        parameters = [self._parameters(part) for part in self._parts]
        common = all(one == parameters[0] for one in parameters)
        if first.layers is None:
            plain["models"] = self._inputs(first)
        else:
            plain["slices"] = [
                self._slice(part, {} if common else own)
                for part, own in zip(self._parts, parameters, strict=True)
            ]
        if common and parameters[0]:
            plain["parameters"] = parameters[0]
        if recipe.dtype is not None:
            plain |= {"dtype": "float32", "out_dtype": recipe.dtype}
        return plain | write_vocabulary(recipe.vocabulary, self._reference)

    def _slice(self, part: _Part, parameters: dict[str, Plain]) -> dict[str, Plain]:
        entry: dict[str, Plain] = {"sources": self._inputs(part)}
        if part.base is not None and part.base != self._parts[0].base:
            entry["base_model"] = self._reference(part.base)
        return entry | ({"parameters": parameters} if parameters else {})

    def _inputs(self, part: _Part) -> list[Plain]:
        """Return the entries of the models of a merge or, including its base, of a slice."""
        sources = {s.name: _narrowed(s, self._method, part.places) for s in part.recipe.sources}
        entries = []
        for name in part.layers or sources:
            entry: dict[str, Plain] = {"model": self._reference(name)}
            if part.layers is not None:
                entry["layer_range"] = list(part.layers[name])
            given = sources[name].knobs if name in sources else None
            if given is not None and (
                own := self._settings(self._method.source_knobs, given, part.places)
            ):
                entry["parameters"] = own
            entries.append(entry)
        return entries

    def _parameters(self, part: _Part) -> dict[str, Plain]:
        """Return the parameters that all models of a part share."""
        knobs, given = self._method.recipe_knobs, part.recipe.knobs
        parameters = self._settings(knobs, given, part.places)
        for knob in knobs:
            if knob.kind == "bool" and knob.name in self._names:
                parameters[knob.name] = given.get(knob.name, knob.default)
        return {**parameters, **self._counterpart.switches}

    def _settings(
        self, knobs: Iterable[Knob], given: Mapping[str, object], places: Sequence[Place]
    ) -> dict[str, Plain]:
        expressed = [k for k in knobs if k.kind == "float" and k.name in self._names]
        written = {k.name: setting(given.get(k.name), k, places) for k in expressed}
        defaults = {k.name: k.default for k in expressed if k.name not in REQUIRED}
        return {k: v for k, v in written.items() if k not in defaults or v != defaults[k]}

    def _reference(self, name: str) -> str:
        if name not in self._adapters:
            return self._models[name]
        return f"{self._models[self._recipe.base or BASE]}+{self._models[name]}"


def regions_of(recipe: Recipe, places: Sequence[Place]) -> list[list[Place]]:
    """Return the tensors of each part of a recipe.

    Tensors before the layers belong to the first part, those after the layers to the last.
    """
    if not recipe.slices:
        return [list(places)]
    regions: list[list[Place]] = [[] for _ in recipe.slices]
    owners = [i for i, piece in enumerate(recipe.slices) for _ in range(piece.n_layers)]
    for place in places:
        outer = 0 if place.depth == 0 else -1
        regions[outer if place.layer is None else owners[place.layer]].append(place)
    return regions


def _differences(recipe: Recipe) -> Iterable[str]:
    yield from NOTES.get(recipe.method, ())
    yield from slice_notes(recipe)
    yield from vocabulary_notes(recipe.vocabulary)
    if recipe.dtype is None:
        yield ROUNDING_NOTE


def _beyond(
    recipe: Recipe, method: Method, parameters: Collection[str], places: Sequence[Place]
) -> Iterable[str]:
    """Yield messages on what a recipe asks for that mergekit's method cannot do."""
    theirs = COUNTERPARTS[method.name].method
    resolved = [method.values(recipe, place) for place in places]
    for knob in method.recipe_knobs:
        values = {v.number[knob.name] for v in resolved if knob.kind == "float"}
        if knob.name not in parameters and values - {knob.default}:
            yield f"mergekit's {theirs} has no {knob.name}; it is fixed at {knob.default:g} there"
        if knob.name in INTEGERS and any(value != int(value) for value in values):
            yield f"mergekit's {theirs} needs a whole number for {knob.name}"
        switches = {v.switch[knob.name] for v in resolved if knob.kind == "bool"}
        if knob.name not in parameters and switches - {knob.default}:
            fixed = str(knob.default).lower()
            yield f"mergekit's {theirs} has no {knob.name}; it is {fixed} there"
        if knob.kind == "bool" and isinstance(recipe.knobs.get(knob.name), Profile):
            yield f"mergekit has one {knob.name} for the whole model, not one by selector"
    for knob in method.source_knobs:
        each = [v.each[knob.name] for v in resolved]
        if knob.name not in parameters and any(len({*e}) > 1 or 0 in e for e in each):
            yield f"mergekit's {theirs} has no {knob.name}; all models count equally there"


def _narrowed(source: RecipeSource, method: Method, places: Sequence[Place]) -> RecipeSource:
    """Return a source with an epsilon that mergekit accepts: density ± epsilon within [0, 1].

    A larger epsilon is reduced; but for the margin, our method gives the same probabilities.
    """
    knobs = {knob.name: knob for knob in method.source_knobs}
    if not {"density", "epsilon"} <= set(knobs):
        return source
    values: dict[str, float] = {}
    for place in sorted(places, key=lambda place: -len(place.tensor)):
        density, epsilon = (
            number(source.knobs.get(n), knobs[n], place) for n in ("density", "epsilon")
        )
        room = min(density, 1 - density)
        values[f"*{place.tensor}"] = room * (1 - MARGIN) if 0 < room <= epsilon else epsilon
    given = [number(source.knobs.get("epsilon"), knobs["epsilon"], place) for place in places]
    if sorted(values.values()) == sorted(given):
        return source
    same = len({*values.values()}) == 1
    profile = Profile.of(next(iter(values.values())) if same else values)
    return replace(source, knobs={**source.knobs, "epsilon": profile})


def _comments(recipe: Recipe, differences: Sequence[str]) -> str:
    lines = [f"automerge recipe {recipe.id}, for mergekit 0.1.5."]
    lines += [f"Not the same: {difference}." for difference in differences]
    return _wrapped(lines)


def _wrapped(lines: Iterable[str]) -> str:
    """Wrap lines as YAML comments."""
    parts = (part for line in lines for part in textwrap.wrap(line, 97))
    return "".join(f"# {part}\n" for part in parts)
