"""Random numbers that depend on their name only, for masks of seeded methods."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97 - 2**32
"""Multipliers of Wellons's "lowest bias" 32-bit hash (hash-prospector, 2018)."""

Keys: TypeAlias = tuple[int, int]
"""Two 32-bit numbers, as signed integers."""


def keys(seed: int, tensor: str, source: str) -> Keys:
    """Return what makes the numbers of one tensor of one source unique, by SHA-256.

    `source` is a text that tells sources apart, such as a digest of their weights.
    """
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{source}".encode()).digest()
    outer, inner = (int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4))
    return outer, inner


def uniform(
    seed: int, tensor: str, source: str, start: int, count: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return uniforms in [0, 1) for elements [start, start + count) of one tensor of one source.

    They are multiples of 2⁻²⁴ in float32, the same on every device and however a tensor is cut
    into blocks. Tensors of 2³² elements or more repeat their numbers. Elements 2n and 2n + 1 share
    one hash: one takes its upper 24 bits, the other those with its halves swapped, whose first 16
    are different ones.
    """
    import torch

    first = start // 2
    couples = torch.arange(first, (start + count + 1) // 2, dtype=torch.int64, device=device)
    x = hashed((couples & 0x7FFFFFFF).to(torch.int32), *keys(seed, tensor, source))
    both = torch.stack([(x >> 8) & 0xFFFFFF, ((x << 8) & 0xFFFF00) | ((x >> 24) & 0xFF)], dim=1)
    return both.reshape(-1)[start - 2 * first :][:count].float() * 2.0**-24


def hashed(x: torch.Tensor, outer: int, inner: int) -> torch.Tensor:
    """Hash 32-bit integers, keyed before and within the hash; products wrap modulo 2³².

    Shifts of signed integers repeat the sign, so what they bring in is masked.
    """
    x = x ^ outer
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * FIRST
    x = x ^ inner
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * SECOND
    return x ^ ((x >> 15) & 0x1FFFF)
