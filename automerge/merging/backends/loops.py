"""The C++ and CUDA around a kernel's scalar code: how elements are read, hashed and stored."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

from automerge.merging.ranks import Ranks
from automerge.methods import Coefficients, Method
from automerge.methods.shared.uniform import FIRST, SECOND, Keys

STORED: Mapping[torch.dtype, str] = MappingProxyType(
    {torch.bfloat16: "bfloat16", torch.float32: "float"}
)
"""What compiled kernels read and write directly."""

HOST = """
#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE static inline
// Two neighbours of 16 bits, the first of them the lower.
typedef uint32_t __attribute__((may_alias, aligned(2))) pair;

INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
"""

DEVICE = """
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
#define INLINE static __device__ __forceinline__
// Aligned as such on a GPU: see `device`.
typedef uint32_t pair;

namespace std {
INLINE float fabs(float x) { return ::fabsf(x); }
INLINE float copysign(float x, float sign) { return ::copysignf(x, sign); }
}
INLINE uint32_t bits_of(float x) { return __float_as_uint(x); }
INLINE float float_of(uint32_t bits) { return __uint_as_float(bits); }
"""

COMMON = (
    f"""
static const uint32_t FIRST = {FIRST & 0xFFFFFFFF}u, SECOND = {SECOND & 0xFFFFFFFF}u;
"""
    """
struct bfloat16 { uint16_t bits; };

