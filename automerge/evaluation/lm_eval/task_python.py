"""Python files that task files use, and files next to them that they name."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.task_yaml import (
    FAILURES,
    all_nodes,
    with_includes,
)
from automerge.files.regular import Unfit, read_regular

MAX_PYTHON_BYTES = 2**24
"""Largest such file."""


def code_files(path: Path, root: yaml.Node | None) -> dict[Path, bytes]:
    """Find the files that a task file's functions come from: its modules, and files they name.

    A module names others by its imports, and data by string literals.

    Raises:
        PreflightError: a file is too large, or is not a regular file.
    """
    folder, found = path.parent, dict[Path, bytes]()
    waiting = [
        folder / f"{node.value.rpartition('.')[0].replace('.', '/')}.py"
        for node in all_nodes(root)
        if node.tag == "!function" and isinstance(node, yaml.ScalarNode)
    ]
    while waiting:
        file = waiting.pop()
        if file in found or not file.is_file():
            continue
        try:
            found[file] = read_regular(file, MAX_PYTHON_BYTES)
        except (OSError, Unfit) as error:
            raise PreflightError(f"file of a task cannot be copied: {error}") from None
        if file.suffix == ".py":
            beside = (file.parent / name for name in _named_by(found[file]))
            waiting += [p for p in beside if _is_below(p, folder)]
    return found


def code_digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 of all code files of some task files; empty if there are none."""
    digests = []
    for path in files:
        try:
            roots = with_includes(path)
        except FAILURES:
            continue
        for file, root in roots.items():
            for code, data in code_files(file, root).items():
                name = os.path.relpath(code, file.parent)
                digests.append(f"{name} {hashlib.sha256(data).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(set(digests))).encode()).hexdigest() if digests else ""


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(folder)


def _named_by(source: bytes) -> Iterator[str]:
    """Return names of files that a Python file may use: its imports, and string literals."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if 0 < len(node.value) < 256 and "\0" not in node.value:
                yield node.value
            continue
        else:
            continue
        yield from (f"{name.replace('.', '/')}.py" for name in modules if name)
