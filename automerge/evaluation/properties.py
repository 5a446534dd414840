"""Properties of the merged model itself, as an evaluator without items."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from automerge.evaluation.base import Entry, Live, Scored, Settings
from automerge.evaluation.split import Split
from automerge.objective import MODEL_ITEM, ItemScores, model_property
from automerge.trial import Items, Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""How configurations name the number of a layer's experts."""


def active_parameters(model: PreTrainedModel) -> float:
    """Return how many parameters a token passes: of a mixture's experts, those chosen for it."""
    config = model.config.get_text_config()
    chosen = getattr(config, "num_experts_per_tok", None)
    counts = (getattr(config, key, None) for key in COUNTS)
    count = next((count for count in counts if count), None)
    total = float(model.num_parameters())
    if not chosen or not count:
        return total
    experts: int = sum(
        parameter.numel()
        for name, module in model.named_modules()
        if name.endswith(".experts")
        for parameter in module.parameters()
    )
    return total - experts * (1 - float(chosen / count))


MEASURES: Mapping[str, Callable[[Live], float]] = MappingProxyType(
    {
        "distance_to_base": lambda live: live.distance_to_base(),
        "parameters": lambda live: live.model.num_parameters(),
        "active_parameters": lambda live: active_parameters(live.model),
    }
)
"""How each of `objective.PROPERTIES` is measured."""


class Properties:
    """Measures what does not need a task."""

    def __init__(self, entries: Sequence[Entry], settings: Settings) -> None:
        del settings
        self._names = tuple(entry.name for entry in entries)

    def keep(self, run: Path) -> None:
        """Copy nothing."""

    def open(self, run: Path) -> PropertyTasks:
        """Return the properties as objectives."""
        del run
        return PropertyTasks(self._names)


class PropertyTasks:
    """Objectives without documents."""

    members: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    parts: Mapping[str, tuple[Part, ...]] = MappingProxyType({})

    def __init__(self, names: Sequence[str]) -> None:
        self.objectives = tuple(map(model_property, names))

    def documents(self) -> dict[str, Sequence[object]]:
        return {}

    def digests(self) -> dict[str, str]:
        return {}

    def warnings(self, split: Split) -> list[str]:
        del split
        return []

    def commands(self, model: Path, samples: Path, dtype: str) -> list[list[str]]:
        del model, samples, dtype
        return []

    def attach(self, live: Live) -> PropertyScorer:
        return PropertyScorer(live, tuple(objective.name for objective in self.objectives))


class PropertyScorer:
    """Measures a live model's properties, whatever the items."""

    def __init__(self, live: Live, names: Sequence[str]) -> None:
        self._live, self._names = live, tuple(names)

    def score(self, items: Items) -> Scored:
        """Return one number per property, as the score of the one item that is the model."""
        del items
        began = time.perf_counter()
        scores = {
            name: ItemScores((MODEL_ITEM,), (float(MEASURES[name](self._live)),))
            for name in self._names
        }
        return Scored(scores, score_s=time.perf_counter() - began)
