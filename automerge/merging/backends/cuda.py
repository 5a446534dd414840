"""Compile CUDA on the user's machine for its GPU, and launch it in PyTorch's stream."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from automerge.merging.backends.build import CannotCompile

if TYPE_CHECKING:
    import torch

Argument: TypeAlias = tuple[Any, type[Any]]
"""A value and its C type."""
Launch: TypeAlias = Callable[[Sequence[Argument], int], None]
"""Runs a kernel with arguments on this many threads, if the device has them, without waiting."""
Load: TypeAlias = Callable[[str], Launch]
"""Compiles the kernel `merge` of a source; raises CannotCompile."""

OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true")
"""The bits of PyTorch's own operations: nothing contracted, subnormal numbers kept, divisions
rounded."""
BLOCK = 256
BLOCKS = 8
"""Threads per block, and blocks per multiprocessor: all the threads that it runs at once."""


def gpu_compiler(device: torch.device) -> Load:
    """Return what compiles for a GPU, using NVIDIA's bindings, which PyTorch for CUDA installs."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    most = BLOCKS * properties.multi_processor_count

    def load(source: str) -> Launch:
        if torch.version.hip:
            raise CannotCompile("kernels are written for NVIDIA's GPUs")
        code = machine_code(source, f"sm_{properties.major}{properties.minor}")
        try:
            from cuda.bindings import driver

            with torch.cuda.device(device):
                module = checked(driver.cuModuleLoadData(code))
            kernel = checked(driver.cuModuleGetFunction(module, b"merge"))
        except (ImportError, OSError, RuntimeError) as error:
            raise CannotCompile(f"cannot load a kernel: {error}") from error

        def launch(arguments: Sequence[Argument], n_threads: int) -> None:
            blocks = max(1, min(most, -(-n_threads // BLOCK)))
            values, types = zip(*arguments, strict=True)
            stream = torch.cuda.current_stream(device).cuda_stream
            with torch.cuda.device(device):
                checked(
                    driver.cuLaunchKernel(
                        kernel, *(blocks, 1, 1), *(BLOCK, 1, 1), 0, stream, (values, types), 0
                    )
                )

        return launch

    return load


def machine_code(source: str, architecture: str) -> bytes:
    """Compile by NVRTC, which needs no GPU.

    An architecture such as "sm_90" gives a binary, "compute_90" gives PTX.

    Raises:
        CannotCompile: with NVRTC's message.
    """
    try:
        from cuda.bindings import nvrtc

        program = checked(nvrtc.nvrtcCreateProgram(source.encode(), b"merge.cu", 0, None, None))
        options = [text.encode() for text in (f"--gpu-architecture={architecture}", *OPTIONS)]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(result) != 0:
            size = checked(nvrtc.nvrtcGetProgramLogSize(program))
            log = bytearray(size)
            checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise CannotCompile(f"NVRTC: {log.decode(errors='replace').strip(chr(0))}")
        of = "PTX" if architecture.startswith("compute") else "CUBIN"
        code = bytearray(checked(getattr(nvrtc, f"nvrtcGet{of}Size")(program)))
        checked(getattr(nvrtc, f"nvrtcGet{of}")(program, code))
        checked(nvrtc.nvrtcDestroyProgram(program))
    except (ImportError, OSError, RuntimeError) as error:
        raise CannotCompile(f"cannot use NVRTC: {error}") from error
    return bytes(code)


def checked(result: tuple[Any, ...]) -> Any:
    """Return the result of a call to the bindings, without its status.

    Raises:
        RuntimeError: the status is not a success.
    """
    status, *values = result
    if int(status) != 0:
        raise RuntimeError(f"{type(status).__name__} {status.name}")
    return values[0] if values else None


def pointer(tensor: torch.Tensor) -> Argument:
    """Return a tensor's address."""
    return tensor.data_ptr(), ctypes.c_void_p
