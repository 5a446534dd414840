"""Elementwise kernels compiled to a single pass over the host's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from automerge.merging.backends.base import Finite, TensorMerge
from automerge.merging.backends.code import CompiledCode, MergeFunction, in_float32
from automerge.merging.backends.loops import Signature
from automerge.merging.backends.native import Each, addresses
from automerge.merging.backends.translated import Kernel, KernelKey, Piece, run_translated
from automerge.merging.blocks import spans
from automerge.merging.ranks import Ranks
from automerge.methods import Method

PIECE = 1 << 21
"""The most elements a thread merges at once if they have to be copied to be read."""
SHARED = 1 << 17
"""Number of elements from which threads share a tensor."""


class Compiled:
    """Merges by compiled kernels, if the workspace has a compiler."""

    def run(self, target: Tensor, merge: TensorMerge) -> bool | None:
        code = merge.workspace.compiled
        if code is None:
            return None
        finite = run_translated(Host(code, len(target)), target, merge)
        return None if finite is None else bool(finite)


class Host:
    """The host's threads, working on a tensor of `count` elements."""

    def __init__(self, code: CompiledCode, count: int) -> None:
        self._code = code
        self._n_threads = torch.get_num_threads() if count >= SHARED else 1
        self.each: Each = map if self._n_threads == 1 else code.each

    def operands(self, merge: TensorMerge) -> tuple[Sequence[Tensor], Sequence[Ranks]] | None:
        return (merge.tensors, merge.ranks) if in_float32(*merge.tensors) else None

    def kernel(self, method: Method, signature: Signature) -> Kernel | None:
        function = self._code.merge_function(method, signature)
        return None if function is None else called(function)

    def is_writable(self, target: Tensor) -> bool:
        return True

    def spans(self, count: int, at_once: bool) -> Sequence[tuple[int, int]]:
        return spans(count, self._n_threads, count if at_once else PIECE)

    def accepted(
        self, key: KernelKey, target: Tensor, merge: TensorMerge, finite: Finite
    ) -> Finite | None:
        return finite


def called(function: MergeFunction) -> Kernel:
    """Wrap a compiled function as a kernel; other threads run at the same time."""

    def kernel(piece: Piece) -> bool:
        refused = function(
            addresses(piece.inputs),
            addresses(piece.ranks),
            ctypes.c_void_p(piece.output.data_ptr()),
            (ctypes.c_double * max(len(piece.numbers), 1))(*piece.numbers),
            (ctypes.c_uint32 * max(len(piece.keys), 1))(*piece.keys),
            ctypes.c_uint32(piece.start & 0xFFFFFFFF),
            ctypes.c_int64(len(piece.output)),
        )
        return not refused

    return kernel
