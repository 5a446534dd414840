"""A model that lives in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.safetensors_file import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MemoryCheckpoint:
    """Tensors by name, without files: the minimum that can be merged."""

    content: Mapping[str, Tensor]
    path: Path = Path("memory")
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def assets(self) -> Path:
        """The same as `path`: models in memory have no files."""
        return self.path

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shapes and dtypes by name."""
        return {
            name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch."))
            for name, t in self.content.items()
        }

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return self.content[name]
