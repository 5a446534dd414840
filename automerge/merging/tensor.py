"""One merged tensor: the path that live models and exported ones share, bit for bit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from automerge.checkpoints import write_sum
from automerge.errors import AutomergeError
from automerge.machine.processors import one_thread
from automerge.merging.blocks import BLOCK, working_blocks, working_precision
from automerge.merging.combination import Combination, combination
from automerge.merging.plan import Step
from automerge.merging.workspace import Workspace
from automerge.methods import Coefficients, Method, Operands

CHECKED = 1 << 17
"""Elements checked at once: what stays in a core's cache."""


class InvalidMerge(AutomergeError):
    """The merged model has a tensor that is not finite."""

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
    """Write one merged tensor over another of the host, at once where that is stored alike.

    Raises InvalidMerge, the target then being of no use.
    """
    alike = target.dtype == storage_dtype(step) and target.is_contiguous()
    if step.method is None or not alike:
        target.copy_(merge_tensor(step, workspace))
    elif not fill(target.detach().view(-1), step, step.method, workspace):
        raise InvalidMerge(step.tensor)


def storage_dtype(step: Step) -> torch.dtype:
    """The dtype a merged tensor is rounded to."""
    dtype: torch.dtype = getattr(torch, step.info.dtype)
    return dtype


def fill(merged: Tensor, step: Step, method: Method, workspace: Workspace) -> bool:
    """Run a method's two stages; whether the result is finite.

    An element-wise kernel goes over the tensor in blocks, or is fused. One that only adds and
    scales its operands never needs those that are stored as low-rank updates whole. Whole-tensor
    kernels run on one thread: their bits are the same on every number of processors.
    """
    statistics = workspace.statistics(step.base, step.sources)
    scalars = method.coefficients(step.values, statistics)
    if fill_low_rank(merged, step, method, scalars, workspace):
        return is_finite(merged)
    tensors = [workspace.tensor(origin) for origin in step.origins]
    if method.extent == "tensor":
        precision = working_precision(tensors)
        operands = split([t.to(precision).reshape(step.info.shape) for t in tensors], step)
        key = (step.base, *step.sources)
        with one_thread():
            prepared = workspace.prepared(method, key, operands)
            operands = replace(operands, prepared=prepared, evidence=evidence_of(step, workspace))
            merged[:] = method.kernel(operands, scalars).reshape(-1)
        return is_finite(merged)
    columns = step.info.shape[-1] if step.info.shape else 1
    ranked = [
        workspace.ranks(step.base, source, columns)
        for source in (step.sources if "ranks" in method.statistics else ())
    ]
    if workspace.fused is not None and working_precision(tensors) == torch.float32:
        finite = workspace.fused.fill(merged, method, tensors, scalars, step.mask_keys, ranked)
        if finite is not None:
            return finite
    for number, blocks in enumerate(working_blocks(tensors)):
        start = number * BLOCK
        stop = start + blocks[0].numel()
        operands = replace(
            split(blocks, step),
            uniforms=[
                workspace.uniform(step.seed, source, start, stop)
                for source in (step.sources if method.seeded else ())
            ],
            ranks=[ranks.cut(start, stop) for ranks in ranked],
        )
        merged[start:stop] = method.kernel(operands, scalars)
    return is_finite(merged)


def evidence_of(step: Step, workspace: Workspace) -> dict[str, list[Tensor | None]]:
    """What a method needs beside the models: by kind, one for each source."""
    return {
        kind: [
            workspace.evidence(digest, kind, source)
            for digest, source in zip(digests, step.sources, strict=True)
        ]
        for kind, digests in step.evidence.items()
    }


def fill_low_rank(
    merged: Tensor, step: Step, method: Method, scalars: Coefficients, workspace: Workspace
) -> bool:
    """Add low-rank updates to what they change, where there are some and the method is linear."""
    updates = {origin: workspace.update(origin) for origin in step.origins}
    if all(update is None for update in updates.values()):
        return False
    whole: dict[int, Tensor] = {}
    symbols = []
    for origin, update in updates.items():
        flat = workspace.tensor(origin) if update is None else update.base
        # An update's base and the recipe's are one operand: they are the same memory.
        whole.setdefault(flat.data_ptr(), flat.reshape(step.info.shape))
        factors: dict[Hashable, float] = {flat.data_ptr(): 1.0}
        if update is not None:
            factors[origin] = 1.0
        symbols.append(Combination(factors))
    base, sources = (None, symbols) if step.base is None else (symbols[0], symbols[1:])
    found = combination(method, scalars, base, sources)
    if found is None:
        return False
    write_sum(
        merged.view(step.info.shape),
        [(found.factors[pointer], tensor) for pointer, tensor in whole.items()],
        [(found.factors[o], update) for o, update in updates.items() if update is not None],
    )
    return True


def is_finite(tensor: Tensor) -> bool:
    """Whether no element of a flat tensor is NaN or infinite; much faster than isfinite()."""
    starts = range(0, tensor.numel(), CHECKED)
    return all(bool((tensor[i : i + CHECKED] * 0).sum() == 0) for i in starts)


def split(tensors: Sequence[Tensor], step: Step) -> Operands:
    """Base and sources, of tensors in that order."""
    return Operands(None, tensors) if step.base is None else Operands(tensors[0], tensors[1:])
