"""Where settings were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from automerge.errors import Locate, Location
from automerge.files.yaml_file import Step


def nowhere(path: Sequence[Step]) -> Location | None:
    """Return None: the locator of settings that no file or option gave."""


@dataclass(frozen=True)
class Origin:
    """Where the settings come from; not part of their value."""

    locate: Locate = field(default=nowhere, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
