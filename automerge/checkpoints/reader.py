"""Checkpoints as mappings of named tensors, read lazily from safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from automerge.checkpoints.folder.files import CONFIG, MAX_BYTES, outside, read_bytes
from automerge.checkpoints.folder.formats import INDEX, SINGLE, without_weights
from automerge.checkpoints.safetensors_file import LFS_POINTER, TensorInfo, read_header
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from torch import Tensor

SHARD_NAME = re.compile(r"[\w.\-]+\.safetensors", re.ASCII)
CONFIG_BYTES = 16_000_000
"""More than any configuration has; one with ImageNet's 21,843 labels has 2 MB."""
INDEX_BYTES = 64_000_000
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Checkpoint(Protocol):
    """A model's tensors and configuration. Tensors are read on demand, on the CPU."""

    @property
    def path(self) -> Path:
        """The folder it was read from."""

    @property
    def assets(self) -> Path:
        """The folder with its configuration and tokenizer; for an adapter, its base's."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The content of config.json in `assets`."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, known without reading its elements."""

    def read(self, name: str) -> Tensor:
        """Return one tensor, which may be a view of the file and must not be written to."""


class SafetensorsCheckpoint:
    """The files of a transformers model folder, as they are.

    Headers are read and checked on opening.

    Raises:
        PreflightError: with every fault found.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.assets = path
        if path.is_dir() and not (path / CONFIG).exists():
            weights = (path / SINGLE).exists() or (path / INDEX).exists()
            more = (
                "download it from where the weights are from" if weights else without_weights(path)
            )
            raise PreflightError(f"{path}: no {CONFIG}; {more}")
        config = read_json(path / CONFIG, CONFIG_BYTES)
        self.config: Mapping[str, Any] = MappingProxyType(config)
        self._files, tensors = locate(path)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)

    def read(self, name: str) -> Tensor:
        if name not in self._files:
            raise PreflightError(f"{self.path}: has no tensor {name!r}")
        tensor: Tensor = self._handles[self._files[name]].get_tensor(name)
        return tensor

    @cached_property
    def _handles(self) -> Mapping[Path, Any]:
        from safetensors import safe_open

        files = dict.fromkeys(self._files.values())
        return {file: safe_open(file, framework="pt", device="cpu") for file in files}

    def __reduce__(self) -> tuple[type[SafetensorsCheckpoint], tuple[Path]]:
        return SafetensorsCheckpoint, (self.path,)


def read_json(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON object of at most `most` bytes from a file of a model folder.

    Raises:
        PreflightError: it is too large, is not a JSON object, or has a lone surrogate, which cannot
            be written again.
    """
    try:
        raw = read_bytes(path, most)
        content = json.loads(raw.decode("utf-8"))
        if SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        if raw.startswith(LFS_POINTER):
            raise PreflightError(
                f"{path}: a git-lfs pointer, not the file; run `git lfs pull` in its folder"
            ) from error
        raise PreflightError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise PreflightError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def locate(folder: Path) -> tuple[dict[str, Path], dict[str, TensorInfo]]:
    """Find every tensor's file, shape and dtype.

    Raises:
        PreflightError: there are no weights, or they do not match their index.
    """
    single, index = folder / SINGLE, folder / INDEX
    if index.exists():
        files = index_files(folder)
        if single.exists() and single not in files.values():
            raise PreflightError(
                f"{folder}: has both {SINGLE} and {INDEX}, which does not name it; one of them is "
                "a leftover: remove it"
            )
        return files, indexed_tensors(index, files)
    if single.exists():
        check_inside(folder, SINGLE)
        tensors = read_header(single)
        return dict.fromkeys(tensors, single), tensors
    raise PreflightError(f"{folder}: {without_weights(folder)}")


def index_files(folder: Path) -> dict[str, Path]:
    """Read the shard index: tensor → shard.

    Raises:
        PreflightError: it names files that are missing or may not be read.
    """
    index = folder / INDEX
    weight_map = read_json(index, INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise PreflightError(f"{index}: expected a non-empty mapping `weight_map`")
    shards = {shard if isinstance(shard, str) else repr(shard) for shard in weight_map.values()}
    faults = []
    for shard in sorted(shards):
        if len(shard) > 255 or not SHARD_NAME.fullmatch(shard):
            faults.append(
                Fault(f"{index}: shard {shard[:80]!r} is not a plain file name *.safetensors")
            )
        elif not (folder / shard).exists():
            faults.append(Fault(f"{folder / shard}: missing shard; download it again"))
        else:
            faults += outside(folder, shard)
    if faults:
        raise PreflightError(faults)
    return {name: folder / shard for name, shard in weight_map.items()}


def indexed_tensors(index: Path, files: Mapping[str, Path]) -> dict[str, TensorInfo]:
    """Read all shards' headers, and check them against the index.

    Raises:
        PreflightError: with every fault found.
    """
    faults: list[Fault] = []
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(files.values())):
        try:
            header = read_header(shard)
        except PreflightError as error:
            faults += error.faults
            continue
        listed = {name for name, file in files.items() if file == shard}
        for names, problem in (
            (sorted(listed - header.keys()), f"{index}: stale: {shard.name} has no"),
            (sorted(header.keys() - listed), f"{index}: stale: {shard.name} also has"),
        ):
            if names:
                faults.append(Fault(f"{problem} {shown(names)}; download the folder again"))
        tensors |= header
    if faults:
        raise PreflightError(faults)
    return tensors


def shown(names: list[str], most: int = 5) -> str:
    """Return the first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_inside(folder: Path, name: str) -> None:
    """Raise PreflightError if a file is a link out of the folder."""
    if faults := outside(folder, name):
        raise PreflightError(faults)
