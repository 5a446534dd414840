"""Which models a mergekit file merges with each other: whole, or slice by slice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from automerge.files.yaml_file import Plain
from automerge.mergekit.models import Models
from automerge.mergekit.parameters import At, Reader

KINDS = ("models", "slices", "modules")
SLICE_KEYS = ("sources", "parameters", "base_model", "residual_weight")
MODULE_KEYS = ("models", "slices", "parameters")


@dataclass(frozen=True)
class Input:
    """A model of a group, and the path of its entry in the file."""

    name: str
    at: At


@dataclass(frozen=True)
class Group:
    """Models that are merged with each other.

    `levels` are the paths of parameters that all models share, the most specific first. `layers`
    has the half-open range of each model's layers in a slice; None without slices. `whole` is
    whether the group is known to cover all layers of its models.
    """

    at: At
    inputs: tuple[Input, ...]
    levels: tuple[At, ...]
    base: str | None
    layers: Mapping[str, tuple[int, int]] | None = None
    whole: bool = True


def read_groups(reader: Reader, names: Models, base: str | None) -> list[Group]:
    """Read `models`, `slices` or the single entry of `modules`; faults go to the reader."""
    at, levels = _module(reader)
    if at is None:
        return []
    kinds = [kind for kind in KINDS[:2] if kind in (reader.at(at) or {})]
    if len(kinds) == 2:
        message = "expected either `models` or `slices`, got both"
        reader.fault((*at, "slices"), message, key=True)
    if kinds != ["slices"]:
        inputs = _inputs(reader, names, (*at, "models"), ("model", "parameters"))
        return [Group(at, inputs, levels, base)]
    entries = reader.at((*at, "slices"))
    if not isinstance(entries, list) or not entries:
        reader.fault((*at, "slices"), "expected `slices`, a list of slices with `sources`")
        return []
    groups = [_slice(reader, names, (*at, "slices", i), levels, base) for i in range(len(entries))]
    return [replace(group, whole=len(groups) == 1 and group.whole) for group in groups]


def _module(reader: Reader) -> tuple[At | None, tuple[At, ...]]:
    """Return the path of `models` or `slices`, and the levels of parameters there."""
    whole: tuple[At, ...] = (("parameters",),)
    modules = reader.data.get("modules")
    if modules is None:
        return (), whole
    for kind in KINDS[:2]:
        if kind in reader.data:
            reader.fault((kind,), f"expected either `modules` or `{kind}`, got both", key=True)
    if not isinstance(modules, dict) or len(modules) != 1:
        message = (
            "expected one module: models with several, such as vision models, are not supported"
        )
        reader.fault(("modules",), message)
        return None, whole
    at: At = ("modules", next(iter(modules)))
    reader.check_keys(at, MODULE_KEYS)
    return at, ((*at, "parameters"), *whole)


def _slice(
    reader: Reader, names: Models, at: At, levels: tuple[At, ...], base: str | None
) -> Group:
    reader.check_keys(at, SLICE_KEYS)
    entry = reader.at(at)
    entry = entry if isinstance(entry, dict) else {}
    if entry.get("residual_weight") is not None:
        message = "mergekit ignores residual_weight: remove it"
        reader.fault((*at, "residual_weight"), message, key=True)
    if entry.get("base_model") is not None:
        base = names.name((*at, "base_model"), entry["base_model"])
    keys = ("model", "layer_range", "parameters")
    inputs = _inputs(reader, names, (*at, "sources"), keys)
    spans = {model.name: _span(reader, names, model) for model in inputs}
    layers = {name: span for name, span in spans.items() if span is not None}
    whole = all(span == (0, names.n_layers(name)) for name, span in spans.items())
    return Group(at, inputs, ((*at, "parameters"), *levels), base, layers, whole)


def _inputs(reader: Reader, names: Models, at: At, keys: Sequence[str]) -> tuple[Input, ...]:
    entries = reader.at(at)
    if not isinstance(entries, list) or not entries:
        reader.fault(at, f"expected `{at[-1]}`, a list of models")
        return ()
    inputs: list[Input] = []
    for i, entry in enumerate(entries):
        here = (*at, i)
        if not isinstance(entry, dict) or "model" not in entry:
            message = f"expected a mapping with `model`, got {json.dumps(entry)}"
            reader.fault(here, message)
            continue
        reader.check_keys(here, keys)
        name = names.name((*here, "model"), entry["model"])
        if any(model.name == name for model in inputs):
            message = f"{entry['model']} is listed twice; give it one weight"
            reader.fault((*here, "model"), message)
        elif name is not None:
            inputs.append(Input(name, here))
    return tuple(inputs)


def _span(reader: Reader, names: Models, model: Input) -> tuple[int, int] | None:
    """Return the half-open range of a model's layers in a slice; None after a fault."""
    at = (*model.at, "layer_range")
    span: Plain = reader.at(at)
    known = names.n_layers(model.name)
    if not isinstance(span, list) or [type(n) for n in span] != [int, int]:
        message = "expected layer_range: [FIRST, END], END being the one past the last layer"
        reader.fault(at, f"{message}; got {json.dumps(span)}")
        return None
    if known is not None and span[1] > known:
        reader.fault(at, f"{model.name} has {known} layers; got {json.dumps(span)}")
    return span[0], span[1]
