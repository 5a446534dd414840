"""Merge one tensor: the path that live models and exported ones share, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from automerge.checkpoints import Fold
from automerge.errors import AutomergeError
from automerge.merging.backends.base import Backend, Finite, TensorMerge, is_finite, run_first
from automerge.merging.backends.host import HOST
from automerge.merging.plan import Step
from automerge.merging.pooling import pooled
from automerge.merging.router import gate_rows
from automerge.merging.workspace import Workspace


class InvalidMerge(AutomergeError):
    """The merged model has a tensor that is not finite."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"merged tensor {tensor!r} is not finite (NaN or infinite)")
        self.tensor = tensor

    def __reduce__(self) -> tuple[type[InvalidMerge], tuple[str]]:
        return InvalidMerge, (self.tensor,)


def merge_tensor(step: Step, workspace: Workspace) -> Tensor:
    """Make one tensor on the host, in the shape and dtype that it is stored in.

    Raises:
        InvalidMerge: An element is not finite.
    """
    if step.router is not None:
        width = step.info.shape[1]
        made = gate_rows(step.router, step.reference.tensor, width, workspace)
        return made.to(storage_dtype(step))
    if step.pool is not None:
        made = pooled(step.pool, workspace, lambda member: merge_tensor(member, workspace))
        made = made.to(storage_dtype(step))
        if not is_finite(made):
            raise InvalidMerge(step.tensor)
        return made
    if step.method is None:
        return workspace.tensor(step.reference).reshape(step.info.shape)
    merged = torch.empty(step.info.n_elements, dtype=storage_dtype(step))
    finite = run_first(HOST, merged, TensorMerge(step, step.method, workspace))
    if not (finite and fold_into(merged, step.fold)):
        raise InvalidMerge(step.tensor)
    return merged.reshape(step.info.shape)


def merge_into_tensors(
    pairs: Iterable[tuple[Tensor, Step]], workspace: Workspace, backends: Sequence[Backend] = HOST
) -> None:
    """Write merged tensors over others, one after the other.

    Args:
        pairs: Tensors of the step's shape, wherever the backends write.
        workspace: Forgets after each tensor what was computed for it alone.
        backends: Tried in order.

    Raises:
        InvalidMerge: For the first tensor that is not finite. The targets are then meaningless.
    """
    flags: dict[str, Tensor] = {}
    for target, step in pairs:
        finite = merge_into_tensor(target, step, workspace, backends)
        if isinstance(finite, Tensor):
            flags[step.tensor] = finite
        elif not finite:
            raise InvalidMerge(step.tensor)
        workspace.release()
    if flags:
        # The only place that waits for a device.
        found = torch.stack(list(flags.values())).tolist()
        for tensor, finite in zip(flags, found, strict=True):
            if not finite:
                raise InvalidMerge(tensor)


def merge_into_tensor(
    target: Tensor, step: Step, workspace: Workspace, backends: Sequence[Backend] = HOST
) -> Finite:
    """Write one merged tensor over another, directly if both are stored the same way.

    Values are always rounded to the storage dtype first.

    Returns:
        Whether the result is finite.
    """
    if step.method is None:
        target.copy_(merge_tensor(step, workspace))
        return True
    dtype = storage_dtype(step)
    is_alike = target.dtype == dtype and target.is_contiguous()
    merged = (
        target.detach().view(-1)
        if is_alike
        else torch.empty(step.info.n_elements, dtype=dtype, device=target.device)
    )
    finite = run_first(backends, merged, TensorMerge(step, step.method, workspace))
    finite = finite & fold_into(merged, step.fold)
    if not is_alike:
        target.copy_(merged.view(step.info.shape))
    return finite


def fold_into(merged: Tensor, fold: Fold | None) -> Finite:
    """Scale a merged tensor in place, as rounded to its storage dtype before as after.

    Returns:
        Whether the result is finite.
    """
    if fold is None:
        return True
    if fold.offset:
        merged.copy_((merged.double() + fold.offset) * fold.factor - fold.offset)
    else:
        merged.mul_(fold.factor)
    on_host = merged.device.type == "cpu"
    return is_finite(merged) if on_host else merged.isfinite().all().int()


def storage_dtype(step: Step) -> torch.dtype:
    """Return the dtype that a merged tensor is rounded to."""
    dtype: torch.dtype = getattr(torch, step.info.dtype)
    return dtype
