"""A mixture of experts as mergekit-moe describes it: a folder, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, TensorInfo, WrittenCheckpoint, write_checkpoint
from automerge.checkpoints.mixed import Piece, check_mixed, form_of, mixed_settings, pieces
from automerge.errors import PreflightError
from automerge.mergekit.moe import Expert, Mixture


@dataclass(frozen=True)
class _Part:
    """A tensor of the mixture, its shape and dtype."""

    piece: Piece
    info: TensorInfo


def write_mixture(
    mixture: Mixture,
    checkpoints: Mapping[str, Checkpoint],
    gates: Tensor,
    target: Path,
    texts: Mapping[str, str],
) -> WrittenCheckpoint:
    """Write a mixture as a transformers folder, whole or not at all.

    Args:
        mixture: what to make.
        checkpoints: the base and the experts' models, by name.
        gates: (layers, experts, width), the shared expert's last.
        target: the folder to write.
        texts: further files, by name.

    Raises:
        PreflightError: the base's architecture has no mixture, or the folder cannot be written.
    """
    base = checkpoints[mixture.base]
    _check_form(mixture, base)
    settings = mixed_settings(len(mixture.experts), mixture.per_token, base)
    parts = _parts(mixture, base)
    layout = {part.piece.tensor: part.info for part in parts}
    check_mixed({**base.config, **settings}, layout)
    tensors = _tensors(mixture, checkpoints, gates, parts)
    return write_checkpoint(
        target, layout, tensors, base.assets, settings=settings, texts=dict(texts)
    )


def _check_form(mixture: Mixture, base: Checkpoint) -> None:
    """Refuse another architecture than models like the base have, and what it lacks."""
    form = form_of(base)
    if mixture.architecture not in (None, form.model_type):
        kind = base.config.get("model_type")
        raise PreflightError(
            f"{base.path}: {kind} models make a {form.model_type}, not a {mixture.architecture}; "
            "remove `architecture`"
        )
    if form.shared and mixture.shared is None:
        raise PreflightError(
            f"a {form.name} has a shared expert, which every token passes: name one under "
            "`shared_experts`"
        )
    if mixture.shared is not None and not form.shared:
        raise PreflightError(f"a {form.name} has no shared experts; remove `shared_experts`")


def _parts(mixture: Mixture, base: Checkpoint) -> list[_Part]:
    """List the tensors, in the base's order."""
    parts = []
    for piece in pieces(form_of(base), len(mixture.experts), base.tensors):
        info = base.tensors[piece.dense]
        dtype = (mixture.dtype or info.dtype) if info.mergeable else info.dtype
        count = 1 if piece.shared else len(mixture.experts)
        shape = (count, info.shape[1]) if piece.gates else info.shape
        parts.append(_Part(piece, TensorInfo(shape, dtype)))
    return parts


def _tensors(
    mixture: Mixture,
    checkpoints: Mapping[str, Checkpoint],
    gates: Tensor,
    parts: Sequence[_Part],
) -> Iterator[tuple[str, Tensor]]:
    count = len(mixture.experts)
    for part in parts:
        piece = part.piece
        dtype: torch.dtype = getattr(torch, part.info.dtype)
        if piece.expert is not None:
            expert = mixture.experts[piece.expert]
            made = _scaled(checkpoints[expert.model].read(piece.dense), expert, piece.dense)
        elif piece.gates and piece.layer is not None:
            own = slice(count, None) if piece.shared else slice(count)
            made = gates[piece.layer, own]
        elif piece.shared and mixture.shared is not None:
            shared = mixture.shared
            made = _scaled(checkpoints[shared.model].read(piece.dense), shared, piece.dense)
        elif mixture.rest == "average" and dtype.is_floating_point:
            made = _average([checkpoints[expert.model] for expert in mixture.experts], piece.dense)
        else:
            made = checkpoints[mixture.base].read(piece.dense)
        yield piece.tensor, made.to(dtype).contiguous()


def _scaled(tensor: Tensor, expert: Expert, name: str) -> Tensor:
    return tensor * expert.scale if expert.scale != 1 and "down_proj" in name else tensor


def _average(models: Sequence[Checkpoint], name: str) -> Tensor:
    total = models[0].read(name).float().clone()
    for model in models[1:]:
        total += model.read(name).float()
    return total / len(models)
