"""Kernels as they are written, run by PyTorch on the host."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from automerge.machine.processors import one_thread
from automerge.merging.backends.base import TensorMerge, is_finite
from automerge.merging.blocks import BLOCK, working_blocks, working_precision
from automerge.merging.plan import Step
from automerge.merging.workspace import Workspace


class Eager:
    """Merges anything: elementwise kernels block by block, others over whole tensors."""

    def run(self, target: Tensor, merge: TensorMerge) -> bool:
        if merge.method.extent == "tensor":
            run_whole(target, merge)
        else:
            run_blocks(target, merge)
        return is_finite(target)


def run_whole(target: Tensor, merge: TensorMerge) -> None:
    """Run a kernel on whole tensors in one thread: sums and LAPACK round by the thread count."""
    step, workspace = merge.step, merge.workspace
    precision = working_precision(merge.tensors)
    shaped = [tensor.to(precision).reshape(step.info.shape) for tensor in merge.tensors]
    operands = merge.operands(shaped)
    with one_thread():
        prepared = workspace.prepared(merge.method, (step.base, *step.sources), operands)
        operands = replace(
            operands,
            prepared=prepared,
            uniforms=uniforms_of(merge),
            evidence=evidence_of(step, workspace),
        )
        target[:] = merge.method.kernel(operands, merge.scalars).reshape(-1)


def run_blocks(target: Tensor, merge: TensorMerge) -> None:
    """Run an elementwise kernel on blocks that stay in a core's cache."""
    step = merge.step
    for number, blocks in enumerate(working_blocks(merge.tensors)):
        start = number * BLOCK
        stop = start + blocks[0].numel()
        operands = replace(
            merge.operands(blocks),
            uniforms=[
                merge.workspace.uniform(step.seed, source, start, stop)
                for source in (step.sources if merge.method.seeded else ())
            ],
            ranks=[ranks.cut(start, stop) for ranks in merge.ranks],
        )
        target[start:stop] = merge.method.kernel(operands, merge.scalars)


def uniforms_of(merge: TensorMerge) -> list[Tensor]:
    """Return a seeded method's random numbers for a whole tensor, in its shape, per source."""
    step, info = merge.step, merge.step.info
    return [
        merge.workspace.uniform(step.seed, source, 0, info.n_elements).reshape(info.shape)
        for source in (step.sources if merge.method.seeded else ())
    ]


def evidence_of(step: Step, workspace: Workspace) -> dict[str, list[Tensor | None]]:
    """Return what a method needs besides the models: by kind, one entry per source."""
    return {
        kind: [
            workspace.evidence(digest, kind, source)
            for digest, source in zip(digests, step.sources, strict=True)
        ]
        for kind, digests in step.evidence.items()
    }
