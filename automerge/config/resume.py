"""What differs between a study and the configuration to resume it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from automerge.config.section import leaves
from automerge.config.settings import StudyConfig
from automerge.text.redaction import without_secrets


@dataclass(frozen=True)
class Difference:
    """A setting that differs between a study and the configuration to resume it with."""

    field: str
    old: Any
    new: Any
    safe: bool


def differences(old: Mapping[str, Any], new: StudyConfig) -> list[Difference]:
    """List what changed since a study was stored with `to_plain`, without secrets."""
    before, after = leaves(old, StudyConfig), leaves(without_secrets(new.to_plain()), StudyConfig)
    return [
        Difference(name, before[name][0], value, is_safe)
        for name, (value, is_safe) in after.items()
        if name in before and before[name][0] != value
    ]
