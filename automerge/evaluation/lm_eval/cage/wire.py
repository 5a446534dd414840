"""Values between the judge and the prisoner: plain data, rebuilt from scratch at the other end.

Only exact types of Python's own library arrive. An instance of a subclass arrives as its base (a
namedtuple as a tuple, a member of an IntEnum as an int), so no stranger's method comes along.
Mutable containers keep their identity within one call: the same list twice is one list, and changes
by the callee are made to the caller's. Anything else is a reference, which only the sender can
interpret.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

MAX_BYTES = 2**26
"""Bytes that one message may have."""
MODULES = frozenset(
    {
        *("bisect", "builtins", "cmath", "collections", "copy", "datetime", "decimal", "fractions"),
        *("functools", "heapq", "itertools", "json", "math", "numpy", "operator", "random", "re"),
        *("statistics", "string", "sys", "time", "typing"),
    }
)
"""Modules that may be passed by name: the other side imports the real one."""
SOURCES = MODULES - {"numpy", "sys", "time", "typing", "functools", "random", "json", "copy"}
"""Modules whose functions and classes are passed by name: none makes objects equal to anything."""
HIDDEN = {"eval", "exec", "compile", "open", "input", "breakpoint", "globals", "locals", "vars"}
NUMBERS = re.compile(r"[<>|=]?[biufcSU][0-9]{1,6}")
"""The kinds of numpy's arrays that are plain."""
CHANGING: dict[type, str] = {
    **{list: "list", dict: "dict", set: "set", bytearray: "bytearray", deque: "deque"},
    **{Counter: "counter", OrderedDict: "ordered", defaultdict: "default"},
}


class Broken(BaseException):
    """The other side is gone or sent something that is not a message; no test may catch it."""


class Foreign(TypeError):
    """A value that cannot be sent."""


