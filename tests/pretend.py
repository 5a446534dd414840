"""A device that is not there: its tensors lie in the host's memory, but must not be mixed with it.

What runs here with the results of the CPU has no tensor in the wrong place. Arithmetic is the CPU's
own, so it says nothing about a real device's roundings or speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from automerge.merging.backends.cuda import Argument, Launch

_setup_privateuseone_for_python_backend("pretend")
torch.pretend.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
DEVICE = torch.device("pretend", 0)
MOVES = ("aten::copy_", "aten::_to_copy")


class Pretended(Tensor):
    """A tensor of the device; `own` holds its numbers."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> Pretended:
        shape = torch.empty_strided(own.size(), own.stride(), dtype=own.dtype, device="meta")
        made = Tensor._make_subclass(
            cls, shape, False, dispatch_device=True, device_for_backend_keys=DEVICE
        )
        made.own = own
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    def tolist(self) -> Any:
        return self.own.tolist()

    def data_ptr(self) -> int:
        return self.own.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.own.untyped_storage()

    def __deepcopy__(self, memo: object) -> Pretended:
        made = Pretended(self.own.clone())
        made._is_param = isinstance(self, torch.nn.Parameter)
        return made

    def __repr__(self) -> str:
        return f"Pretended({self.own})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return computed(function, args, kwargs or {})


class _There(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return computed(function, args, kwargs or {})


def computed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU, its tensors unwrapped; the result is where they were."""
    name = function._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [isinstance(tensor, Pretended) for tensor in tensors]
    if name == "prim::device":
        return args[0].device
    misplaced = [t for t, is_there in zip(tensors, there, strict=True) if not is_there and t.dim()]
    # Indices of the host are allowed, as CUDA allows them.
    if any(there) and misplaced and name not in (*MOVES, "aten::index", "aten::index_put_"):
        raise RuntimeError(f"{name}: tensors of the device and of the host, {misplaced[0].shape}")
    wanted = kwargs.get("device")
    if wanted is None:
        to_there = any(there)
    else:
        to_there = torch.device(wanted).type == DEVICE.type
        kwargs = {**kwargs, "device": "cpu"}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    own_args, own_kwargs = tree_map_only(Pretended, lambda t: t.own, (args, kwargs))
    result = function(*own_args, **own_kwargs)
    if name == "aten::copy_" or (function._schema.is_mutable and name.endswith("_")):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map_only(Tensor, Pretended, result) if to_there else result


class _Event:
    def record(self, stream: object) -> None: ...

    def synchronize(self) -> None: ...


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Have the device, as PyTorch has a GPU."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch.cuda, "current_stream", lambda device=None: None)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with _There():
                yield
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_swap_module_params_on_conversion(swap)


RUNTIME = """
#define __global__
#define __device__
#define __forceinline__ inline
extern "C" float fabsf(float), copysignf(float, float);
struct place { unsigned x; };
static place blockIdx, threadIdx, blockDim, gridDim;
template <class To, class From> static inline To as(From x) {
  To y;
  __builtin_memcpy(&y, &x, 4);
  return y;
}
static inline unsigned __float_as_uint(float x) { return as<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return as<float>(x); }
extern "C" void be(unsigned block, unsigned thread, unsigned blocks, unsigned threads) {
  blockIdx.x = block; threadIdx.x = thread; gridDim.x = blocks; blockDim.x = threads;
}
"""
BLOCKS, THREADS = 2, 3


class Driver:
    """Compiles CUDA for the host, and runs its threads one after the other; notes what it did."""

    def __init__(self, compiler: str, folder: Path) -> None:
        self._compiler = compiler
        self._folder = folder
        self.launches = 0
        self.sources: list[str] = []

    def load(self, source: str) -> Launch:
        self.sources.append(source)
        made = self._folder / f"{abs(hash(source))}.so"
        if not made.exists():
            options = ("-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-x", "c++")
            command = [self._compiler, *options, "-", "-o", str(made)]
            subprocess.run(command, input=RUNTIME + source, text=True, check=True)
        library = ctypes.CDLL(str(made))

        def launch(arguments: Sequence[Argument], n_threads: int) -> None:
            self.launches += 1
            if any(value % 4 for value, kind in arguments if kind is ctypes.c_void_p):
                raise RuntimeError("misaligned address")
            given = [kind(value) for value, kind in arguments]
            for block in range(BLOCKS):
                for thread in range(THREADS):
                    library.be(block, thread, BLOCKS, THREADS)
                    library.merge(*given)

        return launch
