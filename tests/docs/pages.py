"""The files and commands that a page of the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import REPOSITORY, blocks


def commands(page: str) -> list[Any]:
    """Return a page's commands as parameters of a test; searches are slow."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [
        pytest.param(line, id=line, marks=[pytest.mark.slow] if " search " in line else [])
        for line in lines
    ]


def lay_out(page: str, folder: Path) -> None:
    """Write a page's YAML files, each named by its first line, beside the package."""
    (folder / "automerge").symlink_to(REPOSITORY / "automerge")
    for block in blocks(page, "yaml"):
        name = re.match(r"# (\S+)\n", block)[1]  # type: ignore[index]
        (folder / name).write_text(block)
