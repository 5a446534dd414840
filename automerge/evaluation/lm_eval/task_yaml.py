"""Read task files, which may be anything, within limits and without running what they name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from automerge.files.regular import Unfit, read_regular

MAX_BYTES = 4 * 2**20
"""Most bytes of a task file; those of lm-eval have a few kilobytes."""
MAX_NODES = 10**6
"""Most values in a task file; an anchor's count wherever it is used."""
MAX_DEPTH = 64
MAX_ENTRIES = 200_000
"""Most files and folders that a folder of tasks may hold."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FAILURES = (
    AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
    yaml.YAMLError,
)  # fmt: skip
"""What reading a file that is not a task file may raise."""


class Unreadable(ValueError):
    """A file cannot be a task file; the message says why."""


def read_text(path: Path) -> str:
    """Return a task file's text.

    Raises:
        Unreadable: it is not a regular file, is too large, or is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_regular(path, MAX_BYTES).decode("utf-8-sig")
    except Unfit as error:
        raise Unreadable(str(error)) from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path} is not UTF-8 (byte {error.start})") from None


def compose(path: Path) -> yaml.Node | None:
    """Return a task file's YAML as nodes, without constructing anything.

    Raises:
        Unreadable: see `read_text`; or it is nested too deeply or holds too many values.
        OSError, yaml.YAMLError: it cannot be read, or is not one YAML document.
    """
    text = read_text(path)
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise Unreadable(f"{path} is nested deeper than {MAX_DEPTH} levels")
    root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    if root is not None and _size(root, {}) > MAX_NODES:
        raise Unreadable(f"{path} holds more than {MAX_NODES} values, its anchors written out")
    return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values that a node holds; a node within itself counts as endless."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def with_includes(path: Path) -> dict[Path, yaml.Node | None]:
    """Return a task file and everything it includes, each resolved, as nodes.

    Raises:
        Unreadable, OSError, yaml.YAMLError: as `compose`.
    """
    found: dict[Path, yaml.Node | None] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop().resolve()
        if path not in found:
            found[path] = root = compose(path)
            waiting += [path.parent / name for name in scalars_at(root, "include")]
    return found


def scalars_at(root: yaml.Node | None, key: str) -> list[str]:
    """Return the scalar, or the list's scalars, under a top-level key of a composed mapping."""
    return [node.value for node in scalar_nodes(child(root, key))]


def child(root: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return the value of a key of a composed mapping."""
    if isinstance(root, yaml.MappingNode):
        for name, value in root.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return value  # type: ignore[no-any-return]
    return None


def scalar_nodes(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield the scalar values in a composed value, however nested."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from scalar_nodes(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from scalar_nodes(value)


def all_nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node under one, each once."""
    waiting = [] if root is None else [root]
    visited: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def files_in(folder: Path, skipped: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Return all files of a folder, without hidden folders, caches, linked and run folders.

    `skipped` names files that mark a folder to leave out.

    Raises:
        Unreadable: it holds too many.
    """
    entries = 0
    for parent, folders, files in os.walk(folder):
        entries += len(folders) + len(files)
        if entries > MAX_ENTRIES:
            raise Unreadable(
                f"{folder} holds more than {MAX_ENTRIES} files; give a folder of task files"
            )
        if skipped.intersection(files) and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = [n for n in folders if n != "__pycache__" and not n.startswith(".")]
        yield from (Path(parent, name) for name in files)
