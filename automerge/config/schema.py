"""The JSON Schema of a study's YAML, from which editors complete keys and mark faults.

It has the forms that a file may have, short ones included; `StudyConfig` is what they become.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from automerge.config.search import known_knobs
from automerge.config.sections import Evaluation, Split
from automerge.config.settings import StudyConfig
from automerge.executors import EXECUTORS
from automerge.files.align import KINDS
from automerge.methods import METHODS, TRANSFORMS, Knob, qualified
from automerge.objective import KL_TO_BASE, MEASURED
from automerge.samplers import SAMPLERS
from automerge.space.named import NAMED
from automerge.trackers.table import TRACKERS

Schema: TypeAlias = dict[str, Any]

SHIPPED = Path(__file__).with_name("study.schema.json")
"""The same as a file, with descriptions."""
REQUIRED = ("base", "models", "tasks")
FILE = "automerge.schema.json"
"""What `automerge init` calls it beside a study's YAML."""
EDITOR_LINE = f"# yaml-language-server: $schema={FILE}\n"
"""Tells editors with a YAML language server which schema a file has."""
SECTIONS = ("Depth", "Experts", "Group", "Layers", "Mixtures")
"""What others refer to."""
_INTERNAL = ("resume", "title", "default", "description")
_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}


def study_schema(descriptions: Mapping[str, str]) -> Schema:
    """Return the schema of a study's YAML.

    Args:
        descriptions: of keys, those in sections by their dotted names.
    """
    made = _clean(StudyConfig.model_json_schema())
    sections: Schema = made["$defs"]
    fields: Schema = made["properties"]
    del fields["item_files"]
    fields["models"] = _either(fields["models"], {**_TEXTS, "minItems": 1})
    fields["tasks"]["items"] = _either(_TEXT, _task(sections.pop("Task")))
    measured = {"type": "object", "properties": {KL_TO_BASE: _TEXT}, "required": [KL_TO_BASE]}
    fields["properties"]["items"] = _either(
        {"enum": [*MEASURED]}, {**measured, "additionalProperties": False}
    )
    fields["extensions"] = _TEXTS
    fields["recipes"] = _TEXTS
    sections.pop("NamedRecipe")
    fields["evidence"] = _either(_TEXT, sections["EvidenceText"])
    kind = _named(KINDS)
    fields["align"] = _either(kind, {"type": "object", "additionalProperties": kind})
    fields["budget"] = _either({"enum": ["unlimited"]}, _whole(0, 10**6))
    each = sections["Evaluation"]["properties"]
    each["batch_size"] = _either({"enum": ["auto"]}, _whole(1, 65536))
    each["items_per_candidate"] = _either({"enum": ["full"]}, _whole(8, 10**7))
    fields["sampler"] = _named(SAMPLERS)
    fields["executor"] = _named(EXECUTORS)
    fields["trackers"]["items"] = {"enum": [*TRACKERS]}
    fields["search"] = _search(sections)
    known = sorted(fields["search"]["properties"])
    fields["evaluation"], fields["split"] = sections["Evaluation"], sections["Split"]
    descriptions = {
        "evaluation": str(Evaluation.__doc__),
        "split": str(Split.__doc__),
        **descriptions,
    }
    for section in ("search", "evaluation", "split"):
        for key, value in fields[section]["properties"].items():
            _describe(value, descriptions.get(f"{section}.{key}"))
    fields["search"] = _either(_named(NAMED), fields["search"])
    for key, value in fields.items():
        nullable = key in REQUIRED or _NULL in value.get("anyOf", ())
        fields[key] = value if nullable else _either(value, _NULL)
        _describe(fields[key], descriptions.get(key))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study of automerge",
        "type": "object",
        "properties": fields,
        "required": list(REQUIRED),
        "additionalProperties": False,
        # An extension's methods may have knobs of their own.
        "if": {"not": {"required": ["extensions"]}},
        "then": {"properties": {"search": {"propertyNames": {"enum": known}}}},
        "$defs": {name: sections[name] for name in SECTIONS},
    }


def _task(task: Schema) -> Schema:
    fields = task["properties"]
    fields["python"] = fields["items"] = _TEXT
    fields["name"] = _either(fields["name"], _NULL)
    fields["split"] = {"type": "object", "additionalProperties": _TEXT}
    fields["split"]["propertyNames"] = {"enum": ["search", "select", "test"]}
    one_of = [{"required": ["task"]}, {"required": ["python", "items"]}]
    return {**task, "required": [], "oneOf": one_of}


def _search(sections: Schema) -> Schema:
    section = sections["Search"]
    fields = {key: value for key, value in section["properties"].items() if key != "knobs"}
    fields["space"] = _named(NAMED)
    fields["depth"] = _either({"enum": ["per_layer"]}, {"$ref": "#/$defs/Depth"})
    fields["layers"] = {"$ref": "#/$defs/Layers"}
    several = {"type": "array", "minItems": 1, "items": _named(METHODS)}
    by_selector = {"type": "object", "additionalProperties": _either(_named(METHODS), several)}
    fields["methods"] = _either(several, by_selector)
    fields["components"] = _either(
        {"enum": ["all"]}, {"type": "array", "items": _either(_TEXT, _TEXTS), "maxItems": 64}
    )
    declared = known_knobs(tuple(METHODS)) | {
        qualified(transform, knob): knob
        for transform in TRANSFORMS.values()
        for knob in transform.knobs
    }
    knobs = {name: _knob(knob) for name, knob in declared.items()}
    return {"type": "object", "properties": {**knobs, **fields}}


def _knob(knob: Knob) -> Schema:
    """Return the schema of a knob: a fixed value, or what is searched."""
    kind = {"type": "boolean"} if knob.kind == "bool" else {"type": "number"}
    pair = {"type": "array", "items": kind, "minItems": 2, "maxItems": 2}
    return _either(kind, pair)


def _either(*forms: Schema) -> Schema:
    return {"anyOf": list(forms)}


def _whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _named(table: Iterable[str]) -> Schema:
    """Return names to complete from; an extension may add more."""
    return _either({"enum": sorted(table)}, _TEXT)


def _describe(schema: Schema, text: str | None) -> None:
    if text is not None:
        schema["description"] = text


def _clean(value: Any) -> Any:
    """Return a schema of pydantic's without what only it, or this package's code, understands."""
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items() if key not in _INTERNAL}
    if isinstance(value, list):
        return [_clean(each) for each in value]
    return value
