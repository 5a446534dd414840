"""C++ compiled for this machine at its first use: kernels, and sums over whole tensors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint
from automerge.merging.backends import native
from automerge.merging.backends.build import CannotCompile, compiler, library
from automerge.merging.backends.loops import Signature
from automerge.merging.backends.translate import translate
from automerge.merging.blocks import spans, working_precision
from automerge.merging.ranks import NARROW
from automerge.methods import Method

logger = logging.getLogger(__name__)

WORTHWHILE = 10_000_000
"""A model's elements from which compiling pays: it takes about a second per method and number of
sources."""
COUNTED = 1 << 24
"""The most elements that a thread counts before it adds to the others' counts."""

MergeFunction: TypeAlias = Callable[..., int]
"""The C function `merge` of `loops.function`."""
T = TypeVar("T")


class CompiledCode:
    """Compiles at first use and keeps what was compiled between runs.

    Once compiling has failed, nothing is compiled any more: methods then return None.
    """

    def __init__(self, compiler: str) -> None:
        self._compiler = compiler
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._functions: dict[tuple[object, Signature], MergeFunction] = {}
        self._refused = False

    def merge_function(self, method: Method, signature: Signature) -> MergeFunction | None:
        """Return a method's kernel as a C function; None without a working compiler."""
        key = (method.kernel, signature)
        if key not in self._functions:
            code = translate(method, signature)
            found = self._try(lambda: self._load(code).merge)
            if found is None:
                return None
            found.restype = ctypes.c_int32
            self._functions[key] = found
        return self._functions[key]

    def magnitude_counts(self, source: Tensor, base: Tensor | None) -> Tensor | None:
        """Count |source − base| by bins of `order`; return None without a compiler."""
        if not in_float32(source, base):
            return None
        pieces = spans(source.numel(), torch.get_num_threads(), COUNTED)
        return self._try(
            lambda: native.magnitude_counts(self._load, self.each, source, base, pieces)
        )

    def magnitudes(self, source: Tensor, base: Tensor | None) -> Tensor | None:
        """Return |source − base| in float32; None if it cannot be computed here."""
        if not in_float32(source, base):
            return None
        return self._try(lambda: native.magnitudes(self._load, source, base))

    def spread_counts(
        self, sources: Sequence[Tensor], base: Tensor | None
    ) -> tuple[Tensor, Tensor, int] | None:
        """Return bins of the variance over vectors, squares summed per bin, and zeros; or None."""
        if not in_float32(*sources, base):
            return None
        return self._try(lambda: native.spread_counts(self._load, sources, base))

    def products(
        self, gradient: Tensor, xs: Sequence[Tensor], anchor: Tensor
    ) -> list[float] | None:
        """Return ⟨gradient, x − anchor⟩ for each of one or more x; None if not computed here."""
        on_host = gradient.device.type == "cpu"
        if not (on_host and in_float32(gradient, anchor, *xs)):
            return None
        pieces = spans(len(gradient), torch.get_num_threads(), native.PIECE)
        return self._try(
            lambda: native.products(self._load, self.each, gradient, xs, anchor, pieces)
        )

    def row_ranks(self, rows: Tensor) -> Tensor | None:
        """Return each element's rank by magnitude within its row; None if not computed here."""
        if rows.dtype != torch.float32 or rows.shape[1] > NARROW:
            return None
        return self._try(lambda: native.row_ranks(self._load, self.each, rows))

    def _load(self, code: str) -> ctypes.CDLL:
        """Compile and load, once."""
        if code not in self._libraries:
            self._libraries[code] = library(code, self._compiler)
        return self._libraries[code]

    def _try(self, compiled: Callable[[], T]) -> T | None:
        """Run what needs the compiler, unless that has failed before."""
        if self._refused:
            return None
        try:
            return compiled()
        except CannotCompile as error:
            logger.warning("merging without compiled kernels, which is slower: %s", error)
            self._refused = True
            return None

    @property
    def each(self) -> native.Each:
        """Work on several pieces at once if PyTorch has threads."""
        return self._threads.map if torch.get_num_threads() > 1 else map

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """Return a pool of as many threads as PyTorch uses; compiled code lets others run."""
        return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="merge")


def in_float32(*tensors: Tensor | None) -> bool:
    """Return whether the tensors given are merged in float32, as compiled code does."""
    return working_precision([t for t in tensors if t is not None]) == torch.float32


def compiled_code(checkpoints: Mapping[str, Checkpoint]) -> CompiledCode | None:
    """Return a compiler where it pays: for models that are not tiny, on a machine that has one."""
    sizes = [
        sum(info.n_elements for info in checkpoint.tensors.values())
        for checkpoint in checkpoints.values()
    ]
    found = compiler()
    return None if found is None or max(sizes, default=0) < WORTHWHILE else CompiledCode(found)
