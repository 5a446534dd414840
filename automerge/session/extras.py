"""Packages that only some settings need, and the extras that bring them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from automerge.config import StudyConfig
from automerge.errors import Fault, PreflightError

DISTRIBUTION = "automerge-llm"
NEEDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("executor", "ray"): ("ray", "ray"),
    ("sampler", "tpe"): ("optuna", "optuna"),
    ("sampler", "nsga2"): ("optuna", "optuna"),
    ("sampler", "nsga3"): ("optuna", "optuna"),
}
"""(key, value) of a configuration → the module that is imported, and the extra it belongs to."""


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def check_extras(config: StudyConfig) -> None:
    """Refuse settings whose package is not installed; raises PreflightError."""
    faults = [
        Fault(f"{key}: {value} needs {module}, which is not installed: {install(extra)}", place)
        for (key, value), (module, extra) in NEEDS.items()
        if getattr(config, key) == value and find_spec(module) is None
        for place in [config.locate((key,))]
    ]
    if faults:
        raise PreflightError(faults)
