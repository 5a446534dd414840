"""The licence that a model's card names, read from a file that anyone may have written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from automerge.checkpoints.folder.files import check_file, open_file
from automerge.errors import PreflightError
from automerge.text.printable import one_line

CARD = "README.md"
MAX_BYTES, MAX_EVENTS = 1_000_000, 200_000
FRONT = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def licence_of(folder: Path) -> str | None:
    """Return the licence in the front matter of a folder's card; None if there is none.

    The text is taken literally: no alias is followed and no tag obeyed. Several licences are joined
    into one text.
    """
    try:
        if not (folder / CARD).is_file():
            return None
        check_file(folder, CARD)
        with open_file(folder / CARD) as file:
            text = file.read(MAX_BYTES).decode("utf-8", errors="replace")
    except (OSError, PreflightError):
        return None
    front = FRONT.match(text)
    if front is None:
        return None
    try:
        written = next((value for key, value in top_level(front[1]) if key == "license"), None)
    except yaml.YAMLError:
        return None
    return None if written is None else one_line(written) or None


def top_level(text: str) -> Iterator[tuple[str, str]]:
    """Yield the top-level keys of a YAML mapping with their texts; lists of texts are joined."""
    depth, key, listed = 0, None, False
    parts: list[str] = []
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > MAX_EVENTS:
            return
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth == 2:
                listed = isinstance(event, yaml.SequenceStartEvent)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            if depth == 1 and key is not None:
                if parts:
                    yield key, ", ".join(parts)
                key, parts = None, []
        elif isinstance(event, yaml.AliasEvent) and depth == 1:
            key = None
        elif isinstance(event, yaml.ScalarEvent):
            if depth == 1 and key is None:
                key = event.value
            elif depth == 1:
                yield str(key), event.value
                key = None
            elif depth == 2 and key is not None and listed:
                parts.append(event.value)
