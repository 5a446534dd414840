"""Models on disk: found, checked, read and written."""

from pathlib import Path

from automerge.checkpoints.compatibility import Compatibility, check_models, scan, tensor_faults
from automerge.checkpoints.hub import ModelFolder, resolve
from automerge.checkpoints.lora import LoraCheckpoint, is_adapter
from automerge.checkpoints.places import places
from automerge.checkpoints.reader import Checkpoint, SafetensorsCheckpoint
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.checkpoints.writer import WrittenCheckpoint, check_target, write_checkpoint


def open_checkpoint(folder: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Open a model folder, or a LoRA adapter's over its base."""
    if base is not None and is_adapter(folder):
        return LoraCheckpoint(folder, base)
    return SafetensorsCheckpoint(folder)


__all__ = [
    "Checkpoint",
    "Compatibility",
    "LoraCheckpoint",
    "ModelFolder",
    "SafetensorsCheckpoint",
    "TensorInfo",
    "WrittenCheckpoint",
    "check_models",
    "check_target",
    "is_adapter",
    "open_checkpoint",
    "places",
    "resolve",
    "scan",
    "tensor_faults",
    "write_checkpoint",
]
