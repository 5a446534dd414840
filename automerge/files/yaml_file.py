"""YAML as data, with the position of every key and value; safe on hostile input.

The language is a subset of YAML 1.2: one mapping at the top, text keys, no tags, no merge keys,
few aliases. Only `true` and `false` are booleans (`no`, `on`, `yes` stay text), `1e-3` is a number,
and all numbers are finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from automerge.errors import ConfigError, Fault, Location
from automerge.files.document import MAX_DEPTH

Plain: TypeAlias = Any  # None | bool | int | float | str | list[Plain] | dict[str, Plain]
Step: TypeAlias = str | int
Event: TypeAlias = Any  # of yaml.events, whose stubs leave most attributes out
Events: TypeAlias = Iterator[Any]

MAX_BYTES = 1_000_000
MAX_DIGITS = 18
MAX_ALIASES = 64
MAX_VALUES = 50_000
MAX_FAULTS = 50

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class _Node:
    """A parsed value; `children` and `keys` hold the nodes and key marks of a collection."""

    line: int
    column: int
    size: int
    scalar: Plain = None
    items: tuple[_Node, ...] | None = None
    fields: dict[str, tuple[_Node, _Node]] | None = None  # name → (key, value)

    def plain(self) -> Plain:
        if self.fields is not None:
            return {name: value.plain() for name, (_, value) in self.fields.items()}
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.scalar


@dataclass(frozen=True)
class Located:
    """A parsed mapping that knows where each of its keys and values was written."""

    source: str
    root: _Node

    @property
    def data(self) -> dict[str, Plain]:
        """The values, as fresh dicts, lists and scalars."""
        data: dict[str, Plain] = self.root.plain()
        return data

    @property
    def folder(self) -> Path:
        """The folder of the file, which relative paths in it are relative to."""
        return Path(self.source).absolute().parent

    def locate(self, path: Sequence[Step] = (), *, key: bool = False) -> Location:
        """Return where the value at `path`, or its key, begins; its parent if it does not exist."""
        node = mark = self.root
        for step in path:
            if node.fields is not None and step in node.fields:
                mark, node = node.fields[str(step)]
            elif node.items is not None and isinstance(step, int) and step < len(node.items):
                mark = node = node.items[step]
            else:
                return self._location(mark if node.fields is not None else node)
        return self._location(mark if key else node)

    def _location(self, node: _Node) -> Location:
        return Location(self.source, node.line, node.column)


def load_yaml(path: Path | str) -> Located:
    """Read a YAML file.

    Raises:
        ConfigError: the file cannot be read or is not valid; gives line and column of every fault.
    """
    path = Path(path)
    source = str(path)
    try:
        if not path.is_file():
            reason = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(Fault(f"{source} {reason}; expected a YAML file"))
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(Fault(f"cannot read {source}: {reason}")) from error
    except ValueError as error:  # a NUL in the name
        raise ConfigError(Fault(f"cannot read {source!r}: {error}")) from error
    if len(raw) > MAX_BYTES:
        limit = f"a configuration or recipe has at most {MAX_BYTES:,} bytes"
        raise ConfigError(Fault(f"the file is too large; {limit}", Location(source, 1, 1)))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        raise ConfigError(Fault(message, Location(source, line, column))) from error
    return parse_yaml(text, source)


def parse_yaml(text: str, source: str) -> Located:
    """Parse YAML text; `source` names it in messages.

    Raises:
        ConfigError: the text is not valid; gives line and column of every fault.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(Fault("the text is too large", Location(source, 1, 1)))
    if text.startswith("\ufeff"):
        message = "the file begins with a byte order mark; save it as UTF-8 without BOM"
        raise ConfigError(Fault(message, Location(source, 1, 1)))
    return _Parser(text, source).parse()


