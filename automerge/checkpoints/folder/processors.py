"""Files about the preprocessing of images, sound and video: who has them, and if they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from automerge.checkpoints.folder.files import PROCESSOR_FILES, read_bytes
from automerge.checkpoints.reader import read_json
from automerge.errors import PreflightError

INCIDENTAL = ("processor_class", "transformers_version", "_valid_processor_keys", "auto_map")


def lacking(folders: Mapping[str, Path], base: str) -> dict[str, str]:
    """Return files that the base lacks, which happens often, and the first model that has each."""
    found: dict[str, str] = {}
    if any((folders[base] / name).exists() for name in PROCESSOR_FILES):
        return found
    for model, folder in folders.items():
        for name in PROCESSOR_FILES:
            if (folder / name).exists():
                found.setdefault(name, model)
    return found


def remarks(folders: Mapping[str, Path], base: str) -> list[str]:
    """List files that the base lacks, and those of sources that differ."""
    missing = lacking(folders, base)
    said = [
        f"{base} has no {name}; the merged model gets that of {model}"
        for name, model in missing.items()
    ]
    for model, folder in folders.items():
        for name in PROCESSOR_FILES:
            owner = folders[missing.get(name, base)]
            files = folder / name, owner / name
            if folder != owner and all(file.exists() for file in files) and differ(*files):
                said.append(f"{model}: its {name} differs from that of the merged model")
    return said


def differ(one: Path, other: Path) -> bool:
    """Return whether two files differ in their content."""
    try:
        contents = [read_json(file) for file in (one, other)]
    except PreflightError:
        return read_bytes(one) != read_bytes(other)
    first, second = (
        {key: value for key, value in content.items() if key not in INCIDENTAL}
        for content in contents
    )
    return first != second
