"""Random numbers that depend on nothing but their name: for masks of seeded methods."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 0xFFFFFFFF


def uniform(
    seed: int, tensor: str, source: str, start: int, count: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Uniforms in [0, 1) for elements [start, start + count) of one tensor of one source.

    Multiples of 2⁻²⁴ in float32, from a hash of (seed, tensor, source, element): the same on every
    device and for every way of cutting a tensor. Multipliers are those of Wellons's "lowest bias"
    32-bit hash (hash-prospector, 2018), keyed by SHA-256 before and within; taken modulo 2³² in
    64-bit integers, no product overflows. Tensors of 2³² elements and more repeat their numbers.
    """
    import torch

    digest = hashlib.sha256(f"{seed}\0{tensor}\0{source}".encode()).digest()
    outer, inner = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
    x = torch.arange(start, start + count, dtype=torch.int64, device=device)
    x &= WORD
    x ^= outer
    x ^= x >> 16
    x *= 0x21F0AAAD
    x &= WORD
    x ^= inner
    x ^= x >> 15
    x *= 0xD35A2D97 - 2**32
    x &= WORD
    x ^= x >> 15
    return (x >> 8).to(torch.float32) * 2.0**-24
