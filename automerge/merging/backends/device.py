"""Merging into a live model on a GPU: there, from copies of the models, or on the host."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.merging.backends.build import CannotCompile
from automerge.merging.backends.cuda import Argument, Launch, Load, pointer
from automerge.merging.backends.loops import Shape, constants, device_function
from automerge.merging.backends.native import readable, stored_kind, stored_kinds
from automerge.merging.backends.translate import translate
from automerge.merging.plan import Step
from automerge.merging.ranks import NARROW, Ranks
from automerge.merging.tensor import InvalidMerge, fill, merge_tensor, storage_dtype
from automerge.merging.workspace import Workspace
from automerge.methods import Method

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[object, Shape]
"""What a kernel is compiled for."""
Makers: TypeAlias = dict[Hashable, Callable[[], Tensor]]

PIECE = 1 << 30
"""Elements of one launch: as many as 32 bits count, with some to spare."""
WORD = 4
"""Bytes that kernels read at once."""


class DeviceMerge:
    """Merges into tensors of one GPU, with the bits that the host would give.

    Models' tensors are copied to the device at their first use, as far as `room` bytes go; where
    all operands of an element-wise method are there, it is computed there. Statistics are the
    host's. A kernel that does not give what the host gives for the first tensor it merges is not
    used, nor is any other after it. The rest is merged on the host and copied, which goes on
    while the next tensor is merged.
    """

    def __init__(self, workspace: Workspace, device: torch.device, room: int, load: Load) -> None:
        self._workspace = workspace
        self._device = device
        self._room = room
        self._load = load
        self._kept: dict[Hashable, Tensor] = {}
        self._kernels: dict[Key, Launch] = {}
        self._trusted: set[Key] = set()
        self._refused = False
        self._staging = Staging(device)

    def write(self, pairs: Iterable[tuple[Tensor, Step]]) -> None:
        """Merge tensors over others; raises InvalidMerge for the first that is not finite."""
        flags: dict[str, Tensor] = {}
        for target, step in pairs:
            flag = None if step.method is None else self._computed(target, step, step.method)
            if flag is None:
                self._merged_on_host(target, step)
            else:
                flags[step.tensor] = flag
            self._workspace.release()
        if flags:
            # The only place that waits for the device.
            found = torch.stack(list(flags.values())).tolist()
            for tensor, flag in zip(flags, found, strict=True):
                if flag:
                    raise InvalidMerge(tensor)

    def _merged_on_host(self, target: Tensor, step: Step) -> None:
        if step.method is None:
            target.copy_(merge_tensor(step, self._workspace))
            return
        merged = self._staging.buffer(step.info.n_elements, storage_dtype(step))
        if not fill(merged, step, step.method, self._workspace):
            raise InvalidMerge(step.tensor)
        self._staging.send(merged.view(step.info.shape), target)

    def leave(self) -> bool:
        """Give the device's memory back and use none from now on; whether any was used."""
        used = bool(self._kept)
        self._kept, self._room = {}, 0
        return used

    def _computed(self, target: Tensor, step: Step, method: Method) -> Tensor | None:
        """Run a method on the device, if that can be done there.

        Returns what will not be 0 if an element is not finite.
        """
        if method.extent != "element" or self._refused or not self._suits(step):
            return None
        copies = self._copies(step, method)
        if copies is None:
            return None
        operands, ranks = copies
        dtype = storage_dtype(step)
        kinds, kind = stored_kinds(operands), stored_kind(dtype)
        statistics = self._workspace.statistics(step.base, step.sources)
        scalars = method.coefficients(step.values, statistics)
        shape = Shape.of(method, scalars, kinds, kind)
        launch = self._kernel(method, shape)
        if launch is None:
            return None
        at_once = target.dtype == dtype == kind and target.is_contiguous()
        at_once = at_once and target.data_ptr() % WORD == 0
        merged = target.detach().view(-1) if at_once else self._empty(step.info.n_elements, kind)
        flag = torch.zeros((), dtype=torch.int32, device=self._device)
        numbers, wanted = constants(scalars, ranks, step.mask_keys)
        for start in range(0, len(merged), PIECE):
            stop = start + PIECE
            pieces = readable(operands, kinds, start, stop)
            pieces += [tensor[start:stop] for tensor in (*(r.places for r in ranks), merged)]
            arguments: list[Argument] = [
                *map(pointer, pieces),
                *((number, ctypes.c_double) for number in numbers),
                *((key, ctypes.c_uint32) for key in wanted),
                (start & 0xFFFFFFFF, ctypes.c_uint32),
                (len(pieces[-1]), ctypes.c_int64),
                pointer(flag),
            ]
            launch(arguments, len(pieces[-1]))
        if kind != dtype:
            merged = merged.to(dtype)
            flag |= ~torch.isfinite(merged).all()
        if not self._agrees((method.kernel, shape), merged, step):
            return None
        if not at_once:
            target.copy_(merged.view(target.shape))
        return flag

    def _suits(self, step: Step) -> bool:
        """Whether a step's operands are stored whole, and computed with in float32."""
        workspace = self._workspace
        return all(
            workspace.info(origin).dtype != "float64" and workspace.update(origin) is None
            for origin in step.origins
        )

    def _kernel(self, method: Method, shape: Shape) -> Launch | None:
        key = (method.kernel, shape)
        if key not in self._kernels:
            try:
                self._kernels[key] = self._load(translate(method, shape, device_function))
            except CannotCompile as error:
                self._refuse(str(error))
                return None
        return self._kernels[key]

    def _agrees(self, key: Key, merged: Tensor, step: Step) -> bool:
        """Compare a kernel's first result with the host's."""
        if key in self._trusted:
            return True
        expected = merge_tensor(step, self._workspace).reshape(-1)
        differing = int((merged.cpu() != expected).sum())
        if differing:
            self._refuse(
                f"{differing} of {len(expected)} elements of {step.tensor!r} differ from the host's"
            )
            return False
        self._trusted.add(key)
        return True

    def _refuse(self, why: str) -> None:
        logger.warning("merging on the host instead of on the GPU, which is slower: %s", why)
        self._refused = True
        self.leave()

    def _copies(self, step: Step, method: Method) -> tuple[list[Tensor], list[Ranks]] | None:
        """A step's operands and ranks on the device; None where there is no room for all, or
        kernels cannot read them."""
        workspace = self._workspace
        columns = step.info.shape[-1] if step.info.shape else 1
        ranked = step.sources if "ranks" in method.statistics else ()
        if ranked and not 1 < columns <= NARROW:
            return None

        def places(source: Stored) -> Tensor:
            return workspace.ranks(step.base, source, columns).places

        whole: Makers = {origin: partial(workspace.tensor, origin) for origin in step.origins}
        ranks: Makers = {("ranks", step.base, s, columns): partial(places, s) for s in ranked}
        make = {**whole, **ranks}
        new = [key for key in make if key not in self._kept]
        size = sum(
            2 * step.info.n_elements if key in ranks else workspace.info(cast(Stored, key)).n_bytes
            for key in new
        )
        if size > self._room:
            return None
        self._room -= size
        for key in new:
            self._kept[key] = make[key]().to(self._device)
        return (
            [self._kept[origin] for origin in step.origins],
            [Ranks(self._kept[key], columns) for key in ranks],
        )

    def _empty(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, device=self._device)


class Staging:
    """Two buffers in page-locked memory, from which a GPU copies while the other is filled."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor | None] = [None, None]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor of the host to fill, before the next call of `send`."""
        self._turn = 1 - self._turn
        size = count * dtype.itemsize
        kept, copied = self._buffers[self._turn], self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        if kept is None or len(kept) < size:
            kept = self._buffers[self._turn] = _page_locked(size)
        return kept[:size].view(dtype)

    def send(self, filled: Tensor, target: Tensor) -> None:
        """Begin to copy the buffer to the device."""
        target.copy_(filled, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._copied[self._turn] = event


def _page_locked(size: int) -> Tensor:
    """Bytes of the host; where the system locks no more, copies from them wait."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)
