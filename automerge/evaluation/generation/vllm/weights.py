"""A live model's weights in memory that two processes share, as a safetensors file."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from automerge.checkpoints import stored_parts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of safetensors' format; another dtype belongs to packed weights."""
ALIGNMENT = 64


def handed_over(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return what a checkpoint of a live model would hold, by its names there, tied tensors once.

    Tensors share the memory of the live ones wherever storing them only renames or splits.
    """
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
    return stored_parts(model, state)


def layout(tensors: Mapping[str, Tensor]) -> str:
    """Return the header of a safetensors file of tensors, which follow one another.

    Raises:
        TypeError: a dtype is not one of safetensors'.
    """
    entries, at = {}, 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}, which cannot be handed over")
        end = at + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    return json.dumps(entries)


class SharedWeights:
    """Anonymous shared memory that holds a safetensors file of given tensors.

    It has no name, so nothing needs to be removed: it is gone once no process has it open, however
    these ended. It does not count against the size of /dev/shm. Linux only.
    """

    def __init__(self, header: str) -> None:
        padded = header.encode()
        padded += b" " * (-(8 + len(padded)) % ALIGNMENT)
        self._start = 8 + len(padded)
        self._entries = json.loads(header)
        size = self._start + max((e["data_offsets"][1] for e in self._entries.values()), default=0)
        self.fd = os.memfd_create("automerge", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size)
            self._memory = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self._memory[: self._start] = len(padded).to_bytes(8, "little") + padded

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors of the names, shapes and dtypes that the header says."""
        for name, tensor in tensors.items():
            if tensor.numel():
                start = self._start + self._entries[name]["data_offsets"][0]
                there = torch.frombuffer(
                    self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=start
                )
                there.view(tensor.shape).copy_(tensor)

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self.fd)
        with contextlib.suppress(BufferError):  # an error's traceback may hold a tensor over it
            self._memory.close()