def resolve_scalar(text: str) -> Plain:
    """Return what unquoted text means: null, a boolean, a number, or itself.

    Raises:
        ValueError: the text is a number that is not finite, or too large for 64 bits.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"the number {shown} is too large")
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {shown} is too large")
        return value
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes text that `resolve_scalar` would not read as text, and writes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        style = '"' if _ambiguous(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)


def _ambiguous(text: str) -> bool:
    try:
        return not isinstance(resolve_scalar(text), str)
    except ValueError:
        return True


def dump_yaml(data: Mapping[str, Plain], *, block: bool = False) -> str:
    """Write a mapping so that `parse_yaml` reads the same values.

    Innermost collections are inline, or with `block` on lines of their own.
    """
    text: str = yaml.dump(
        dict(data),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False if block else None,
        allow_unicode=True,
        width=100,
    )
    return text


class _Parser:
    """Builds nodes from PyYAML's events; its constructors, tags and resolvers are never used."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._faults: list[Fault] = []
        self._anchors: dict[str, _Node | None] = {}
        self._aliases = 0
        self._values = 0

    def parse(self) -> Located:
        forbidden = _FORBIDDEN.search(self._text)
        if forbidden:
            before = self._text[: forbidden.start()]
            location = self._at(before.count("\n") + 1, len(before) - before.rfind("\n"))
            message = f"character {forbidden.group()!r} is not allowed in YAML"
            raise ConfigError(Fault(message, location))
        try:
            events = iter(yaml.parse(self._text, Loader=_Loader))
            root = self._document(events)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(self._syntax_fault(error)) from error
        if self._faults:
            raise ConfigError(self._faults)
        return Located(self._source, root)

    def _document(self, events: Events) -> _Node:
        next(events)  # stream start
        event = next(events)
        if isinstance(event, yaml.StreamEndEvent):
            raise ConfigError(
                Fault("the file is empty; expected a mapping of keys to values", self._at(1, 1))
            )
        root = self._node(next(events), events, depth=1)
        next(events)  # document end
        event = next(events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise ConfigError(Fault("expected one YAML document, got several", self._here(event)))
        if root.fields is None:
            got = "a list" if root.items is not None else f"{root.scalar!r}"
            if root.scalar is None and root.items is None:
                got = "nothing"
            message = f"expected a mapping of keys to values at the top of the file, got {got}"
            raise ConfigError([*self._faults, Fault(message, self._at(root.line, root.column))])
        return root

    def _node(self, event: Event, events: Events, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            message = f"nested more than {MAX_DEPTH} levels deep"
            raise ConfigError(Fault(message, self._here(event)))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if getattr(event, "tag", None) is not None:
            message = f"tags such as {event.tag!r} are not allowed; write plain values"
            self._fault(message, self._here(event))
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        self._count(1, event)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            fields = self._fields(events, depth)
            size = 1 + sum(value.size for _, value in fields.values())
            node = _Node(line, column, size, fields=fields)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(self._node(event, events, depth + 1))
            node = _Node(line, column, 1 + sum(i.size for i in items), items=tuple(items))
        else:
            node = _Node(line, column, 1, scalar=self._scalar(event))
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _fields(self, events: Events, depth: int) -> dict[str, tuple[_Node, _Node]]:
        fields: dict[str, tuple[_Node, _Node]] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            mark = event.start_mark
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError(Fault("a key must be plain text", self._here(event)))
            name: str = event.value
            key = _Node(mark.line + 1, mark.column + 1, 1, scalar=name)
            if name == "<<" and event.implicit[0]:
                self._fault("merge keys (<<) are not supported", self._here(event))
            value = self._node(next(events), events, depth + 1)
            if name in fields:
                first = fields[name][0].line
                message = f"duplicate key {name!r}, first given on line {first}; keep one"
                self._fault(message, self._here(event))
            else:
                fields[name] = (key, value)
        return fields

    def _alias(self, event: Event) -> _Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise ConfigError(Fault(f"more than {MAX_ALIASES} aliases", self._here(event)))
        node = self._anchors.get(event.anchor)
        if node is None:
            reason = "refers to itself" if event.anchor in self._anchors else "is not defined"
            raise ConfigError(Fault(f"alias *{event.anchor} {reason}", self._here(event)))
        self._count(node.size, event)
        return node

    def _count(self, values: int, event: Event) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values, aliases expanded"
            raise ConfigError(Fault(message, self._here(event)))

    def _scalar(self, event: Event) -> Plain:
        text: str = event.value
        if not event.implicit[0]:  # quoted
            return text
        try:
            return resolve_scalar(text)
        except ValueError as error:
            self._fault(str(error), self._here(event))
            return None

    def _fault(self, message: str, location: Location) -> None:
        self._faults.append(Fault(message, location))
        if len(self._faults) >= MAX_FAULTS:
            raise ConfigError(self._faults)

    def _syntax_fault(self, error: yaml.MarkedYAMLError) -> Fault:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return Fault(f"not YAML: {error.problem}", self._at(1, 1))
        line, column = mark.line + 1, mark.column + 1
        lines = self._text.splitlines()
        written = lines[mark.line] if mark.line < len(lines) else ""
        indent = written[: len(written) - len(written.lstrip())]
        if "\t" in indent or written[mark.column : mark.column + 1] == "\t":
            tab = written.index("\t") + 1
            return Fault("a tab; indent YAML with spaces", self._at(line, tab))
        problem = " ".join(p for p in (error.context, error.problem) if p)
        return Fault(f"not YAML: {problem}", self._at(line, column))

    def _at(self, line: int, column: int) -> Location:
        return Location(self._source, line, column)

    def _here(self, event: Event) -> Location:
        return self._at(event.start_mark.line + 1, event.start_mark.column + 1)
