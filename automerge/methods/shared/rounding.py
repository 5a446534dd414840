"""How wrong the elements of a stored matrix are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rounding(anchor: Tensor) -> Tensor:
    """Return half a unit in the last place of a typical element, as the base is stored.

    Errors of that size in every element give an (m, n) matrix no singular value above √m + √n of
    it. A base whose elements are all numbers of half precision was stored so, and adapters of it
    are rounded to that.
    """
    import torch

    eps = torch.full((), torch.finfo(anchor.dtype).eps, dtype=torch.float64, device=anchor.device)
    for dtype in (torch.float16, torch.bfloat16):
        lost = (anchor.to(dtype).to(anchor.dtype) - anchor).abs().sum()
        eps = torch.where(lost == 0, torch.finfo(dtype).eps, eps)
    return eps * anchor.double().square().mean().sqrt() / 2
