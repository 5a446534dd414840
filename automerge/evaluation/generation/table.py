"""The generators, by the names that `evaluation.generator` uses; each imports late."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from automerge.evaluation.generation.base import Generator, GeneratorFactory
from automerge.extensions import Table

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM

AUTO, CONTINUOUS, STATIC, VLLM = "auto", "continuous", "static", "vllm"


def _auto(lm: HFLM, cache_bytes: int | None) -> Generator:
    from automerge.evaluation.generation.auto import AutoGenerator

    return AutoGenerator(lm, cache_bytes)


def _continuous(lm: HFLM, cache_bytes: int | None) -> Generator:
    from automerge.evaluation.generation.continuous import ContinuousGenerator

    return ContinuousGenerator(lm, cache_bytes)


def _static(lm: HFLM, cache_bytes: int | None) -> Generator:
    from automerge.evaluation.generation.static import StaticGenerator

    return StaticGenerator(lm, cache_bytes)


def _vllm(lm: HFLM, cache_bytes: int | None) -> Generator:
    from automerge.evaluation.generation.vllm.generator import VllmGenerator

    return VllmGenerator(lm, cache_bytes)


def _admit(name: str, found: object) -> GeneratorFactory:
    """Accept a generator's class or factory from outside; raise TypeError for other things."""
    del name
    if not callable(found):
        raise TypeError(
            f"expected a class or function of (lm, cache_bytes), got {type(found).__name__}"
        )
    return cast(GeneratorFactory, found)


GENERATORS: Table[GeneratorFactory] = Table(
    "generator",
    {AUTO: _auto, CONTINUOUS: _continuous, STATIC: _static, VLLM: _vllm},
    "automerge.generators",
    _admit,
)
