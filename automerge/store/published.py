"""`reproduce.json`: everything needed to make a published merge again, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from automerge.errors import ConfigError
from automerge.recipe import Recipe
from automerge.store.record import StudyModel
from automerge.store.result import Versions
from automerge.store.schema import Name, Short, StoredModel, StoredRecipe, StoredWeights, misfit
from automerge.trial import Weights

FILE = "reproduce.json"
VERSION = 1
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Published:
    """A published merge.

    Attributes:
        name: its trial's name.
        recipe: how it is merged.
        models: what it is made of: hub ids with commits, noise, or models named by their digest.
        weights: the weights that were scored on test items; None if they are not known.
        arithmetic: how the machine that scored them rounds; "" if it is not known.
        versions: of the packages that scored it.
    """

    name: str
    recipe: Recipe
    models: tuple[StudyModel, ...]
    weights: Weights | None
    arithmetic: str
    versions: Versions

    def text(self) -> str:
        """Return the file's content."""
        weights = None
        if self.weights is not None:
            weights = {**asdict(self.weights), "arithmetic": self.arithmetic}
        plain = {
            "reproduce": VERSION,
            "name": self.name,
            "recipe": self.recipe.plain(),
            "models": [asdict(model) for model in self.models],
            "weights": weights,
            "versions": dict(self.versions),
        }
        return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    reproduce: Literal[1]
    name: Name
    recipe: StoredRecipe
    models: Annotated[list[StoredModel], Field(min_length=1, max_length=1000)]
    weights: StoredWeights | None
    versions: dict[Short, Short]


_SCHEMA: TypeAdapter[Any] = TypeAdapter(_Stored)


def read_published(path: Path) -> Published:
    """Read a `reproduce.json`, which anyone may have written.

    Raises:
        ConfigError: it cannot be read, or is not one; says where.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; expected a {FILE}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not text; expected a {FILE}") from error
    if (problem := misfit(_SCHEMA, text)) is not None:
        raise ConfigError(f"{path}: not a {FILE} of version {VERSION}: {problem}")
    plain: Mapping[str, Any] = json.loads(text)
    weights = plain["weights"]
    return Published(
        plain["name"],
        Recipe.from_plain(plain["recipe"]),
        tuple(StudyModel(**model) for model in plain["models"]),
        None if weights is None else Weights(weights["digest"], tuple(weights["without"])),
        "" if weights is None else weights["arithmetic"],
        plain["versions"],
    )
