"""Models on disk: finding, checking, reading and writing them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from automerge.checkpoints.adapters.checkpoint import AdapterCheckpoint
from automerge.checkpoints.adapters.folder import adapter_kind, check_folder, is_adapter
from automerge.checkpoints.compatibility import (
    Compatibility,
    alike_but_for_vocabulary,
    check_models,
    complete,
    scan,
    tensor_faults,
)
from automerge.checkpoints.contents import ModelWatch, sampled_digest, whole_digest
from automerge.checkpoints.hub import ModelFolder, resolve
from automerge.checkpoints.joints import Fold, Joints
from automerge.checkpoints.layout import Stored, Target, layout, reference_model
from automerge.checkpoints.low_rank import LowRank, write_sum
from automerge.checkpoints.memory import MemoryCheckpoint
from automerge.checkpoints.naming import find_keys, stored_parts
from automerge.checkpoints.noise import noise_folder
from automerge.checkpoints.places import places
from automerge.checkpoints.presented import notes, present
from automerge.checkpoints.reader import Checkpoint, SafetensorsCheckpoint
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.checkpoints.symmetries.kept import transformed
from automerge.checkpoints.symmetries.view import alignments
from automerge.checkpoints.vocabularies.aligned import rearranged
from automerge.checkpoints.vocabularies.alignment import Alignment, align
from automerge.checkpoints.writer import WrittenCheckpoint, check_target, write_checkpoint


def open_checkpoint(folder: Path, base: Checkpoint | None = None) -> Checkpoint:
    """Open a model or an adapter, with its tensors as transformers loads them.

    Args:
        folder: a local folder.
        base: the model whose names the tensors get; needed for adapters.

    Raises:
        PreflightError: it cannot be read; names every fault found.
    """
    check_folder(folder, base)
    if base is not None and is_adapter(folder):
        return AdapterCheckpoint(folder, base)
    return present(SafetensorsCheckpoint(folder), base)


def open_together(
    folders: Mapping[str, Path],
    base: str,
    aligned: Mapping[str, str] = MappingProxyType({}),
    near: Sequence[Path] = (),
) -> Mapping[str, Checkpoint]:
    """Open models by name, including the base, with the base's vocabulary.

    Args:
        folders: local folders by name.
        base: the base's name.
        aligned: how models are aligned with the base, by name (`automerge.files.align`).
        near: folders where alignments that have a digest are looked up first.

    Raises:
        PreflightError: one cannot be read, or its vocabulary or units cannot be aligned with the
            base's.
    """
    reference = open_checkpoint(folders[base])
    opened = {
        name: reference if name == base else open_checkpoint(folder, reference)
        for name, folder in folders.items()
    }
    return transformed(align(opened, base).checkpoints, base, aligned, near)


__all__ = [
    "AdapterCheckpoint",
    "Alignment",
    "Checkpoint",
    "Compatibility",
    "Fold",
    "Joints",
    "LowRank",
    "MemoryCheckpoint",
    "ModelFolder",
    "ModelWatch",
    "SafetensorsCheckpoint",
    "Stored",
    "Target",
    "TensorInfo",
    "WrittenCheckpoint",
    "adapter_kind",
    "align",
    "alignments",
    "alike_but_for_vocabulary",
    "check_models",
    "check_target",
    "complete",
    "find_keys",
    "is_adapter",
    "layout",
    "noise_folder",
    "notes",
    "open_checkpoint",
    "open_together",
    "places",
    "present",
    "rearranged",
    "reference_model",
    "resolve",
    "sampled_digest",
    "scan",
    "stored_parts",
    "tensor_faults",
    "transformed",
    "whole_digest",
    "write_checkpoint",
    "write_sum",
]
