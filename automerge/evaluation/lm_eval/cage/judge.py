"""Run tests against a program that is in another process, and compare everything here."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import Any

from automerge.evaluation.lm_eval.cage.wire import (
    EXCEPTIONS,
    Broken,
    Decoder,
    Encoder,
    Foreign,
    Pipe,
)

PASSED, FAILED, FOREIGN = "passed", "failed", "foreign"
OF_PLAIN_VALUES = {
    name
    for kind in (str, bytes, list, tuple, dict, set, int, float)
    for name in dir(kind)
    if not name.startswith("_")
}
"""Methods that a test expects of a plain value: a stranger's would be told what is right."""


class Remote:
    """Something in the program that is not a plain value: a function, a class, an object.

    It can be called, read, iterated over and passed back. It is equal only to itself: the program
    is never asked about equality.
    """

    __slots__ = ("_asker", "_constructed", "_kind", "_number")

    def __init__(self, asker: Asker, number: int, kind: str) -> None:
        for name, value in zip(
            ("_asker", "_number", "_kind", "_constructed"),
            (asker, number, kind, False),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._own(self._asker.ask("call", self, *args, **kwargs), self._kind == "class")

    def __getattr__(self, name: str) -> Any:
        hidden = name.startswith("__") and name != "__name__"
        if hidden or (name in OF_PLAIN_VALUES and not self._constructed and self._kind != "class"):
            raise AttributeError(name)
        return self._own(self._asker.ask("get", self, name), self._constructed)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asker.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._asker.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._asker.ask("put", self, key, value)

    def __len__(self) -> int:
        found = self._asker.ask("len", self)
        if type(found) is not int:
            raise TypeError("a length that is not an integer")
        return found

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        found = self._asker.ask("iter", self)
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self) -> Any:
        return self._asker.ask("next", self)

    def __str__(self) -> str:
        return _text(self._asker.ask("str", self))

    def __repr__(self) -> str:
        return _text(self._asker.ask("repr", self))

    def __instancecheck__(self, instance: Any) -> bool:
        if not isinstance(instance, Remote):
            return False
        return self._asker.ask("isinstance", instance, self) is True

    def _own(self, found: Any, constructed: bool) -> Any:
        if constructed and isinstance(found, Remote):
            object.__setattr__(found, "_constructed", True)
        return found


def _text(found: Any) -> str:
    if type(found) is not str:
        raise TypeError("a text that is not a string")
    return found


