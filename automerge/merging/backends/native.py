"""Compiled sums over whole tensors: histograms of magnitudes and variances, ranks within rows, and
inner products with several vectors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from automerge.merging.backends.loops import PRELUDE, STORED
from automerge.merging.order import N_BINS, SHIFT

PIECE = 1 << 21
"""Elements counted at a time, fewer than 32 bits can count."""

Load: TypeAlias = Callable[[str], ctypes.CDLL]
"""Compiles C++ unless that was done before; raises CannotCompile."""
P = TypeVar("P")
T = TypeVar("T")


class Each(Protocol):
    """Calls a function with every piece, in parallel or one after the other."""

    def __call__(self, function: Callable[[P], T], pieces: Iterable[P], /) -> Iterable[T]: ...


def stored_kinds(tensors: Sequence[Tensor]) -> list[torch.dtype]:
    """Return the dtypes in which compiled code reads tensors: their own if it can, else float32."""
    return [stored_kind(t.dtype) for t in tensors]


def stored_kind(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that compiled code reads and writes for a stored one: that, or float32."""
    return dtype if dtype in STORED else torch.float32


def readable(
    tensors: Sequence[Tensor], kinds: Sequence[torch.dtype], start: int, stop: int
) -> list[Tensor]:
    """Return elements [start, stop) of flat tensors, contiguous and of these dtypes."""
    pairs = zip(tensors, kinds, strict=True)
    return [t[start:stop].to(kind).contiguous() for t, kind in pairs]


def is_readable(tensor: Tensor, kind: torch.dtype) -> bool:
    """Return whether compiled code can read a tensor without a copy."""
    return tensor.dtype == kind and tensor.is_contiguous()


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of contiguous tensors."""
    return (ctypes.c_void_p * max(len(tensors), 1))(*(t.data_ptr() for t in tensors))


def counting(source: torch.dtype, base: torch.dtype | None) -> str:
    """Return C++ of `count`, which counts |source − base| or |source| by bins."""
    anchor = STORED[base or torch.float32]
    difference = "load(from[i + j]) - load(anchor[i + j])" if base else "load(from[i + j])"
    return f"""{PRELUDE}
enum {{ BINS = {N_BINS}, SHIFT = {SHIFT}, RUN = 512 }};

extern "C" void count(const {STORED[source]} *__restrict from, const {anchor} *__restrict anchor,
                      uint32_t *__restrict counts, int64_t count) {{
  // Two tables, so that equal neighbours do not wait for each other.
  uint32_t bins[RUN], *other = counts + BINS;
  for (int64_t i = 0; i < count; i += RUN) {{
    const int64_t left = count - i, run = left < RUN ? left : RUN;
    for (int64_t j = 0; j < run; j++) bins[j] = (bits_of({difference}) & 0x7FFFFFFF) >> SHIFT;
    int64_t j = 0;
    for (; j + 1 < run; j += 2) {{
      counts[bins[j]]++;
      other[bins[j + 1]]++;
    }}
    if (j < run) counts[bins[j]]++;
  }}
}}
"""


def magnitude_counts(
    load: Load,
    each: Each,
    source: Tensor,
    base: Tensor | None,
    pieces: Sequence[tuple[int, int]],
) -> Tensor:
    """Count the elements of |source − base| in each bin, the largest magnitudes' bin first.

    The flat tensors of the CPU are counted in pieces [start, stop).

    Returns:
        (N_BINS,), int64, the same numbers as `order` counts.

    Raises:
        CannotCompile: the compiler does not work.
    """
    pair = (source, source if base is None else base)
    kinds = stored_kinds(pair)
    count = load(counting(kinds[0], None if base is None else kinds[1])).count
    count.restype = None

    def counted(piece: tuple[int, int]) -> npt.NDArray[np.int64]:
        ours, theirs = readable(pair, kinds, *piece)
        tables = np.zeros((2, N_BINS), dtype=np.uint32)
        count(
            ctypes.c_void_p(ours.data_ptr()),
            ctypes.c_void_p(theirs.data_ptr()),
            ctypes.c_void_p(tables.ctypes.data),
            ctypes.c_int64(len(ours)),
        )
        both: npt.NDArray[np.int64] = tables.sum(axis=0, dtype=np.int64)
        return both

    # NumPy's sums: PyTorch's threads would busy-wait for work this small.
    total = sum(each(counted, pieces), np.zeros(N_BINS, dtype=np.int64))
    return torch.from_numpy(total[::-1].copy())


def measuring(source: torch.dtype, base: torch.dtype | None) -> str:
    """Return C++ of `measure`, which writes |source − base| or |source|."""
    anchor = STORED[base or torch.float32]
    difference = "load(from[i]) - load(anchor[i])" if base else "load(from[i])"
    return f"""{PRELUDE}
