"""Element-wise kernels translated to C++: one loop that reads, computes and writes.

A kernel is run once on symbols (torch.fx proxies) and what it did is written down as scalar code,
which compilers turn into vector instructions. The code does what PyTorch does eagerly, operation
by operation: Python numbers in double precision, tensors in float32, nothing contracted or
reordered, so results have the same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from automerge.methods import Coefficients, Method, Operands
from automerge.methods.uniform import FIRST, SECOND

STORED: Mapping[torch.dtype, str] = MappingProxyType(
    {torch.bfloat16: "bfloat16", torch.float32: "float"}
)
"""What compiled kernels read and write directly."""

CONSTANTS = f"""
#include <cstdint>

static const uint32_t FIRST = {FIRST & 0xFFFFFFFF}u, SECOND = {SECOND & 0xFFFFFFFF}u;
"""

PRELUDE = (
    CONSTANTS
    + """
#include <cmath>
#include <cstring>

struct bfloat16 { uint16_t bits; };

static inline float load(float x) { return x; }
static inline float load(bfloat16 x) {
  uint32_t wide = uint32_t(x.bits) << 16;
  float y;
  memcpy(&y, &wide, 4);
  return y;
}
static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
static inline void store(float *at, float x) { *at = x; }
static inline void store(bfloat16 *at, float x) {
  uint32_t wide = bits_of(x);
  uint16_t nearest = uint16_t((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16);
  at->bits = x != x ? uint16_t(0x7FC0) : nearest;
}
// The least magnitude, as bits, that is stored as infinity or NaN.
static inline uint32_t limit(const float *) { return 0x7F800000; }
static inline uint32_t limit(const bfloat16 *) { return 0x7F7F8000; }
static inline float uniform(uint32_t index, uint32_t outer, uint32_t inner) {
  uint32_t x = index ^ outer;
  x ^= x >> 16;
  x *= FIRST;
  x ^= inner;
  x ^= x >> 15;
  x *= SECOND;
  x ^= x >> 15;
  return float(int32_t(x >> 8)) * 0x1p-24f;
}
"""
)

OPERATORS: Mapping[Callable[..., Any], str] = MappingProxyType(
    {
        operator.add: "{0} + {1}",
        operator.sub: "{0} - {1}",
        operator.mul: "{0} * {1}",
        operator.truediv: "{0} / {1}",
        operator.neg: "-{0}",
    }
)
# NaN goes on through all of these, as it does in PyTorch.
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "abs": "std::fabs({0})",
        "square": "{0} * {0}",
        "relu": "({0} < 0 ? 0 : {0})",
        "sign": "float(({0} > 0) - ({0} < 0))",
        "copysign": "std::copysign({0}, {1})",
        "maximum": "({0} != {0} || {0} > {1} ? {0} : {1})",
        "minimum": "({0} != {0} || {0} < {1} ? {0} : {1})",
        "clamp": "({0} < {1} ? {1} : {0} > {2} ? {2} : {0})",
    }
)

COMPARISONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("relu", "sign"): "({0} > 0 ? 1.0f : 0.0f)",
        ("sign", "abs"): "({0} > 0 || {0} < 0 ? 1.0f : 0.0f)",
    }
)
"""Two methods in a row that are one comparison, which compilers do not see."""


@dataclass(frozen=True)
class Shape:
    """What a translated kernel is special to; sizes and numbers are its arguments."""

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
    ) -> Shape:
        """The shape of one merge."""
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


def translate(method: Method, shape: Shape) -> str:
    """C++ of a function `merge`.

    int32_t merge(inputs, ranks, output, numbers, keys, first, count): `numbers` are each source's
    coefficients, the shared ones, and where there are ranks their step and first; `keys` are two a
    source; `first` is the number of the first
    element within the tensor. Returns whether an element of the result is not finite.
    """
    graph = Graph()
    tracer = GraphAppendingTracer(graph)

    def symbols(letter: str, count: int) -> list[Proxy]:
        return [Proxy(graph.placeholder(f"{letter}{i}"), tracer) for i in range(count)]

    n_sources = len(shape.widths)
    tensors = symbols("t", len(shape.inputs))
    uniforms = symbols("u", n_sources if shape.seeded else 0)
    ranks = symbols("r", n_sources if shape.ranked else 0)
    numbers = symbols("c", sum(shape.widths) + shape.n_shared)
    values = iter(numbers)
    each = tuple(tuple(next(values) for _ in range(width)) for width in shape.widths)
    base, sources = (tensors[0], tensors[1:]) if shape.anchored else (None, tensors)
    merged = method.kernel(
        Operands(cast(Any, base), cast(Any, sources), cast(Any, uniforms), cast(Any, ranks)),
        Coefficients(cast(Any, each), cast(Any, tuple(values)), shape.switches),
    )
    result = cast(Proxy, merged).node
    names = Names([proxy.node for proxy in numbers])
    statements = [
        *(f"float t{i} = load(in{i}[i]);" for i in range(len(tensors))),
        *(f"float u{i} = uniform(index, key{i}, key{i}_);" for i in range(len(uniforms))),
        *(f"float r{i} = float(rank{i}[i]) * rank_step + rank_first;" for i in range(len(ranks))),
        *(names.statement(node) for node in graph.nodes if node.op != "placeholder"),
    ]
    pointers = [
        *(
            f"const {STORED[dtype]} *__restrict in{i} = (const {STORED[dtype]} *)inputs[{i}];"
            for i, dtype in enumerate(shape.inputs)
        ),
        *(f"const uint16_t *__restrict rank{i} = ranks[{i}];" for i in range(len(ranks))),
        f"{STORED[shape.output]} *__restrict out = ({STORED[shape.output]} *)output;",
        *(f"const double c{i} = numbers[{i}];" for i in range(len(numbers))),
        *(
            f"const float rank_{name} = float(numbers[{len(numbers) + i}]);"
            for i, name in enumerate(("step", "first") if shape.ranked else ())
        ),
        *(
            f"const uint32_t key{i} = keys[{2 * i}], key{i}_ = keys[{2 * i + 1}];"
            for i in range(len(uniforms))
        ),
    ]
    return "\n".join(
        [
            PRELUDE,
            'extern "C" int32_t merge(const void *const *inputs, const uint16_t *const *ranks,',
            "    void *output, const double *numbers, const uint32_t *keys, uint32_t first,",
            "    int64_t count) {",
            *(f"  {line}" for line in pointers),
            "  uint32_t peak = 0;",
            "  for (int64_t i = 0; i < count; i++) {",
            "    const uint32_t index = first + uint32_t(i);",
            *(f"    {line}" for line in statements),
            f"    store(out + i, {names[result]});",
            f"    uint32_t magnitude = bits_of({names[result]}) & 0x7FFFFFFF;",
            "    peak = peak > magnitude ? peak : magnitude;",
            "  }",
            "  return peak >= limit(out);",
            "}",
            "",
        ]
    )


class Names:
    """What nodes of a graph are called, and which of them are Python numbers."""

    def __init__(self, numbers: Iterable[Node]) -> None:
        self._numbers = set(numbers)

    def __getitem__(self, node: Node) -> str:
        return str(node.target) if node.op == "placeholder" else node.name

    def statement(self, node: Node) -> str:
        """The code of one operation.

        Raises NotImplementedError for one that is not in the tables.
        """
        forms = cast(Mapping[object, str], OPERATORS if node.op == "call_function" else METHODS)
        if node.target not in forms or node.kwargs:
            raise NotImplementedError(f"kernels cannot use {node.target} yet; add it to {__name__}")
        among_numbers = all(
            arg in self._numbers if isinstance(arg, Node) else True for arg in node.args
        )
        if among_numbers:
            self._numbers.add(node)
        arguments = [self._argument(arg, among_numbers) for arg in node.args]
        form = forms[node.target]
        (first, *_) = node.args
        if isinstance(first, Node) and (first.target, node.target) in COMPARISONS:
            form = COMPARISONS[cast(str, first.target), cast(str, node.target)]
            arguments = [self._argument(first.args[0], among_numbers)]
        kind = "double" if among_numbers else "float"
        return f"const {kind} {node.name} = {form.format(*arguments)};"

    def _argument(self, argument: object, among_numbers: bool) -> str:
        """An argument, in the precision of the operation."""
        if not isinstance(argument, Node):
            return f"({float(cast(float, argument))!r}{'' if among_numbers else 'f'})"
        name = self[argument]
        return f"float({name})" if argument in self._numbers and not among_numbers else name