class Asker:
    """Asks the prisoner; `fault` says what makes a verdict impossible, if anything does."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._remotes: dict[int, Any] = {}
        self._handed: list[Any] = []
        self.fault: BaseException | None = None

    def ask(self, do: str, *args: Any, **kwargs: Any) -> Any:
        """Return the prisoner's answer; raise what the program raised."""
        if isinstance(self.fault, Broken):
            raise self.fault
        known: dict[int, Any] = {}
        encoder = Encoder(known, self._refer)
        try:
            self._pipe.send(
                {
                    "do": do,
                    "args": [encoder.value(value) for value in args],
                    "kwargs": {name: encoder.value(value) for name, value in kwargs.items()},
                }
            )
            answer = self._receive()
            decoder = Decoder(known, self._resolve)
            if "raised" in answer:
                raise self._error(answer, decoder)
            self._refill(answer, decoder)
            if "value" in answer:
                return decoder.value(answer["value"])
            if do == "name":
                raise KeyError(args[0])
            raise Broken("an answer without a value")
        except (Broken, Foreign) as fault:
            self.fault = fault
            raise

    def _receive(self) -> dict[str, Any]:
        while True:
            answer = self._pipe.receive()
            if not isinstance(answer, dict):
                raise Broken("not a message")
            if "back" not in answer:
                return answer
            self._pipe.send(self._call_back(answer))

    def _call_back(self, asked: dict[str, Any]) -> dict[str, Any]:
        decoder, encoder = Decoder({}, self._resolve), Encoder({}, self._refer)
        try:
            target = self._handed[asked["back"]]
            args = [decoder.value(node) for node in asked["args"]]
            kwargs = {name: decoder.value(node) for name, node in asked["kwargs"].items()}
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise Broken(str(error)) from None
        try:
            found = next(target) if asked.get("do") == "next" else target(*args, **kwargs)
            return {"value": encoder.value(found)}
        except Exception as error:
            name = next(b.__name__ for b in type(error).__mro__ if b.__name__ in EXCEPTIONS)
            return {"raised": name, "args": [str(a) for a in error.args]}

    def _refill(self, answer: dict[str, Any], decoder: Decoder) -> None:
        try:
            for number, node in answer.get("changed", ()):
                decoder.refill(number, node)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise Broken(str(error)) from None

    def _error(self, answer: dict[str, Any], decoder: Decoder) -> Exception:
        own, args = answer.get("class"), answer.get("args")
        kind = EXCEPTIONS.get(str(answer["raised"])) if own is None else decoder.value(own)
        if not (isinstance(kind, type) and issubclass(kind, Exception) and isinstance(args, list)):
            raise Broken("the program ended")
        try:
            return kind(*map(decoder.value, args))
        except TypeError:  # one that takes more, such as UnicodeDecodeError
            return kind.__new__(kind)

    def _refer(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["r", value._number]
        for number, known in self._remotes.items():
            if known is value:
                return ["r", number]
        if not callable(value) and not hasattr(value, "__next__"):
            if not isinstance(value, type({}.values())):
                raise Foreign(f"the tests hand over an object of class {type(value).__name__}")
            value = iter(value)
        self._handed.append(value)
        return ["back", len(self._handed) - 1]

    def _resolve(self, node: list[Any]) -> Any:
        if node[0] == "back":
            return self._handed[node[1]]
        tag, number, kind, *rest = node
        if tag != "r" or type(number) is not int:
            raise ValueError(tag)
        if number not in self._remotes:
            made: Any = Remote(self, number, kind)
            if kind == "error":
                made = type(str(rest[0]), (EXCEPTIONS[rest[1]],), {})
            self._remotes[number] = made
        return self._remotes[number]


class Names(dict[str, Any]):
    """The names of the tests: their own, then the program's, then Python's.

    A name of Python's own keeps its meaning, whatever the program calls its functions, unless it
    is `tested`: `sorted` in `assert sorted(f(x)) == [1]` is the judge's.
    """

    def __init__(self, asker: Asker) -> None:
        super().__init__()
        self._asker = asker
        self.tested: str | None = None

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or (hasattr(builtins, name) and name != self.tested):
            raise KeyError(name)
        return self._asker.ask("name", name)


def builtins_tested(tests: ast.Module) -> list[str]:
    """Return names of Python's own that the functions under test may have, likeliest first.

    There are none if the tests use a name that is neither theirs nor Python's.
    """
    loaded: list[str] = []
    bound: set[str] = set()
    for node in ast.walk(tests):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            loaded.append(node.id)
        elif isinstance(node, ast.Name):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    free = [name for name in loaded if name not in bound]
    return free if all(hasattr(builtins, name) for name in free) else []


def verdict(tests: str, pipe: Pipe) -> str:
    """Return PASSED if the tests run to their end, else FAILED, or FOREIGN and why they cannot."""
    asker = Asker(pipe)
    names = Names(asker)
    try:
        if pipe.receive() != {"ready": True}:
            return FAILED
        tree = ast.parse(tests, "<tests>")
        for name in builtins_tested(tree):
            try:
                asker.ask("name", name)
            except KeyError:
                continue
            names.tested = name
            break
        exec(compile(tree, "<tests>", "exec"), names)
    except BaseException:
        if isinstance(asker.fault, Foreign):
            return f"{FOREIGN}: {asker.fault}"
        return FAILED
    return PASSED if asker.fault is None else FAILED