INLINE float load(float x) { return x; }
INLINE float load(bfloat16 x) { return float_of(uint32_t(x.bits) << 16); }
// To the nearest bfloat16, in the upper half; half-way to the even one. What is added carries into
// the upper half where the lower is more than a half of its last place, or is one and that is odd.
// The bits of NaN may overflow to those of a number: that is no matter, since `peak` is of the
// magnitude before rounding, and the result is refused.
INLINE uint32_t rounded(float x) {
  const uint32_t bits = bits_of(x);
  return bits + 0x7FFF + (bits >> 16 & 1);
}
INLINE void store(float *at, float x) { *at = x; }
INLINE void store(bfloat16 *at, float x) { at->bits = uint16_t(rounded(x) >> 16); }
// Each is rounded as a float of its own, so no carry reaches its neighbour.
INLINE pair both(float lower, float upper) {
  return rounded(lower) >> 16 | (rounded(upper) & 0xFFFF0000);
}
// The least magnitude, as bits, that is stored as infinity or NaN. For bfloat16 that is half-way
// from its largest number, 0x7F7F, which is odd, to infinity.
INLINE uint32_t limit(const float *) { return 0x7F800000; }
INLINE uint32_t limit(const bfloat16 *) { return 0x7F7F8000; }
INLINE uint32_t hash(uint32_t pair_number, uint32_t outer, uint32_t inner) {
  uint32_t x = pair_number ^ outer;
  x ^= x >> 16;
  x *= FIRST;
  x ^= inner;
  x ^= x >> 15;
  x *= SECOND;
  return x ^ x >> 15;
}
// Of an element of even number, and of the next.
INLINE float even(uint32_t hash) { return float(int32_t(hash >> 8)) * 0x1p-24f; }
INLINE float odd(uint32_t hash) { return even(hash << 16 | hash >> 16); }
"""
)
PRELUDE = HOST + COMMON


@dataclass(frozen=True)
class Signature:
    """What a translated kernel is specialised for; sizes and numbers are its arguments."""

    anchored: bool
    seeded: bool
    ranked: bool
    widths: tuple[int, ...]
    n_shared: int
    switches: tuple[bool, ...]
    inputs: tuple[torch.dtype, ...]
    output: torch.dtype

    @classmethod
    def of(
        cls,
        method: Method,
        scalars: Coefficients,
        inputs: Iterable[torch.dtype],
        output: torch.dtype,
    ) -> Signature:
        """Return the signature of one merge."""
        return cls(
            method.anchored,
            method.seeded,
            "ranks" in method.statistics,
            tuple(map(len, scalars.each)),
            len(scalars.shared),
            scalars.switches,
            tuple(inputs),
            output,
        )


def constants(
    scalars: Coefficients, ranks: Sequence[Ranks], keys: Iterable[Keys]
) -> tuple[list[float], list[int]]:
    """Return the numbers and the keys of one merge, as its function takes them."""
    numbers = [*(number for each in scalars.each for number in each), *scalars.shared]
    numbers += [each.step for each in ranks[:1]]
    return list(map(float, numbers)), [key & 0xFFFFFFFF for pair in keys for key in pair]


@dataclass(frozen=True)
class Walk:
    """Where a thread begins, and how far each step goes."""

    start: str
    step: str


ALONE = Walk("0", "1")
GRID = Walk("at", "stride")


def function(signature: Signature, n_numbers: int, kernel: list[str], result: str) -> str:
    """Return C++ of a function `merge` around a kernel of one element.

    int32_t merge(inputs, ranks, output, numbers, keys, first, count): `numbers` are the kernel's,
    followed by the step of the ranks if there are any; `keys` are two per source; `first` is the
    number of the first element within the tensor. It returns whether an element of the result is
    not finite.
    """
    return "\n".join(
        [
            PRELUDE,
            'extern "C" int32_t merge(const void *const *inputs, const uint16_t *const *ranks,',
            "    void *output, const double *numbers, const uint32_t *keys, uint32_t first,",
            "    int64_t count) {",
            *pointers(signature, n_numbers),
            "  uint32_t peak = 0;",
            *loop(signature, kernel, result, ALONE),
            "  return peak >= limit(out);",
            "}",
            "",
        ]
    )


def device_function(signature: Signature, n_numbers: int, kernel: list[str], result: str) -> str:
    """Return CUDA of the same, as a kernel `merge` for any number of threads.

    merge(inputs…, ranks…, output, numbers…, keys…, first, count, finite): all by value and in the
    order of `function`; `finite` is set to 0 if an element of the result is not finite, and left
    alone otherwise. Tensors of 16-bit elements start at multiples of four bytes.
    """
    sources = range(len(signature.widths))
    parameters = [
        *(f"const {STORED[dtype]} *__restrict in{i}" for i, dtype in enumerate(signature.inputs)),
        *(f"const uint16_t *__restrict rank{i}" for i in sources if signature.ranked),
        f"{STORED[signature.output]} *__restrict out",
        *(f"double c{i}" for i in range(n_numbers)),
        *(["double step"] if signature.ranked else []),
        *(f"uint32_t key{i}, uint32_t key{i}_" for i in sources if signature.seeded),
        "uint32_t first, int64_t count, int32_t *finite",
    ]
    return "\n".join(
        [
            DEVICE + COMMON,
            f'extern "C" __global__ void merge({", ".join(parameters)}) {{',
            "  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;",
            "  const int64_t stride = int64_t(gridDim.x) * blockDim.x;",
            *(["  const float rank_step = float(step);"] if signature.ranked else []),
            "  uint32_t peak = 0;",
            *loop(signature, kernel, result, GRID),
            "  if (peak >= limit(out)) *finite = 0;",
            "}",
            "",
        ]
    )


def loop(signature: Signature, kernel: list[str], result: str, walk: Walk) -> list[str]:
    """Loop over all elements of one thread; `peak` becomes the largest magnitude's bits."""
    body = [
        *kernel,
        f"const float merged = {result};",
        "const uint32_t magnitude = bits_of(merged) & 0x7FFFFFFF;",
        "peak = peak > magnitude ? peak : magnitude;",
    ]
    short = {*signature.inputs, signature.output} == {torch.bfloat16} and sys.byteorder == "little"
    return in_pairs(signature, body, walk) if short else one_by_one(signature, body, walk)


