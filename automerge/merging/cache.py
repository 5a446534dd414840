"""Values that are computed once, kept within a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Cache:
    """Keeps values as far as they fit into `budget` bytes, the others until the next `release`."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._kept: dict[Hashable, Any] = {}
        self._passing: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; make it if it is not there."""
        for values in (self._kept, self._passing):
            if key in values:
                found: T = values[key]
                return found
        made = make()
        (self._kept if self.take(n_bytes(made)) else self._passing)[key] = made
        return made

    def take(self, size: int) -> bool:
        """Take bytes from the budget; return whether there were enough."""
        fits = size <= self.budget
        self.budget -= size if fits else 0
        return fits

    def release(self) -> None:
        """Forget the values that there was no room for."""
        self._passing = {}


def n_bytes(value: object) -> int:
    """Count the bytes of a tensor, of tensors in a tuple, or of those in an object's fields."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
    return sum(map(n_bytes, parts))
