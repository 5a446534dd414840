"""Files of a model folder, which may come from anyone: read and copied with care."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from automerge.checkpoints.folder.stale import FOLDERS, OF_MODULES, is_stale, matches
from automerge.errors import Fault, PreflightError
from automerge.files.regular import Unfit, open_regular, read_regular, regular_size

CONFIG = "config.json"
MODULES = "modules.json"
MAX_BYTES = 200_000_000
MAX_ALL_BYTES = 2_000_000_000
MAX_FILES, MAX_DEPTH, MAX_LISTED = 2_000, 3, 100_000
TOKENIZER_FILES = (
    *("tokenizer.*", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "vocab-*.json", "*vocab.json", "merges.txt", "*.model", "*.model.v*", "*.spm"),
    *("*.tiktoken", "tekken.json", "*.codes", "*.bpe", "dict.txt", "dict.*.txt", "emoji.json"),
    *("byte_maps.json", "word_shape.json", "word_pronunciation.json", "normalizer.json"),
)
"""The names of tokenizer files in transformers and mistral-common."""
TEMPLATE_FILES = ("chat_template.*", "additional_chat_templates/*")
PROCESSOR_FILES = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("image_processor_config.json", "feature_extractor_config.json"),
)
NEEDED = (*TOKENIZER_FILES, *TEMPLATE_FILES, "*config.json", MODULES)
"""Files that a model does not work the same without: leaving one out is a fault."""


@dataclass(frozen=True)
class Carried:
    """The files of a folder that a merged model gets: name, with `/` between folders → real path.

    `remarks` name files that are left out although users may expect them, and say why.
    """

    files: Mapping[str, Path]
    remarks: tuple[str, ...]


def carried(folder: Path) -> Carried:
    """Find all files of a model folder except weights, its configuration and what is stale.

    Links are followed only within the folder and a hub cache's snapshot. Files that lead out of the
    folder, are not regular files, or are larger than `MAX_BYTES` are left out with a remark.

    Raises:
        PreflightError: such a file belongs to a tokenizer, processor or template.
    """
    files: dict[str, Path] = {}
    remarks: list[str] = []
    faults: list[Fault] = []
    total = 0
    modules = module_folders(folder)
    listed = [*islice(walk(folder, remarks.append), MAX_LISTED)]
    for path in sorted(listed, key=lambda path: not is_needed(path.as_posix())):
        name = path.as_posix()
        if name == CONFIG or (is_stale(path) and not of_module(path, modules)):
            continue
        try:
            size = check_file(folder, name)
        except PreflightError as error:
            if is_needed(name):
                faults += error.faults
            else:
                remarks += [f"left out: {fault.message}" for fault in error.faults]
            continue
        total += size
        if total > MAX_ALL_BYTES or len(files) == MAX_FILES:
            remarks.append(
                f"{folder}: has more than {MAX_FILES:,} files or {MAX_ALL_BYTES:,} bytes besides "
                f"its weights; those from {name} on are left out"
            )
            break
        files[name] = (folder / name).resolve()
    if faults:
        raise PreflightError(faults)
    weights = [n for n in files if n.endswith(".safetensors")]
    remarks += [f"{folder}: {name} is kept as it is, not merged" for name in weights]
    return Carried(files, tuple(remarks))


def walk(folder: Path, remark: Callable[[str], None], depth: int = 0) -> Iterator[PurePosixPath]:
    """Yield files relative to a folder, shallow ones first, without those in stale folders."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        remark(f"left out: {folder}: {error.strerror or error}")
        return
    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    for entry in entries:
        if entry not in folders:
            yield PurePosixPath(entry.name)
    for entry in folders:
        if matches(entry.name.lower(), FOLDERS):
            continue
        if depth == MAX_DEPTH:
            remark(f"left out: {entry.path}: more than {MAX_DEPTH} folders deep")
            continue
        for path in walk(Path(entry.path), remark, depth + 1):
            yield PurePosixPath(entry.name) / path


def module_folders(folder: Path) -> frozenset[str]:
    """Return the folders of sentence-transformers' modules; none if there is no list of modules."""
    file = folder / MODULES
    if not file.is_file():
        return frozenset()
    try:
        listed = json.loads(read_bytes(file))
    except (ValueError, RecursionError) as error:
        raise PreflightError(f"{file}: not JSON ({error}); download it again") from error
    entries = listed if isinstance(listed, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    return frozenset(p for p in paths if isinstance(p, str) and fnmatchcase(p, OF_MODULES))


def of_module(path: PurePosixPath, modules: frozenset[str]) -> bool:
    """Return whether a file contains a module's weights as safetensors."""
    return len(path.parts) == 2 and path.parts[0] in modules and path.suffix == ".safetensors"


def check_file(folder: Path, name: str) -> int:
    """Return a file's size.

    Raises:
        PreflightError: it leads out of the folder, is not a regular file, or is too large.
    """
    if faults := outside(folder, name):
        raise PreflightError(faults)
    path = folder / name
    try:
        return regular_size(path, MAX_BYTES)
    except Unfit as error:
        raise PreflightError(str(error)) from error
    except OSError as error:
        raise PreflightError(f"{path}: cannot be read: {error.strerror or error}") from error


def outside(folder: Path, name: str) -> list[Fault]:
    """Return a fault if a link leads out of the folder and of a hub cache's blobs."""
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    try:
        target = (folder / name).resolve(strict=False)
    except (OSError, RuntimeError):  # links in a circle
        return [Fault(f"{folder / name}: a link to itself; remove it")]
    if any(target.is_relative_to(allowed) for allowed in roots):
        return []
    return [Fault(f"{folder / name}: a link out of the folder, to {target}; copy the file instead")]


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, but nothing that would block, such as a pipe.

    Raises:
        OSError: it cannot be opened.
        PreflightError: it is not a regular file.
    """
    try:
        return open_regular(path)
    except Unfit as error:
        raise PreflightError(str(error)) from error


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return a file's content.

    Raises:
        PreflightError: it cannot be read, is larger than `limit` bytes, or is not a regular file.
    """
    try:
        return read_regular(path, limit)
    except Unfit as error:
        raise PreflightError(str(error)) from error
    except OSError as error:
        raise PreflightError(f"{path}: cannot be read: {error.strerror or error}") from error


def copy_carried(found: Carried, folder: Path, wanted: Callable[[str], bool] | None = None) -> None:
    """Copy files to a folder: all of them, or those whose names are `wanted`."""
    for name, path in found.files.items():
        if wanted is None or wanted(name):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = read_bytes(path)
            target.write_bytes(without_code(content) if name.endswith("config.json") else content)


def without_code(content: bytes) -> bytes:
    """Return a configuration without references to code, which is not copied; else unchanged."""
    if b'"auto_map"' not in content:
        return content
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(found, dict):
        return content
    kept = {key: value for key, value in found.items() if key != "auto_map"}
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()


def is_needed(name: str) -> bool:
    """Return whether a model does not work the same without this file."""
    return any(fnmatchcase(name, pattern) for pattern in NEEDED)


def is_tokenizer_file(name: str) -> bool:
    """Return whether a file, by its name in its folder, is a tokenizer's."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES)


def is_template_file(name: str) -> bool:
    """Return whether a file, by its name in its folder, is a chat template."""
    return any(fnmatchcase(name, pattern) for pattern in TEMPLATE_FILES)
