"""Tensors by key in a file without a name, so that they need not fit into memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable

import torch
from torch import Tensor

from automerge.checkpoints.writer import raw_bytes


class KeptStates:
    """A mapping to tensors, whose bytes the system keeps in memory as far as there is room.

    The file is in the folder for temporary files (`TMPDIR`) and goes when the process ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the object)
        self._places: dict[Hashable, tuple[int, int, torch.Size, torch.dtype]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def __setitem__(self, key: Hashable, tensor: Tensor) -> None:
        """Write a tensor of at least one element at the file's end."""
        content = raw_bytes(tensor)
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(content)
        self._file.flush()
        self._places[key] = start, len(content), tensor.shape, tensor.dtype

    def __getitem__(self, key: Hashable) -> Tensor:
        """Read a tensor, on the host."""
        start, size, shape, dtype = self._places[key]
        self._file.seek(start)
        content = bytearray(self._file.read(size))
        return torch.frombuffer(content, dtype=dtype).reshape(shape)