class Pipe:
    """Messages of JSON over two descriptors."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write

    def send(self, message: object) -> None:
        """Send one message."""
        data = json.dumps(message, ensure_ascii=True).encode()
        if len(data) > MAX_BYTES:
            raise Foreign("the value is too large")
        view = memoryview(len(data).to_bytes(4, "little") + data)
        try:
            while view:
                view = view[os.write(self._write, view) :]
        except OSError as error:
            raise Broken(str(error)) from None

    def receive(self) -> Any:
        """Wait for a message."""
        length = int.from_bytes(self._exactly(4), "little")
        if length > MAX_BYTES:
            raise Broken("too long a message")
        try:
            return json.loads(self._exactly(length))
        except (ValueError, RecursionError, MemoryError) as error:
            raise Broken(str(error)) from None

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = os.read(self._read, min(count, 2**20))
            except OSError as error:
                raise Broken(str(error)) from None
            if not part:
                raise Broken("the other side has ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class Encoder:
    """Turn values into JSON, for one call.

    `known` holds the containers of the call by number, both ways; `refer` names what is not plain
    or raises Foreign.
    """

    def __init__(self, known: dict[int, Any], refer: Callable[[Any], list[Any]]) -> None:
        self.known = known
        self._numbers = {id(value): number for number, value in known.items()}
        self._refer = refer

    def value(self, value: Any) -> Any:
        """Encode one value, or the number of a container that the other side has."""
        number = self._numbers.get(id(value))
        if number is not None:
            return ["@", number]
        return self.content(value)

    def content(self, value: Any) -> Any:
        """Encode one value with its contents."""
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if isinstance(value, ModuleType):
            if value.__name__ not in MODULES:
                return self._refer(value)
            return ["module", value.__name__]
        if isinstance(value, int):
            plain = int(value)
            return plain if abs(plain) < 2**63 else ["int", hex(plain)]
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return str.__str__(value)
        for base, tag in _FROZEN.items():
            if isinstance(value, base):
                return [tag, *self._frozen(tag, value)]
        for base in CHANGING if kind not in CHANGING else (kind,):
            if isinstance(value, base):
                return self._changing(base, value)
        return self._array(value) or self._by_name(value) or self._refer(value)

    def _frozen(self, tag: str, value: Any) -> list[Any]:
        if tag in ("tuple", "frozenset", "keys"):
            return [self.value(item) for item in value]
        if tag == "items":
            return [[self.value(k), self.value(v)] for k, v in value]
        if tag in ("range", "slice"):
            return [self.value(item) for item in (value.start, value.stop, value.step)]
        if tag == "complex":
            return [value.real, value.imag]
        if tag == "bytes":
            return [bytes(value).hex()]
        if tag == "fraction":
            return [self.value(value.numerator), self.value(value.denominator)]
        if tag == "timedelta":
            return [value.days, value.seconds, value.microseconds]
        if tag in ("datetime", "date", "time"):
            return [value.isoformat()]
        return [] if tag in ("...", "unimplemented") else [str(value)]

    def _changing(self, base: type, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = len(self.known)
            self.known[number], self._numbers[id(value)] = value, number
        extra: Any = None
        if issubclass(base, dict):
            items: Any = [[self.value(k), self.value(v)] for k, v in value.items()]
            if base is defaultdict and value.default_factory is not None:
                extra = self._by_name(value.default_factory)
        elif base is bytearray:
            items = bytes(value).hex()
        else:
            items = [self.value(item) for item in value]
            extra = value.maxlen if base is deque else None
        return [CHANGING[base], number, extra, items]

    def _array(self, value: Any) -> list[Any] | None:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
            return None
        array = numpy.asarray(value)
        if array.dtype.kind == "O":
            return self._changing(list, array.tolist())
        if not NUMBERS.fullmatch(array.dtype.str):
            return None
        scalar = isinstance(value, numpy.generic)
        return ["array", scalar, array.dtype.str, list(array.shape), array.tobytes().hex()]

    def _by_name(self, value: Any) -> list[Any] | None:
        if not isinstance(value, type | BuiltinFunctionType | FunctionType):
            return None
        source, name = str(getattr(value, "__module__", "")), getattr(value, "__name__", "")
        source = source.removeprefix("_")  # heapq.heappush is _heapq's
        if source not in SOURCES or source not in sys.modules or name in HIDDEN:
            return None
        if sys.modules[source].__dict__.get(name) is not value:
            return None
        return ["global", source, name]


class Decoder:
    """Build values from JSON, for one call; anything that is not well formed is Broken."""

    def __init__(self, known: dict[int, Any], resolve: Callable[[list[Any]], Any]) -> None:
        self.known = known
        self._resolve = resolve

    def value(self, node: Any) -> Any:
        """Decode one value."""
        if not isinstance(node, list):
            if node is None or type(node) in (bool, int, float, str):
                return node
            raise Broken("not a value")
        try:
            return self._build(node[0], node[1:])
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as e:
            raise Broken(f"not a value: {e}") from None

    def refill(self, number: int, node: list[Any]) -> None:
        """Give a container that both sides have its new contents."""
        self._fill(self.known[number], node[0], node[3])

    def _build(self, tag: str, rest: list[Any]) -> Any:
        if tag == "@":
            return self.known[rest[0]]
        if tag in _CONTAINERS:
            number, extra, items = rest
            made: Any
            if tag == "deque":
                made = deque(maxlen=extra)
            elif tag == "default":
                made = defaultdict(self.value(extra))
            else:
                made = _CONTAINERS[tag]()
            self.known[number] = made
            self._fill(made, tag, items)
            return made
        if tag in _REBUILD:
            return _REBUILD[tag](rest)
        if tag in _FROM_ITEMS:
            return _FROM_ITEMS[tag]([self.value(item) for item in rest])
        if tag == "items":
            return {self.value(k): self.value(v) for k, v in rest}.items()
        if tag in _FROM_PARTS:
            return _FROM_PARTS[tag](*[self.value(item) for item in rest])
        if tag == "module" and rest[0] in MODULES:
            return importlib.import_module(rest[0])
        if tag == "global":
            return _named(*rest)
        return self._resolve([tag, *rest])

    def _fill(self, made: Any, tag: str, items: Any) -> None:
        if CHANGING[type(made)] != tag:
            raise TypeError(f"{tag} for {type(made).__name__}")
        if tag == "bytearray":
            made[:] = bytes.fromhex(items)
        elif isinstance(made, dict):
            pairs = [(self.value(k), self.value(v)) for k, v in items]
            made.clear()
            for key, value in pairs:
                made[key] = value
        else:
            values = [self.value(item) for item in items]
            made.clear()
            (made.update if isinstance(made, set) else made.extend)(values)


def _named(source: str, name: str) -> Any:
    if source not in SOURCES or name in HIDDEN or name.startswith("_"):
        raise ValueError(f"{source}.{name}")
    found = getattr(importlib.import_module(source), name)
    if not isinstance(found, type | BuiltinFunctionType | FunctionType):
        raise TypeError(name)
    return found


def _array_of(rest: list[Any]) -> Any:
    import numpy

    scalar, kind, shape, data = rest
    if not NUMBERS.fullmatch(kind):
        raise TypeError(kind)
    found = numpy.frombuffer(bytes.fromhex(data), kind).reshape(shape).copy()
    return found[()] if scalar else found


_FROZEN: dict[type, str] = {
    **{tuple: "tuple", bytes: "bytes", frozenset: "frozenset", range: "range", slice: "slice"},
    **{complex: "complex", type(...): "...", type(NotImplemented): "unimplemented"},
    **{type({}.keys()): "keys", type({}.items()): "items", Fraction: "fraction"},
    **{Decimal: "decimal", datetime: "datetime", date: "date", time: "time"},
    timedelta: "timedelta",
}
_CONTAINERS = {tag: kind for kind, tag in CHANGING.items()}
_FROM_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "frozenset": frozenset,
    "keys": lambda items: dict.fromkeys(items).keys(),
}
_FROM_PARTS: dict[str, Callable[..., Any]] = {
    "range": range,
    "slice": slice,
    "fraction": Fraction,
}
_REBUILD: dict[str, Callable[[list[Any]], Any]] = {
    "int": lambda rest: int(rest[0], 16),
    "bytes": lambda rest: bytes.fromhex(rest[0]),
    "complex": lambda rest: complex(*rest),
    "decimal": lambda rest: Decimal(rest[0]),
    "datetime": lambda rest: datetime.fromisoformat(rest[0]),
    "date": lambda rest: date.fromisoformat(rest[0]),
    "time": lambda rest: time.fromisoformat(rest[0]),
    "timedelta": lambda rest: timedelta(*rest),
    "...": lambda rest: ...,
    "unimplemented": lambda rest: NotImplemented,
    "array": _array_of,
}
EXCEPTIONS = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__name__ == name
}
"""What a call may raise on the other side."""