extern "C" void measure(const {STORED[source]} *__restrict from, const {anchor} *__restrict anchor,
                        float *__restrict magnitudes, int64_t count) {{
  for (int64_t i = 0; i < count; i++) magnitudes[i] = std::fabs({difference});
}}
"""


def magnitudes(load: Load, source: Tensor, base: Tensor | None) -> Tensor:
    """Return |source − base| or |source| of flat tensors of the CPU, in float32.

    Raises:
        CannotCompile: the compiler does not work.
    """
    pair = (source, source if base is None else base)
    kinds = stored_kinds(pair)
    measure = load(measuring(kinds[0], None if base is None else kinds[1])).measure
    measure.restype = None
    ours, theirs = readable(pair, kinds, 0, len(source))
    found = torch.empty(len(source))
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (ours, theirs, found))
    measure(*pointers, ctypes.c_int64(len(source)))
    return found


def spreading(kinds: Sequence[torch.dtype], anchored: bool) -> str:
    """Return C++ of `spread`: bins of the variance over vectors, and squares summed per bin."""
    n = len(kinds) - anchored
    types = [STORED[kind] for kind in kinds]
    names = [*(["anchor"] if anchored else []), *(f"from{k}" for k in range(n))]
    less = " - load(anchor[i + j])" if anchored else ""
    # From differences, so that it is exactly 0 where all vectors agree.
    gaps = [f"(x{a} - x{b}) * (x{a} - x{b})" for a, b in combinations(range(n), 2)]
    lines = [
        *(f"const float x{k} = load(from{k}[i + j]){less};" for k in range(n)),
        f"const float variance = ({' + '.join(gaps) or '0.0f'}) / {n * n};",
        "bins[j] = bits_of(variance) >> SHIFT;",
        "zeros += variance == 0;",
        *(f"squares[{k}][j] = x{k} * x{k};" for k in range(n)),
    ]
    pointers = [
        f"const {kind} *__restrict {name} = (const {kind} *)inputs[{i}];"
        for i, (kind, name) in enumerate(zip(types, names, strict=True))
    ]
    return f"""{PRELUDE}
enum {{ BINS = {N_BINS}, SHIFT = {SHIFT}, RUN = 512, N = {n} }};

extern "C" int64_t spread(const void *const *inputs, int64_t *__restrict counts,
                          double *__restrict sums, int64_t count) {{
  {" ".join(pointers)}
  uint32_t bins[RUN];
  float squares[N][RUN];
  int64_t zeros = 0;
  for (int64_t i = 0; i < count; i += RUN) {{
    const int64_t left = count - i, run = left < RUN ? left : RUN;
    for (int64_t j = 0; j < run; j++) {{
      {" ".join(lines)}
    }}
    for (int64_t j = 0; j < run; j++) {{
      counts[bins[j]]++;
      for (int k = 0; k < N; k++) sums[bins[j] * N + k] += squares[k][j];
    }}
  }}
  return zeros;
}}
"""


def spread_counts(
    load: Load, sources: Sequence[Tensor], base: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Count population variances over vectors by bins, the largest variances' bin first.

    The tensors are flat and of the CPU.

    Returns:
        Counts (N_BINS,), sums of each vector's squares per bin (N_BINS, sources) in float64, and
        how many variances are exactly 0.

    Raises:
        CannotCompile: the compiler does not work.
    """
    tensors = [*([] if base is None else [base]), *sources]
    kinds = stored_kinds(tensors)
    spread = load(spreading(kinds, base is not None)).spread
    spread.restype = ctypes.c_int64
    counts = torch.zeros(N_BINS, dtype=torch.int64)
    sums = torch.zeros((N_BINS, len(sources)), dtype=torch.float64)
    zeros = 0
    for start in range(0, tensors[0].numel(), PIECE):
        pieces = readable(tensors, kinds, start, start + PIECE)
        zeros += spread(
            addresses(pieces),
            ctypes.c_void_p(counts.data_ptr()),
            ctypes.c_void_p(sums.data_ptr()),
            ctypes.c_int64(len(pieces[0])),
        )
    return counts.flip(0), sums.flip(0), zeros


