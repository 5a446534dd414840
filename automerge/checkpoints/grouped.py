"""The tensors and the configuration of a mixture of experts whose experts are made fewer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from automerge.checkpoints.compatibility import complete
from automerge.checkpoints.mixed import PER_TOKEN, form_of, settings_of
from automerge.checkpoints.reader import Checkpoint
from automerge.errors import PreflightError
from automerge.expert_groups import ExpertGroups
from automerge.recipe import Recipe


@dataclass(frozen=True)
class Layout:
    """How mixtures of one architecture name their experts.

    Of an expert's matrices, `inner` have a row per hidden unit, and `outer` a column.
    """

    inner: tuple[str, str] = ("gate_proj", "up_proj")
    outer: str = "down_proj"


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "mixtral": Layout(("w1", "w3"), "w2"),
        "olmoe": Layout(),
        "qwen2_moe": Layout(),
        "qwen3_moe": Layout(),
    }
)
"""By `model_type`. Their routers take the experts with the largest of a softmax over all, and have
no other tensors than a row per expert."""
_COUNTS = ("num_experts", "num_local_experts")
"""The settings that say how many experts a layer has; some architectures read either."""
_EXPERT = re.compile(r"(.*\blayers\.\d+\.\w+)\.experts\.(\d+)\.(\w+)\.weight")
_ROUTER = re.compile(r"(.*\blayers\.\d+\.\w+)\.gate\.weight")


class Part(NamedTuple):
    """What a tensor is to the block of experts that it belongs to.

    `expert` is the number of the expert, and `matrix` the name of its matrix; None of the router.
    """

    block: str
    expert: int | None = None
    matrix: str = ""

    def sibling(self, expert: int, matrix: str) -> str:
        """Return the name of a matrix of one of the block's experts."""
        return f"{self.block}.experts.{expert}.{matrix}.weight"

    @property
    def router(self) -> str:
        """The name of the block's router."""
        return f"{self.block}.gate.weight"


def layout_of(base: Checkpoint) -> Layout:
    """Return how a mixture names its experts.

    Raises:
        PreflightError: it is none, or one whose experts cannot be merged.
    """
    kind = base.config.get("model_type")
    if kind not in LAYOUTS:
        raise PreflightError(
            f"{base.path}: experts are merged of {', '.join(LAYOUTS)} models; got {kind}"
        )
    return LAYOUTS[str(kind)]


def expert_parts(names: Iterable[str]) -> dict[str, Part]:
    """Return which tensors belong to which blocks of experts, by name; shared experts do not."""
    found = {name: match for name in names if (match := _EXPERT.fullmatch(name))}
    parts = {name: Part(match[1], int(match[2]), match[3]) for name, match in found.items()}
    blocks = {part.block for part in parts.values()}
    routers = {name: match for name in names if (match := _ROUTER.fullmatch(name))}
    return parts | {n: Part(match[1]) for n, match in routers.items() if match[1] in blocks}


def grouped_settings(groups: ExpertGroups, base: Checkpoint) -> dict[str, int]:
    """Return what the configuration of a mixture says once its experts are fewer.

    Raises:
        PreflightError: the base is no such mixture, or has fewer experts.
    """
    layout_of(base)
    config = complete(base)
    n_experts = int(next(config[key] for key in _COUNTS if key in config))
    if groups.count > n_experts:
        raise PreflightError(
            f"experts.count: expected a number from 1 to {n_experts}, that of the experts in each "
            f"layer of {base.path}; got {groups.count}"
        )
    per_token = groups.per_token or min(int(config[PER_TOKEN]), groups.count)
    return {**dict.fromkeys(_count_keys(base), groups.count), PER_TOKEN: per_token}


def _count_keys(base: Checkpoint) -> list[str]:
    """Return the settings by which a mixture's own configuration says how many experts it has."""
    said = [key for key in _COUNTS if key in base.config]
    return said or [key for key in _COUNTS if key in complete(base)]


def expert_settings(recipe: Recipe, base: Checkpoint) -> dict[str, Any]:
    """Return what the configuration of a recipe's result says of experts otherwise than the base's.

    Raises:
        PreflightError: the base cannot have such experts.
    """
    if recipe.mixture is not None:
        return settings_of(recipe.mixture, base)
    return {} if recipe.experts is None else dict(grouped_settings(recipe.experts, base))


def count_key(recipe: Recipe, base: Checkpoint) -> str:
    """Return the setting that says how many experts the layers of a recipe's result have."""
    return _count_keys(base)[0] if recipe.mixture is None else form_of(base).count
