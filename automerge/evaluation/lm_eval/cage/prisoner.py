"""Run a program, then use what it defines as the judge asks. Nothing here is trusted."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

from automerge.evaluation.lm_eval.cage.wire import EXCEPTIONS, Decoder, Encoder, Pipe

ABSENT = object()


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


DEEDS: dict[str, Callable[..., Any]] = {
    "call": _call,
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "item": operator.getitem,
    "put": operator.setitem,
    "len": len,
    "str": str,
    "repr": repr,
    "isinstance": isinstance,
}


class Back:
    """A function or iterator of the tests that was passed to the program."""

    def __init__(self, server: Server, number: int) -> None:
        self._server, self._number = server, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.ask("call", self._number, args, kwargs)

    def __iter__(self) -> Back:
        return self

    def __next__(self) -> Any:
        return self._server.ask("next", self._number, (), {})


class Server:
    """Answers the judge."""

    def __init__(self, pipe: Pipe, names: dict[str, Any]) -> None:
        self._pipe, self._names = pipe, names
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def serve(self) -> None:
        """Answer until the judge has gone."""
        while True:
            self._answer(self._pipe.receive())

    def _answer(self, asked: dict[str, Any]) -> None:
        known: dict[int, Any] = {}
        decoder = Decoder(known, self._resolve)
        args = [decoder.value(node) for node in asked["args"]]
        kwargs = {name: decoder.value(node) for name, node in asked["kwargs"].items()}
        encoder = Encoder(known, self._refer)
        given = list(known.items())
        answer: dict[str, Any]
        try:
            if asked["do"] == "name":
                found = self._names.get(args[0], ABSENT)
                answer = {} if found is ABSENT else {"value": encoder.value(found)}
            else:
                found = DEEDS[asked["do"]](*args, **kwargs)
                changed = [[number, encoder.content(value)] for number, value in given]
                answer = {"changed": changed, "value": encoder.value(found)}
        except BaseException as error:
            answer = self._raised(error)
        self._pipe.send(answer)

    def ask(self, do: str, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask the judge to call a function of the tests, or one of their iterators."""
        encoder = Encoder({}, self._refer)
        self._pipe.send(
            {
                "back": number,
                "do": do,
                "args": [encoder.value(value) for value in args],
                "kwargs": {name: encoder.value(value) for name, value in kwargs.items()},
            }
        )
        answer = self._pipe.receive()
        if "raised" in answer:
            raise EXCEPTIONS[answer["raised"]](*answer["args"])
        return Decoder({}, self._resolve).value(answer["value"])

    def _raised(self, error: BaseException) -> dict[str, Any]:
        args = [a if type(a) in (bool, int, float, str) else str(a) for a in error.args]
        name, own = _nearest(type(error))
        own_class = None if own else self._refer(type(error))
        return {"raised": name, "args": args, "class": own_class}

    def _refer(self, value: Any) -> list[Any]:
        if isinstance(value, Back):
            return ["back", value._number]
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        if isinstance(value, type) and issubclass(value, Exception):
            return ["r", number, "error", value.__name__, _nearest(value)[0]]
        kind = "class" if isinstance(value, type) else "function" if callable(value) else "object"
        return ["r", number, kind]

    def _resolve(self, node: list[Any]) -> Any:
        return self._objects[node[1]] if node[0] == "r" else Back(self, node[1])


def _nearest(kind: type[BaseException]) -> tuple[str, bool]:
    """Return the nearest built-in class of an exception, and whether it is the exception's own."""
    for base in kind.__mro__:
        if EXCEPTIONS.get(base.__name__) is base:
            return base.__name__, base is kind
    return kind.__name__, True


def run(program: str, pipe: Pipe) -> None:
    """Run the program under the names that code has in `exec`, then serve what it defines."""
    names: dict[str, Any] = {}
    try:
        exec(compile(program, "<program>", "exec"), names)
    except BaseException:
        os._exit(1)
    pipe.send({"ready": True})
    Server(pipe, names).serve()
