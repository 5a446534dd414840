"""Where settings were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from automerge.errors import Location
from automerge.files.yaml_file import Step


class Locator(Protocol):
    """Finds where a value was written."""

    def __call__(self, path: Sequence[Step]) -> Location | None: ...


def nowhere(path: Sequence[Step]) -> Location | None:
    """Return None: the locator of settings that no file or option gave."""


@dataclass(frozen=True)
class Origin:
    """Where the settings come from; not part of their value."""

    locate: Locator = field(default=nowhere, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
