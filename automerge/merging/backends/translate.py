"""Element-wise kernels translated to C++ or CUDA: one loop that reads, computes and writes.

A kernel is run once on symbols (torch.fx proxies), and what it did is written as scalar code,
which compilers turn into vector instructions. The code does what PyTorch does eagerly, operation
by operation: Python numbers in double precision, tensors in float32, nothing contracted or
reordered, so results have the same bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import torch
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from automerge.merging.backends.loops import Signature, function
from automerge.methods import Coefficients, Method, Operands

OPERATORS: Mapping[Callable[..., Any], str] = MappingProxyType(
    {
        operator.add: "{0} + {1}",
        operator.sub: "{0} - {1}",
        operator.mul: "{0} * {1}",
        operator.truediv: "{0} / {1}",
        operator.neg: "-{0}",
        torch.ones_like: "1.0f",
    }
)
# NaN passes through all of these, as it does in PyTorch.
TENSOR_METHODS: Mapping[str, str] = MappingProxyType(
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

Around: TypeAlias = Callable[[Signature, int, list[str], str], str]
"""Writes the code around a kernel's, given how many numbers it has, and its result."""

COMPARISONS: Mapping[tuple[str, str], str] = MappingProxyType(
    {("relu", "sign"): "{0} > 0", ("sign", "abs"): "{0} > 0 || {0} < 0"}
)
"""Two methods in a row that give 1 where a comparison holds and 0 elsewhere."""


def translate(method: Method, signature: Signature, around: Around = function) -> str:
    """Translate a method's kernel to code, in a function as `loops` makes it."""
    graph = Graph()
    tracer = GraphAppendingTracer(graph)

    def symbols(letter: str, count: int) -> list[Proxy]:
        return [Proxy(graph.placeholder(f"{letter}{i}"), tracer) for i in range(count)]

    n_sources = len(signature.widths)
    tensors = symbols("t", len(signature.inputs))
    uniforms = symbols("u", n_sources if signature.seeded else 0)
    ranks = symbols("r", n_sources if signature.ranked else 0)
    numbers = symbols("c", sum(signature.widths) + signature.n_shared)
    values = iter(numbers)
    each = tuple(tuple(next(values) for _ in range(width)) for width in signature.widths)
    base, sources = (tensors[0], tensors[1:]) if signature.anchored else (None, tensors)
    merged = method.kernel(
        Operands(cast(Any, base), cast(Any, sources), cast(Any, uniforms), cast(Any, ranks)),
        Coefficients(cast(Any, each), cast(Any, tuple(values)), signature.switches),
    )
    result = cast(Proxy, merged).node
    names = Names([proxy.node for proxy in numbers])
    statements = [names.statement(node) for node in graph.nodes if node.op != "placeholder"]
    return around(signature, len(numbers), statements, names[result])


class Names:
    """What nodes of a graph are called, and which of them are Python numbers, or one of two."""

    def __init__(self, numbers: Iterable[Node]) -> None:
        self._numbers = set(numbers)
        self._choices: dict[Node, str] = {}

    def __getitem__(self, node: Node) -> str:
        if node in self._choices:
            return f"({self._choices[node]} ? {node.name}_yes : {node.name}_no)"
        return str(node.target) if node.op == "placeholder" else node.name

    def statement(self, node: Node) -> str:
        """Return the code of one operation.

        Kernels write masks as arithmetic: indicator(x) is 1.0 or 0.0, and is scaled, subtracted
        from 1 and so on. The only tensor in such an expression is the mask, so it has just two
        possible values, and the comparison decides between them. Both are written as constants,
        `_yes` and `_no`, that do not depend on the element: compilers compute them once, before the
        loop, and the loop is left with a comparison and a choice, which are vector instructions.
        The arithmetic is the eager kernel's on the same two numbers, so the bits are the same.

        Raises:
            NotImplementedError: The operation is not in the tables.
        """
        forms = cast(
            Mapping[object, str], OPERATORS if node.op == "call_function" else TENSOR_METHODS
        )
        if node.target not in forms or node.kwargs:
            raise NotImplementedError(f"kernels cannot use {node.target} yet; add it to {__name__}")
        (first, *_) = node.args
        if isinstance(first, Node) and (first.target, node.target) in COMPARISONS:
            return self._comparison(node, cast(Node, first.args[0]), cast(str, first.target))
        tensors = [arg for arg in node.args if isinstance(arg, Node) and arg not in self._numbers]
        if not tensors:
            self._numbers.add(node)
        kind = "float" if tensors else "double"
        if len(tensors) == 1 and tensors[0] in self._choices:
            (choice,) = tensors
            self._choices[node] = self._choices[choice]
            return " ".join(
                self._assigned(node, kind, {choice: f"{choice.name}_{k}"}, f"_{k}")
                for k in ("yes", "no")
            )
        return self._assigned(node, kind)

    def _comparison(self, node: Node, compared: Node, before: str) -> str:
        """Define a choice between 1 and 0."""
        name = f"{node.name}_holds"
        form = COMPARISONS[before, cast(str, node.target)].format(self[compared])
        if compared.target is operator.sub and before == "relu":
            # x − y > 0 exactly if x > y: with subnormal numbers, a difference is 0 only between
            # equals. The same holds for ∞ − ∞ and NaN: both comparisons are false.
            left, right = (self._argument(arg, False) for arg in compared.args)
            form = f"{left} > {right}"
        self._choices[node] = name
        numbers = f"{node.name}_yes = 1.0f, {node.name}_no = 0.0f"
        return f"const bool {name} = {form}; const float {numbers};"

    def _assigned(
        self,
        node: Node,
        kind: str,
        known: Mapping[Node, str] = MappingProxyType({}),
        suffix: str = "",
    ) -> str:
        """Define an operation's result; `known` has the names of some arguments."""
        forms = cast(
            Mapping[object, str], OPERATORS if node.op == "call_function" else TENSOR_METHODS
        )
        arguments = [
            known.get(cast(Any, arg)) or self._argument(arg, kind == "double") for arg in node.args
        ]
        return f"const {kind} {node.name}{suffix} = {forms[node.target].format(*arguments)};"

    def _argument(self, argument: object, among_numbers: bool) -> str:
        """Return an argument in the precision of the operation."""
        if not isinstance(argument, Node):
            return f"({float(cast(float, argument))!r}{'' if among_numbers else 'f'})"
        name = self[argument]
        return f"float({name})" if argument in self._numbers and not among_numbers else name
