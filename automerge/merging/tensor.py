"""One merged tensor: the path that live models and exported ones share, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from automerge.errors import AutomergeError
from automerge.merging.plan import Step
from automerge.merging.statistics import BLOCK, working_blocks, working_precision
from automerge.merging.workspace import Workspace
from automerge.methods import Method, Operands
from automerge.methods.uniform import keys


class InvalidMerge(AutomergeError):
    """The merged model has a tensor that is not finite."""

    exit_code: ClassVar[int] = 3

    def __init__(self, tensor: str) -> None:
        super().__init__(f"merged tensor {tensor!r} is not finite (NaN or infinite)")
        self.tensor = tensor

    def __reduce__(self) -> tuple[type[InvalidMerge], tuple[str]]:
        return InvalidMerge, (self.tensor,)


def merge_tensor(step: Step, workspace: Workspace) -> Tensor:
    """Make one tensor: computed in float32 (float64 for float64 models), rounded once.

    Raises InvalidMerge where an element is not finite.
    """
    if step.method is None:
        return workspace.tensor(step.reference).reshape(step.info.shape)
    merged = torch.empty(step.info.n_elements, dtype=storage_dtype(step))
    if not fill(merged, step, step.method, workspace):
        raise InvalidMerge(step.tensor)
    return merged.reshape(step.info.shape)


def merge_into_tensor(target: Tensor, step: Step, workspace: Workspace) -> None:
    """Write one merged tensor over another, at once where that is stored alike.

    Raises InvalidMerge, the target then being of no use.
    """
    alike = target.dtype == storage_dtype(step) and target.is_contiguous()
    if step.method is None or not alike or target.device.type != "cpu":
        target.copy_(merge_tensor(step, workspace))
    elif not fill(target.detach().view(-1), step, step.method, workspace):
        raise InvalidMerge(step.tensor)


def storage_dtype(step: Step) -> torch.dtype:
    """The dtype a merged tensor is rounded to."""
    dtype: torch.dtype = getattr(torch, step.info.dtype)
    return dtype


def fill(merged: Tensor, step: Step, method: Method, workspace: Workspace) -> bool:
    """Run a method's two stages; whether the result is finite.

    An element-wise kernel goes over the tensor in blocks, or is fused.
    """
    statistics = workspace.statistics(step.base, step.sources)
    scalars = method.coefficients(step.values, statistics)
    origins = step.sources if step.base is None else (step.base, *step.sources)
    tensors = [workspace.tensor(origin) for origin in origins]
    if method.extent == "tensor":
        precision = working_precision(tensors)
        operands = split([t.to(precision).reshape(step.info.shape) for t in tensors], step)
        key = (step.base, *step.sources)
        prepared = workspace.prepared(method, key, operands)
        merged[:] = method.kernel(replace(operands, prepared=prepared), scalars).reshape(-1)
        return is_finite(merged)
    columns = step.info.shape[-1] if step.info.shape else 1
    ranked = [
        workspace.ranks(step.base, source, columns)
        for source in (step.sources if "ranks" in method.statistics else ())
    ]
    if workspace.fused is not None and working_precision(tensors) == torch.float32:
        named = [keys(step.seed, source.tensor, source.model) for source in step.sources]
        return workspace.fused.fill(merged, method, tensors, scalars, named, ranked)
    for number, blocks in enumerate(working_blocks(tensors)):
        start = number * BLOCK
        stop = start + blocks[0].numel()
        operands = replace(
            split(blocks, step),
            uniforms=[
                workspace.uniform(step.seed, source, start, stop)
                for source in (step.sources if method.seeded else ())
            ],
            ranks=[ranks[start:stop] for ranks in ranked],
        )
        merged[start:stop] = method.kernel(operands, scalars)
    return is_finite(merged)


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; much faster than isfinite()."""
    return bool((tensor * 0).sum() == 0)


def split(tensors: Sequence[Tensor], step: Step) -> Operands:
    """Base and sources, of tensors in that order."""
    return Operands(None, tensors) if step.base is None else Operands(tensors[0], tensors[1:])
