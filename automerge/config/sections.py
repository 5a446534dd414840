"""The smaller sections of a study's configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from automerge.config.section import Section, entry_of, refuse, unsafe
from automerge.evaluation.base import BATCH_SIZE
from automerge.evaluation.generation.table import AUTO, GENERATORS
from automerge.evaluation.split import SHARES
from automerge.machine.devices import device_fault
from automerge.recipe import Recipe


class NamedRecipe(Section):
    """A recipe measured before the search, under the study's model names."""

    name: str = unsafe(min_length=1)
    plain: dict[str, Any] = unsafe()

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_plain(self.plain)


class Evaluation(Section):
    """How candidates are scored."""

    batch_size: Literal["auto"] | int = unsafe(BATCH_SIZE)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = unsafe("auto")
    device: Literal["auto", "cpu", "cuda"] = unsafe("auto")
    items_per_candidate: Literal["full"] | int = unsafe(200)
    max_length: int | None = unsafe(None, ge=8, le=10_000_000)
    generator: Annotated[str, entry_of(GENERATORS)] = unsafe(AUTO)

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, value: object) -> object:
        if (problem := device_fault(value)) is not None:
            refuse([((), problem)])
        return value

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65536:
            return value
        if isinstance(value, str) and value.startswith("auto:"):
            problem = (
                "lm-eval's auto:N tries sizes N times; here memory is planned once: write auto"
            )
            refuse([((), problem)])
        if value != "auto":
            shown = json.dumps(value, default=str)
            refuse([((), f"expected auto, or a whole number from 1 to 65536, got {shown}")])
        return value

    @field_validator("items_per_candidate", mode="before")
    @classmethod
    def _items(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 8 <= value <= 10**7:
            return value
        if value != "full":
            shown = json.dumps(value)
            refuse([((), f"expected full, or a whole number from 8 to 10000000, got {shown}")])
        return value


class EvidenceText(Section):
    """The text on which evidence is gathered, for methods that need it: for all, or per source."""

    text: str | dict[str, str] = unsafe(min_length=1)
    tokens: int = unsafe(65_536, ge=1, le=10**9)
    length: int = unsafe(512, ge=1, le=10**6)

    @property
    def texts(self) -> dict[str | None, Path]:
        """The texts by source; None for all sources that are not named."""
        if isinstance(self.text, str):
            return {None: Path(self.text)}
        return {name: Path(path) for name, path in self.text.items()}

    def named_by(self, name_of: Callable[[str], str]) -> str | dict[str, str]:
        """Return the texts under other names of their files."""
        if isinstance(self.text, str):
            return name_of(self.text)
        return {source: name_of(path) for source, path in self.text.items()}


class Group(Section):
    """An objective over several tasks: their mean, or the worst of them.

    With `relative`, each task's value is divided by that of the source that is best at it.
    """

    name: str = unsafe(min_length=1, max_length=200)
    mean: tuple[str, ...] = unsafe(())
    worst: tuple[str, ...] = unsafe(())
    relative: bool = unsafe(False)

    @model_validator(mode="after")
    def _one_kind(self) -> Group:
        given = self.mean or self.worst
        if bool(self.mean) == bool(self.worst):
            refuse([((), "a group has either `mean` or `worst`, a list of tasks")])
        if len(set(given)) < 2:
            refuse([(("mean" if self.mean else "worst",), "a group needs two tasks or more")])
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the tasks' objectives."""
        return tuple(dict.fromkeys(self.mean or self.worst))


class Split(Section):
    """The shares of each task's items for search, selection and the sealed test."""

    search: float = unsafe(SHARES["search"], gt=0, lt=1)
    select: float = unsafe(SHARES["select"], gt=0, lt=1)
    test: float = unsafe(SHARES["test"], gt=0, lt=1)
    max_select: int | None = unsafe(None, ge=8)
    max_test: int | None = unsafe(None, ge=8)

    @model_validator(mode="after")
    def _sum(self) -> Split:
        total = self.search + self.select + self.test
        if abs(total - 1) > 1e-9:
            refuse([((), f"search, select and test must add up to 1; they add up to {total:g}")])
        return self
