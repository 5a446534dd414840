"""The kind of arithmetic of a machine: how its libraries round, which depends on its processor."""

from __future__ import annotations

import hashlib
from functools import cache

from automerge.machine.processors import one_thread

DIGITS = 12


@cache
def arithmetic() -> str:
    """Return a digest of a few results whose last bits differ between kinds of processors.

    These are matrix products, a decomposition, sums and functions of fixed numbers on one thread:
    what merging and scoring consist of. Machines with the same digest may still differ elsewhere;
    machines with different digests compute scores and weights that differ in the last bits.
    """
    import torch

    def numbers(*shape: int) -> torch.Tensor:
        """Return multiples of 1/1024, exact in any dtype used here except bfloat16."""
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
