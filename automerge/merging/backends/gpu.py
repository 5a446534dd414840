"""Merging into a live model on a GPU, there from copies of the models, or on the host."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.merging.backends.base import Backend, Finite, TensorMerge, run_first
from automerge.merging.backends.build import CannotCompile
from automerge.merging.backends.cuda import Argument, Launch, Load, pointer
from automerge.merging.backends.loops import Signature, device_function
from automerge.merging.backends.native import Each
from automerge.merging.backends.translate import translate
from automerge.merging.backends.translated import Kernel, KernelKey, Piece, run_translated
from automerge.merging.blocks import spans
from automerge.merging.ranks import Ranks
from automerge.methods import Method

logger = logging.getLogger(__name__)

Makers: TypeAlias = dict[Hashable, Callable[[], Tensor]]

PIECE = 1 << 30
"""Elements of one launch: as many as 32 bits can count, with some to spare."""
WORD = 4
"""Bytes that kernels read at a time."""


class Gpu:
    """Merges on one GPU, from copies of the models' tensors there.

    They are copied at their first use, as far as `budget` bytes go; a tensor whose operands are not
    all there is not merged here. Statistics are the host's. A kernel whose first result differs
    from that of the `host` backends is not used, nor is any other after it.
    """

    each: Each = map

    def __init__(
        self, device: torch.device, budget: int, load: Load, host: Sequence[Backend]
    ) -> None:
        self._device = device
        self._budget = budget
        self._load = load
        self._host = host
        self._copies: dict[Hashable, Tensor] = {}
        self._kernels: dict[KernelKey, Kernel] = {}
        self._trusted: set[KernelKey] = set()
        self._refused = False

    def run(self, target: Tensor, merge: TensorMerge) -> Finite | None:
        return None if self._refused else run_translated(self, target, merge)

    def release(self) -> bool:
        """Free the device's memory and use none from now on; return whether any was used."""
        used = bool(self._copies)
        self._copies, self._budget = {}, 0
        return used

    def operands(self, merge: TensorMerge) -> tuple[Sequence[Tensor], Sequence[Ranks]] | None:
        """Return base, sources and ranks on the device.

        None if the budget does not allow for all of them, or if they are not stored whole or not
        merged in float32."""
        step, workspace, columns = merge.step, merge.workspace, merge.columns
        for origin in step.origins:
            is_low_rank = workspace.update(origin) is not None
            if is_low_rank or workspace.info(origin).dtype == "float64":
                return None

        def ranks_of(source: Stored) -> Tensor:
            return workspace.ranks(step.base, source, columns).integers

        whole: Makers = {origin: partial(workspace.tensor, origin) for origin in step.origins}
        ranked = step.sources if merge.is_ranked else ()
        ranks: Makers = {("ranks", step.base, s, columns): partial(ranks_of, s) for s in ranked}
        make = {**whole, **ranks}
        new = [key for key in make if key not in self._copies]
        size = sum(
            2 * step.info.n_elements if key in ranks else workspace.info(cast(Stored, key)).n_bytes
            for key in new
        )
        if size > self._budget:
            return None
        self._budget -= size
        for key in new:
            self._copies[key] = make[key]().to(self._device)
        return (
            [self._copies[origin] for origin in step.origins],
            [Ranks(self._copies[key], columns) for key in ranks],
        )

    def kernel(self, method: Method, signature: Signature) -> Kernel | None:
        key = (method.kernel, signature)
        if key not in self._kernels:
            try:
                launch = self._load(translate(method, signature, device_function))
            except CannotCompile as error:
                self._refuse(str(error))
                return None
            self._kernels[key] = launched(launch)
        return self._kernels[key]

    def is_writable(self, target: Tensor) -> bool:
        return target.data_ptr() % WORD == 0

    def spans(self, count: int, at_once: bool) -> Sequence[tuple[int, int]]:
        return spans(count, 1, PIECE)

    def accepted(
        self, key: KernelKey, target: Tensor, merge: TensorMerge, finite: Finite
    ) -> Finite | None:
        """Compare a kernel's first result with the host's."""
        if key in self._trusted:
            return finite
        expected = torch.empty(len(target), dtype=target.dtype)
        if not run_first(self._host, expected, merge):
            return False
        differing = int((target.cpu() != expected).sum())
        if differing:
            name, count = merge.step.tensor, len(expected)
            self._refuse(f"{differing} of {count} elements of {name!r} differ from the host's")
            return None
        self._trusted.add(key)
        return finite

    def _refuse(self, why: str) -> None:
        logger.warning("merging on the host instead of on the GPU, which is slower: %s", why)
        self._refused = True
        self.release()


def launched(launch: Launch) -> Kernel:
    """Wrap a CUDA kernel as a kernel; nothing waits for it to run."""

    def kernel(piece: Piece) -> Tensor:
        count = len(piece.output)
        finite = torch.ones((), dtype=torch.int32, device=piece.output.device)
        arguments: list[Argument] = [
            *map(pointer, (*piece.inputs, *piece.ranks, piece.output)),
            *((number, ctypes.c_double) for number in piece.numbers),
            *((key, ctypes.c_uint32) for key in piece.keys),
            (piece.start & 0xFFFFFFFF, ctypes.c_uint32),
            (count, ctypes.c_int64),
            pointer(finite),
        ]
        launch(arguments, count)
        return finite

    return kernel


class Staged:
    """Merges on the host into page-locked memory; a GPU copies it while the next is merged."""

    def __init__(self, device: torch.device, host: Sequence[Backend]) -> None:
        self._host = host
        self._staging = Staging(device)

    def run(self, target: Tensor, merge: TensorMerge) -> bool:
        merged = self._staging.buffer(len(target), target.dtype)
        finite = bool(run_first(self._host, merged, merge))
        if finite:
            self._staging.send(merged, target)
        return finite


class Staging:
    """Two buffers in page-locked memory: a GPU copies from one while the other is filled."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor | None] = [None, None]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        """Return a flat tensor of the host to fill before the next call of `send`."""
        self._turn = 1 - self._turn
        size = count * dtype.itemsize
        kept, copied = self._buffers[self._turn], self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        if kept is None or len(kept) < size:
            kept = self._buffers[self._turn] = _page_locked(size)
        return kept[:size].view(dtype)

    def send(self, filled: Tensor, target: Tensor) -> None:
        """Start copying the buffer to the device."""
        target.copy_(filled, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._copied[self._turn] = event


def _page_locked(size: int) -> Tensor:
    """Allocate bytes of the host; if the system locks no more pages, copies from them wait."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
