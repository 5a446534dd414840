"""The number of tokens in a configuration: as written, or by default of its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from automerge.checkpoints.architecture import read_config
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError

KEY = "vocab_size"


def n_rows(checkpoint: Checkpoint) -> int:
    """Return the number of rows of a model's embedding by its configuration; 0 if not given."""
    path = vocabulary_path(checkpoint.config)
    written: Any = checkpoint.config
    for key in path:
        written = written.get(key) if isinstance(written, Mapping) else None
    if written is None and path:
        written = made(checkpoint.config)
        for key in path:
            written = getattr(written, key, None)
    return written if type(written) is int else 0


def vocabulary_path(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the path of a configuration's number of tokens, which its class may default."""
    nested = any(isinstance(value, Mapping) and KEY in value for value in config.values())
    if KEY in config and not nested:
        return (KEY,)
    if (by_class := path_of_class(config)) is not None:
        return by_class
    text = config.get("text_config")
    if isinstance(text, Mapping) and KEY in text:
        return ("text_config", KEY)
    return (KEY,) if KEY in config else ()


def path_of_class(config: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the path of the number of tokens in the configuration's class; None if unknown."""
    whole = made(config)
    if whole is None:
        return None
    try:
        text = whole.get_text_config()
    except ValueError:  # it has several
        return None
    name = text.attribute_map.get(KEY, KEY)
    pending: list[tuple[Any, tuple[str, ...]]] = [(whole, ())]
    while pending:
        part, path = pending.pop(0)
        if part is text:
            return (*path, name) if hasattr(text, name) else None
        inner = {key: getattr(part, key, None) for key in getattr(part, "sub_configs", {})}
        pending += ((found, (*path, key)) for key, found in inner.items() if found is not None)
    return None


def made(config: Mapping[str, Any]) -> Any:
    """Return a configuration as its class in transformers reads it; None if that fails.

    Failures are reported elsewhere.
    """
    try:
        return read_config(config)
    except PreflightError:
        return None


def resized(config: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Return a configuration with this many tokens, at whatever level it gives their number."""
    path = vocabulary_path(config) or (KEY,)
    changed = with_value(config, path, n_rows)
    return {**changed, KEY: n_rows} if KEY in config else changed


def with_value(config: Mapping[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """Return a nested mapping with the value at a path replaced."""
    key, *rest = path
    if not rest:
        return {**config, key: value}
    inner = config.get(key)
    return {**config, key: with_value(inner if isinstance(inner, Mapping) else {}, rest, value)}
