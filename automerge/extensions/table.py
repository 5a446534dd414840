"""Named entries of one kind: ours, those of installed packages, and `module:name` for any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from automerge.errors import nearest
from automerge.extensions.modules import attribute, missing

T = TypeVar("T")


class Table(Mapping[str, T], Generic[T]):
    """Entries by name.

    A name is one of `own`, one of an entry point in `group` (from a package that the user
    installed), or `module:name` for a module that the user named as an extension. Iteration covers
    our names and those of entry points.

    Args:
        noun: what an entry is called in messages.
        own: our entries.
        group: the name of the entry point group.
        admit: takes a name and an object from outside, and returns an entry or raises TypeError
            saying what it expected.
        derive: takes a name and a look-up of other entries, and returns an entry made of them, the
            same for the same ones, or None where the name is a plain one.
    """

    def __init__(
        self,
        noun: str,
        own: Mapping[str, T],
        group: str,
        admit: Callable[[str, object], T],
        derive: Callable[[str, Callable[[str], T]], T | None] = lambda name, look_up: None,
    ) -> None:
        self.noun = noun
        self.own = dict(own)
        self._group = group
        self._admit = admit
        self._derive = derive
        self._admitted: dict[tuple[str, int], T] = {}

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        found = entry_points(group=self._group)
        return {point.name: point for point in found if point.name not in self.own}

    def __getitem__(self, name: str) -> T:
        """Return an entry.

        Raises:
            KeyError: there is no entry of this name.
            TypeError: the object of this name is not of this table's kind.
        """
        if name in self.own:
            return self.own[name]
        if (derived := self._derive(name, self.__getitem__)) is not None:
            return derived
        outside = attribute(name) if ":" in name else self._points[name].load()
        # By identity too: a module that is read again has new objects under the same names.
        key = name, id(outside)
        if key not in self._admitted:
            self._admitted[key] = self._admit(name, outside)
        return self._admitted[key]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.problem(name) is None

    def __iter__(self) -> Iterator[str]:
        return iter((*self.own, *self._points))

    def __len__(self) -> int:
        return len(self.own) + len(self._points)

    def problem(self, name: str) -> str | None:
        """Describe why there is no entry of a name; None if there is one."""
        try:
            self[name]
        except KeyError:
            if ":" in name:
                return f"{self.noun} {name!r}: {missing(name)}"
            return f"unknown {self.noun} {name!r}{nearest(name, tuple(self))}"
        except TypeError as error:
            return f"{self.noun} {name!r}: {error}"
        except Exception as error:
            return f"{self.noun} {name!r} cannot be loaded: {type(error).__name__}: {error}"
        return None
