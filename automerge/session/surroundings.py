"""What a study runs on: versions and the machine, as its store keeps them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from automerge.machine.processors import usable_cpus

PACKAGES = (
    "automerge-llm", "torch", "transformers", "safetensors", "lm_eval", "datasets", "ray", "optuna",
    "cma", "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the installed versions of packages that decide a score."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Describe the machine in words, without its name."""
    here, all_of_them = usable_cpus(), os.cpu_count() or 1
    count = f"{here} processors" if here == all_of_them else f"{here} of {all_of_them} processors"
    return f"{platform.system()} {platform.machine()}, {count}"
