"""Safetensors headers, read with every bound checked before anything is trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from automerge.errors import PreflightError

# Code in the file → (name of the torch dtype, bytes per element).
DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
CODES: Mapping[str, str] = {name: code for code, (name, _) in DTYPES.items()}
ITEM_BYTES: Mapping[str, int] = dict(DTYPES.values())
MERGEABLE = ("float64", "float32", "float16", "bfloat16")

LFS_POINTER = b"version https://git-lfs"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_DIMENSIONS, MAX_SIZE, MAX_NAME = 64, 2**63 - 1, 500
"""The most dimensions and elements of a torch tensor, and more characters than any name has."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape and the name of its torch dtype."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_elements * ITEM_BYTES[self.dtype]

    @property
    def mergeable(self) -> bool:
        """Whether the elements are plain floating-point numbers."""
        return self.dtype in MERGEABLE


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read the tensors that a file declares, in the order of their bytes.

    Raises:
        PreflightError: it is not a complete and consistent safetensors file; the message says what
            it is instead, or the expected and actual numbers of bytes.
    """
    try:
        return checked_header(path)
    except OSError as error:
        raise PreflightError(f"{path}: cannot be read: {error.strerror or error}") from error


def checked_header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        header_bytes = int.from_bytes(start[:8], "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise PreflightError(f"{path}: {foreign(start, size, header_bytes)}")
        file.seek(8)
        raw = file.read(header_bytes)
    header = parse(path, raw)
    data_bytes = size - 8 - header_bytes
    spans: list[tuple[int, int, str]] = []
    infos: dict[str, TensorInfo] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            infos[name], begin, end = tensor_entry(path, name, entry)
            spans.append((begin, end, name))
    spans.sort()
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise PreflightError(
                f"{path}: damaged header: {name!r} starts at byte {begin}, expected {position}; "
                "download the file again"
            )
        position = end
    if position != data_bytes:
        kind = "truncated" if data_bytes < position else "damaged"
        raise PreflightError(
            f"{path}: {kind}: the header declares {8 + header_bytes + position:,} bytes, the file "
            f"has {size:,}; download the file again"
        )
    return {name: infos[name] for _, _, name in spans}


def foreign(start: bytes, size: int, header_bytes: int) -> str:
    """Describe a file that cannot be safetensors."""
    text = start.lstrip().lower()
    if size == 0:
        return "empty file (0 bytes); download it again"
    if text.startswith(LFS_POINTER):
        return (
            f"a git-lfs pointer ({size:,} bytes), not the weights; run `git lfs pull` in its folder"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            f"a web page ({size:,} bytes), not the weights; download the file again "
            "(gated models need a login)"
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickle checkpoint under another name; convert it to safetensors if you trust it"
    if size < 8:
        return f"truncated: {size} bytes, expected at least 8; download the file again"
    if header_bytes > MAX_HEADER_BYTES:
        return (
            f"not a safetensors file: its header would have {header_bytes:,} bytes "
            f"(at most {MAX_HEADER_BYTES:,} are allowed)"
        )
    return (
        f"truncated: the header alone needs {8 + header_bytes:,} bytes, the file has {size:,}; "
        "download the file again"
    )


def parse(path: Path, raw: bytes) -> dict[str, object]:
    """Parse a header's JSON object, refusing repeated names."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            raise ValueError("a name occurs twice")
        return mapping

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise PreflightError(
            f"{path}: damaged header, not JSON ({error}); download the file again"
        ) from error
    if not isinstance(header, dict):
        raise PreflightError(f"{path}: damaged header: expected a JSON object; download it again")
    return header


def tensor_entry(path: Path, name: str, entry: object) -> tuple[TensorInfo, int, int]:
    """Check one tensor's entry, and return its info, first byte and end."""

    def damaged(what: str) -> PreflightError:
        return PreflightError(f"{path}: damaged header: tensor {name[:200]!r} {what}")

    if not name.isprintable() or len(name) > MAX_NAME:
        raise damaged(f"has a name that is not plain text of at most {MAX_NAME} characters")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise damaged("lacks dtype, shape or data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise damaged(f"has dtype {code!r}, which is not supported")
    if not naturals(shape) or not naturals(offsets) or len(offsets) != 2:
        raise damaged("has a shape or offsets that are not lists of whole numbers")
    if len(shape) > MAX_DIMENSIONS or math.prod(n for n in shape if n) > MAX_SIZE:
        raise damaged("has more dimensions or elements than a tensor can have")
    info = TensorInfo(tuple(shape), DTYPES[code][0])
    begin, end = offsets
    if end - begin != info.n_bytes:
        raise damaged(
            f"of shape {list(shape)} and dtype {code} needs {info.n_bytes:,} bytes, "
            f"got {end - begin:,}"
        )
    return info, begin, end


def naturals(value: object) -> bool:
    """Return whether a value is a list of non-negative integers."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)


def header_bytes(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Encode the length and header of a file with these tensors in this order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, info in tensors.items():
        end = position + info.n_bytes
        header[name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
