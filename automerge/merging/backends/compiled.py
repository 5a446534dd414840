"""Element-wise kernels, and statistics, compiled to one pass over memory."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.merging.backends import loops, native
from automerge.merging.backends.build import CannotCompile, compiler, library
from automerge.merging.backends.loops import Shape
from automerge.merging.backends.native import addresses, is_readable, readable, stored_kinds
from automerge.merging.backends.translate import translate
from automerge.merging.blocks import working_precision
from automerge.merging.ranks import NARROW, Ranks
from automerge.methods import Coefficients, Method
from automerge.methods.shared.uniform import Keys

logger = logging.getLogger(__name__)

WORTHWHILE = 10_000_000
"""Elements of a model from which compiling, about a second a method and number of sources, pays."""
PIECE = 1 << 21
"""Elements a thread merges at once, at most, where they are copied to be read."""
COUNTED = 1 << 24
"""Elements a thread counts at once, at most, before it adds to the others' counts."""
SHARED = 1 << 17
"""Elements from which threads share a tensor."""

Merge = Callable[..., int]
T = TypeVar("T")


class FusedKernels:
    """Kernels compiled at their first use, and kept between runs.

    The result has the bits of the eager kernel. Where compiling fails, nothing is fused.
    """

    def __init__(self, compiler: str) -> None:
        self._compiler = compiler
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._compiled: dict[tuple[object, Shape], Merge] = {}
        self._refused = False

    def fill(
        self,
        merged: Tensor,
        method: Method,
        tensors: Sequence[Tensor],
        scalars: Coefficients,
        keys: Sequence[Keys],
        ranks: Sequence[Ranks],
    ) -> bool | None:
        """Run a method's kernel over whole flat tensors of the CPU.

        Returns whether the result is finite; None where it cannot be computed here.
        """
        if any(r.places.dtype != torch.uint16 or r.columns == 1 for r in ranks):
            return None
        kinds, (kind,) = stored_kinds(tensors), stored_kinds([merged])
        at_once = merged.dtype == kind and all(map(is_readable, tensors, kinds))
        shape = Shape.of(method, scalars, kinds, kind)
        merge = self._merge(method, shape)
        if merge is None:
            return None
        numbers, wanted = loops.constants(scalars, ranks, keys)
        constants = (
            (ctypes.c_double * max(len(numbers), 1))(*numbers),
            (ctypes.c_uint32 * max(len(wanted), 1))(*wanted),
        )

        def work(span: tuple[int, int]) -> bool:
            start, stop = span
            inputs, out, begin = tensors, merged, start
            if not at_once:
                inputs = readable(tensors, kinds, start, stop)
                out, begin = torch.empty(stop - start, dtype=kind), 0
            bad = merge(
                addresses(inputs, begin),
                addresses([r.places for r in ranks], start),
                ctypes.c_void_p(out.data_ptr() + begin * out.element_size()),
                *constants,
                ctypes.c_uint32(start & 0xFFFFFFFF),
                ctypes.c_int64(stop - start),
            )
            if out is not merged:
                merged[start:stop] = out
                return not bad and bool(torch.isfinite(merged[start:stop]).all())
            return not bad

        n_threads = torch.get_num_threads() if merged.numel() >= SHARED else 1
        pieces = spans(merged.numel(), n_threads, merged.numel() if at_once else PIECE)
        finite = list(map(work, pieces) if n_threads == 1 else self._threads.map(work, pieces))
        return all(finite)

    def _merge(self, method: Method, shape: Shape) -> Merge | None:
        key = (method.kernel, shape)
        if key not in self._compiled:
            code = translate(method, shape)
            found = self._try(lambda: self._load(code).merge)
            if found is None:
                return None
            found.restype = ctypes.c_int32
            self._compiled[key] = found
        return self._compiled[key]

    def magnitude_counts(self, source: Tensor, base: Tensor | None) -> Tensor | None:
        """How many elements of |source − base| each bin of `order` holds; None without compiler."""
        if not in_float32(source, base):
            return None
        pieces = spans(source.numel(), torch.get_num_threads(), COUNTED)
        return self._try(
            lambda: native.magnitude_counts(self._load, self._each, source, base, pieces)
        )

    def magnitudes(self, source: Tensor, base: Tensor | None) -> Tensor | None:
        """|source − base| in float32; None where it is not computed here."""
        if not in_float32(source, base):
            return None
        return self._try(lambda: native.magnitudes(self._load, source, base))

    def spread_counts(
        self, sources: Sequence[Tensor], base: Tensor | None
    ) -> tuple[Tensor, Tensor, int] | None:
        """Bins of the variance over vectors, squares summed a bin, and zeros; None as before."""
        if not in_float32(*sources, base):
            return None
        return self._try(lambda: native.spread_counts(self._load, sources, base))

    def row_places(self, rows: Tensor) -> Tensor | None:
        """Each element's place by magnitude within its row; None where it is not computed here."""
        if rows.dtype != torch.float32 or rows.shape[1] > NARROW:
            return None
        return self._try(lambda: native.row_places(self._load, self._each, rows))

    def _load(self, code: str) -> ctypes.CDLL:
        """Compile and load, once."""
        if code not in self._libraries:
            self._libraries[code] = library(code, self._compiler)
        return self._libraries[code]

    def _try(self, compiled: Callable[[], T]) -> T | None:
        """Run what needs the compiler, until it has failed once."""
        if self._refused:
            return None
        try:
            return compiled()
        except CannotCompile as error:
            logger.warning("merging without compiled kernels, which is slower: %s", error)
            self._refused = True
            return None

    @property
    def _each(self) -> native.Each:
        """Work on pieces at once where PyTorch has threads."""
        return self._threads.map if torch.get_num_threads() > 1 else map

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """As many threads as PyTorch uses; calls into the kernel let others run."""
        return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="merge")


def in_float32(*tensors: Tensor | None) -> bool:
    """Whether the tensors that are there are merged in float32, as compiled code does."""
    return working_precision([t for t in tensors if t is not None]) == torch.float32


def fused_kernels(checkpoints: Mapping[str, Checkpoint]) -> FusedKernels | None:
    """Fused kernels where they pay: for models that are not tiny, on a machine that can compile."""
    sizes = [
        sum(info.n_elements for info in checkpoint.tensors.values())
        for checkpoint in checkpoints.values()
    ]
    found = compiler()
    return None if found is None or max(sizes, default=0) < WORTHWHILE else FusedKernels(found)


def spans(count: int, n_threads: int, longest: int) -> list[tuple[int, int]]:
    """Pieces of a tensor, as start and stop: as many for each thread, alike long, whole couples."""
    n = n_threads * max(1, -(-count // (n_threads * max(longest, 1))))
    size = -(-count // (2 * n)) * 2
    return [(start, min(start + size, count)) for start in range(0, count, size or 1)]