def pointers(signature: Signature, n_numbers: int) -> list[str]:
    """Name the arguments of `merge`."""
    sources = range(len(signature.widths))
    return [
        *(
            f"  const {STORED[dtype]} *__restrict in{i} = (const {STORED[dtype]} *)inputs[{i}];"
            for i, dtype in enumerate(signature.inputs)
        ),
        *(
            f"  const uint16_t *__restrict rank{i} = ranks[{i}];"
            for i in sources
            if signature.ranked
        ),
        f"  {STORED[signature.output]} *__restrict out = ({STORED[signature.output]} *)output;",
        *(f"  const double c{i} = numbers[{i}];" for i in range(n_numbers)),
        *([f"  const float rank_step = float(numbers[{n_numbers}]);"] if signature.ranked else []),
        *(
            f"  const uint32_t key{i} = keys[{2 * i}], key{i}_ = keys[{2 * i + 1}];"
            for i in sources
            if signature.seeded
        ),
    ]


def one_by_one(signature: Signature, kernel: list[str], walk: Walk) -> list[str]:
    """Loop over elements."""
    return [
        f"  for (int64_t i = {walk.start}; i < count; i += {walk.step}) {{",
        *single(signature, kernel),
        "  }",
    ]


def single(signature: Signature, kernel: list[str]) -> list[str]:
    """Merge one element, of number `i`."""
    sources = range(len(signature.widths))
    pair_number = "(first + uint32_t(i)) >> 1, key{0}, key{0}_"
    return [
        *(f"    const float t{i} = load(in{i}[i]);" for i in range(len(signature.inputs))),
        *(
            f"    const uint32_t hash{i} = hash({pair_number.format(i)}); const float u{i} = "
            f"(first + uint32_t(i)) & 1 ? odd(hash{i}) : even(hash{i});"
            for i in sources
            if signature.seeded
        ),
        *(
            f"    const float r{i} = float(rank{i}[i]) * rank_step;"
            for i in sources
            if signature.ranked
        ),
        *(f"    {line}" for line in kernel),
        "    store(out + i, merged);",
    ]


def in_pairs(signature: Signature, kernel: list[str], walk: Walk) -> list[str]:
    """Loop over pairs of 16-bit elements, and over what is left.

    Both are read as one number of 32 bits, which halves the loads. A bfloat16 is the upper half of
    the float32 of the same value: the first becomes one by a shift, the second by a mask, and
    neither is rounded. They also share one hash, of which each takes different bits (see
    `uniform`), so a piece has to begin with an element of even number.
    """
    sources = range(len(signature.widths))

    def half(name: str, bits: str, rank: str, uniform: str) -> list[str]:
        return [
            f"    float {name};",
            "    {",
            *(
                f"      const float t{i} = float_of({bits.format(f'inputs{i}')});"
                for i in range(len(signature.inputs))
            ),
            *(f"      const float u{i} = {uniform}(hash{i});" for i in sources if signature.seeded),
            *(
                f"      const float r{i} = float(int32_t({rank.format(f'ranks{i}')})) * rank_step;"
                for i in sources
                if signature.ranked
            ),
            *(f"      {line}" for line in kernel),
            f"      {name} = merged;",
            "    }",
        ]

    return [
        f"  uint32_t pair_number = (first >> 1) + uint32_t({walk.start});",
        f"  for (int64_t j = {walk.start}; j < count / 2; j += {walk.step}, "
        f"pair_number += uint32_t({walk.step})) {{",
        *(
            f"    const uint32_t inputs{i} = ((const pair *)in{i})[j];"
            for i in range(len(signature.inputs))
        ),
        *(
            f"    const uint32_t hash{i} = hash(pair_number, key{i}, key{i}_);"
            for i in sources
            if signature.seeded
        ),
        *(
            f"    const uint32_t ranks{i} = ((const pair *)rank{i})[j];"
            for i in sources
            if signature.ranked
        ),
        *half("lower", "{} << 16", "{} & 0xFFFF", "even"),
        *half("upper", "{} & 0xFFFF0000", "{} >> 16", "odd"),
        "    ((pair *)out)[j] = both(lower, upper);",
        "  }",
        f"  if (count % 2 && {walk.start} == 0) {{",
        "    const int64_t i = count - 1;",
        *single(signature, kernel),
        "  }",
    ]
