"""The digest of merged weights, which shows that an export is what was scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from automerge.errors import WeightsDiffer
from automerge.trial import Weights


def tensor_digest(tensor: Tensor) -> str:
    """Return the digest of a tensor's dtype, shape and bits."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    found.update(bits.numpy().tobytes())
    return found.hexdigest()


def weights_digest(digests: Mapping[str, str]) -> str:
    """Combine the digests of all tensors into one, whatever their order."""
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def witnessed(
    stream: Iterator[tuple[str, Tensor]], count: int, scored: Weights
) -> Iterator[tuple[str, Tensor]]:
    """Pass `count` tensors on.

    Raises:
        WeightsDiffer: Before the last one, if they are not those that were scored.
    """
    digests: dict[str, str] = {}
    for number, (name, tensor) in enumerate(stream, start=1):
        if name not in scored.without:
            digests[name] = tensor_digest(tensor)
        if number == count and weights_digest(digests) != scored.digest:
            raise WeightsDiffer("the merged weights are not those that were scored on test items")
        yield name, tensor
