"""Pydantic's errors as automerge's messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from automerge.config.settings import StudyConfig
from automerge.errors import nearest
from automerge.files.yaml_file import Step


def message(error: Mapping[str, Any]) -> str:
    """Return what is wrong and what was expected, for one of pydantic's errors."""
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
        bounds = [f"{word} {context[key]:.10g}" for key, word in words.items() if key in context]
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
    """Return the keys that the configuration may have at a path."""
    model: type[BaseModel] = StudyConfig
    for step in path:
        if isinstance(step, str):
            annotation = model.model_fields[step].annotation
            inner: tuple[Any, ...] = get_args(annotation) or (annotation,)
            model = next(a for a in inner if isinstance(a, type) and issubclass(a, BaseModel))
    return tuple(model.model_fields)
