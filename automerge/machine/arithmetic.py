"""The kind of arithmetic of a machine: how its libraries round, which processors decide."""

from __future__ import annotations

import hashlib
from functools import cache

from automerge.machine.processors import one_thread

DIGITS = 12


@cache
def arithmetic() -> str:
    """Digest of a few results whose last bits differ between kinds of processors.

    Matrix products, a decomposition, sums and functions of fixed numbers, on one thread: what
    merging and scoring are made of. Machines that agree on it may still differ elsewhere; those
    that do not give other scores and weights, in the last bits.
    """
    import torch

    def numbers(*shape: int) -> torch.Tensor:
        """Whole 1024ths, exact in any dtype used here but bfloat16."""
        count = torch.Size(shape).numel()
        return ((torch.arange(count) * 7919 % 2039 - 1019) / 1024).reshape(shape)

    with one_thread(), torch.no_grad():
        left, right = numbers(67, 131), numbers(131, 45)
        results = [
            left @ right,
            left.bfloat16() @ right.bfloat16(),
            left.double() @ right.double(),
            *torch.linalg.svd(left @ left.mT + numbers(67, 67), full_matrices=False),
            left.exp(),
            left.tanh(),
            left.softmax(-1),
            torch.nn.functional.silu(left),
            torch.nn.functional.layer_norm(left, (131,)),
            left.sum(),
            left.norm(dim=0),
        ]
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
