"""A checkpoint that lives in memory: the smallest thing the Checkpoint contract allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from automerge.checkpoints import TensorInfo


@dataclass(frozen=True)
class MemoryCheckpoint:
    content: Mapping[str, torch.Tensor]
    path: Path = Path("memory")
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def assets(self) -> Path:
        return self.path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch."))
            for name, t in self.content.items()
        }

    def read(self, name: str) -> torch.Tensor:
        return self.content[name]