def contracting(kinds: Sequence[torch.dtype]) -> str:
    """Return C++ of `contract`, which adds Σ g · (x − a) to a total per x; g and a come first."""
    n = len(kinds) - 2
    names = ["gradient", "anchor", *(f"from{k}" for k in range(n))]
    pointers = [
        f"const {STORED[kind]} *__restrict {name} = (const {STORED[kind]} *)inputs[{i}];"
        for i, (kind, name) in enumerate(zip(kinds, names, strict=True))
    ]
    lines = [
        "const float g = load(gradient[j + lane]), a = load(anchor[j + lane]);",
        *(
            f"sums[{k}][lane] = std::fma(g, load(from{k}[j + lane]) - a, sums[{k}][lane]);"
            for k in range(n)
        ),
    ]
    return f"""{PRELUDE}
enum {{ LANES = 16, RUN = 256 * LANES, N = {n} }};

extern "C" void contract(const void *const *inputs, double *__restrict totals, int64_t count) {{
  {" ".join(pointers)}
  for (int64_t i = 0; i < count; i += RUN) {{
    const int64_t stop = count - i < RUN ? count : i + RUN;
    // Each lane adds up 256 products of a run in single precision, runs are added in double.
    float sums[N][LANES] = {{}};
    int64_t j = i;
    for (; j + LANES <= stop; j += LANES)
      for (int lane = 0; lane < LANES; lane++) {{
        {" ".join(lines)}
      }}
    for (int lane = 0; lane < stop - j; lane++) {{
      {" ".join(lines)}
    }}
    for (int k = 0; k < N; k++)
      for (int lane = 0; lane < LANES; lane++) totals[k] += sums[k][lane];
  }}
}}
"""


def products(
    load: Load,
    each: Each,
    gradient: Tensor,
    xs: Sequence[Tensor],
    anchor: Tensor,
    pieces: Sequence[tuple[int, int]],
) -> list[float]:
    """Return ⟨gradient, x − anchor⟩ for each of one or more x, in a single pass over all of them.

    The flat tensors of the CPU are read in pieces [start, stop).

    Raises:
        CannotCompile: the compiler does not work.
    """
    tensors = [gradient, anchor, *xs]
    kinds = stored_kinds(tensors)
    contract = load(contracting(kinds)).contract
    contract.restype = None

    def contracted(piece: tuple[int, int]) -> npt.NDArray[np.float64]:
        read = readable(tensors, kinds, *piece)
        totals = np.zeros(len(xs))
        contract(addresses(read), ctypes.c_void_p(totals.ctypes.data), ctypes.c_int64(len(read[0])))
        return totals

    found: list[float] = sum(each(contracted, pieces), np.zeros(len(xs))).tolist()
    return found


RANKING = f"""{PRELUDE}
#include <utility>
#include <vector>

enum {{ DIGIT = 11, SIZE = 1 << DIGIT, PASSES = 3 }};

// Radix sort of each row by the 31 bits of the magnitude, three digits from the lowest on.
extern "C" void rank(const float *rows, uint16_t *ranks, int64_t n_rows, int64_t n) {{
  std::vector<uint64_t> first(n), second(n);
  for (int64_t row = 0; row < n_rows; row++, rows += n, ranks += n) {{
    uint32_t starts[PASSES][SIZE] = {{}};
    for (int64_t i = 0; i < n; i++) {{
      const uint32_t magnitude = bits_of(rows[i]) & 0x7FFFFFFF;
      first[i] = uint64_t(magnitude) << 16 | uint64_t(i);
      for (int p = 0; p < PASSES; p++) starts[p][magnitude >> (p * DIGIT) & (SIZE - 1)]++;
    }}
    for (int p = 0; p < PASSES; p++) {{
      uint32_t before = 0;
      for (uint32_t &start : starts[p]) before += std::exchange(start, before);
      for (const uint64_t key : first)
        second[starts[p][key >> (16 + p * DIGIT) & (SIZE - 1)]++] = key;
      first.swap(second);
    }}
    for (int64_t i = 0; i < n; i++) ranks[first[i] & 0xFFFF] = uint16_t(i);
  }}
}}
"""


def row_ranks(load: Load, each: Each, rows: Tensor) -> Tensor:
    """Return each element's rank by magnitude within its row, as `ranks_of` does: (n, m), uint16.

    `rows` (n, m) are float32 of the CPU, of at most `NARROW` columns.

    Raises:
        CannotCompile: the compiler does not work.
    """
    rank = load(RANKING).rank
    rank.restype = None
    rows = rows.contiguous()
    ranks = torch.empty(rows.shape, dtype=torch.uint16)
    n, columns = rows.shape

    def ranked(start: int) -> None:
        pointers = (ctypes.c_void_p(t[start:].data_ptr()) for t in (rows, ranks))
        rank(*pointers, ctypes.c_int64(min(step, n - start)), ctypes.c_int64(columns))

    step = max(1, PIECE // max(columns, 1))
    list(each(ranked, range(0, n, step)))
    return ranks
