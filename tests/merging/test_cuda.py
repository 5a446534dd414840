"""What NVIDIA's driver is handed, through its bindings: by a library that writes it down."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from automerge.merging.backends.build import compiler

pytest.importorskip("cuda.bindings")
pytestmark = pytest.mark.skipif(not compiler(), reason="no C++ compiler")

DRIVER = r"""
#include <cstdint>
#include <cstdio>
#include <cstring>

extern "C" {
static char module_, function_;
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuModuleLoadData(void **module, const void *image) {
  *module = &module_;
  return memcmp(image, "code", 4) ? 200 : 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = &function_;
  return module == &module_ && !strcmp(name, "merge") ? 0 : 500;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned block,
                   unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **values,
                   void **extra) {
  const int64_t count = *(int64_t *)values[4];
  if (function != &function_ || y * z * block_y * block_z != 1 || extra) return 400;
  printf("[%u, %u, %u, %llu, %llu, %.17g, %u, %u, %lld, %llu]\n", x, block, shared,
         (unsigned long long)stream, *(unsigned long long *)values[0], *(double *)values[1],
         *(uint32_t *)values[2], *(uint32_t *)values[3], (long long)count,
         *(unsigned long long *)values[5]);
  fflush(stdout);
  return count == 13 ? 700 : 0;
}
int cuGetProcAddress_v2(const char *name, void **found, int, uint64_t, int *status) {
  *found = nullptr;
  if (status) *status = 0;
#define OFFER(f) if (!strcmp(name, #f)) *found = (void *)f
  OFFER(cuInit);
  OFFER(cuDriverGetVersion);
  OFFER(cuModuleLoadData);
  OFFER(cuModuleGetFunction);
  OFFER(cuLaunchKernel);
  return 0;
}
int cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, found, version, flags, nullptr);
}
}
"""

CALLS = """
import contextlib, ctypes, types, torch
from automerge.merging.backends import cuda

torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(
    major=9, minor=0, multi_processor_count=132)
torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.current_stream = lambda device: types.SimpleNamespace(cuda_stream=4660)
cuda.machine_code = lambda source, architecture: (source + architecture).encode()
launch = cuda.gpu_compiler(torch.device("cuda", 0))("code")
values, flag = torch.zeros(4), torch.zeros(1)
print([values.data_ptr(), flag.data_ptr()])

def run(count, threads):
    launch([cuda.pointer(values), (0.1, ctypes.c_double), (0xDEADBEEF, ctypes.c_uint32),
            (7, ctypes.c_uint32), (count, ctypes.c_int64), cuda.pointer(flag)], threads)

run(1 << 33, 10**7)
run(2, 2)
try:
    run(13, 1000)
except RuntimeError as error:
    print([str(error)])
try:
    cuda.gpu_compiler(torch.device("cuda", 0))("none")
except cuda.CannotCompile as error:
    print([str(error)])
"""


@pytest.mark.slow
def test_the_driver_gets_what_kernels_take(tmp_path):
    library = tmp_path / "libcuda.so.1"
    options = ("-shared", "-fPIC", "-x", "c++", "-", "-o", str(library))
    subprocess.run([compiler(), *options], input=DRIVER, text=True, check=True)
    ended = subprocess.run(
        [sys.executable, "-c", CALLS],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (values, flag), first, second, third, failed, refused = (
        json.loads(line.replace("'", '"')) for line in ended.stdout.splitlines()
    )
    common = [values, 0.1, 0xDEADBEEF, 7]
    assert first == [132 * 8, 256, 0, 4660, *common, 1 << 33, flag]
    assert second == [1, 256, 0, 4660, *common, 2, flag]
    assert third == [4, 256, 0, 4660, *common, 13, flag]
    assert failed == ["CUresult CUDA_ERROR_ILLEGAL_ADDRESS"]
    assert refused == ["cannot load a kernel: CUresult CUDA_ERROR_INVALID_IMAGE"]
