"""A recipe resolved to what happens to each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from automerge.checkpoints import Checkpoint, TensorInfo, places, tensor_faults
from automerge.errors import ConfigError, Fault, PreflightError, nearest
from automerge.methods import METHODS, Method, Values, check_recipe
from automerge.recipe import Place, Recipe


@dataclass(frozen=True)
class Step:
    """How one tensor is made, and the shape and dtype it is stored in.

    `method` is None for a tensor that is copied from the reference model.
    """

    tensor: str
    info: TensorInfo
    reference: str
    method: Method | None
    base: str | None
    sources: tuple[str, ...]
    values: Values
    seed: int

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for two steps of a tensor exactly when the result is."""
        if self.method is None:
            return (self.reference,)
        seed = self.seed if self.method.seeded else None
        name, dtype = self.method.name, self.info.dtype
        return (name, self.base, self.sources, self.values.key, seed, dtype)


class Planner:
    """Resolves recipes over named checkpoints; remembers where tensors lie."""

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], methods: Mapping[str, Method] = METHODS
    ) -> None:
        self._checkpoints = checkpoints
        self._methods = methods
        self._places: dict[str, dict[str, Place]] = {}
        self._compatible: dict[tuple[str, str], list[str]] = {}

    def reference(self, recipe: Recipe) -> str:
        """The model whose configuration, tokenizer, dtype and integer tensors the result has."""
        return recipe.base if recipe.base is not None else recipe.sources[0].name

    def plan(self, recipe: Recipe) -> list[Step]:
        """List the steps in the order of the reference model's tensors.

        Raises ConfigError for a recipe no method takes, PreflightError for models that differ.
        """
        self._check(recipe)
        method = self._methods[recipe.method]
        reference = self.reference(recipe)
        tensors = self._checkpoints[reference].tensors
        if reference not in self._places:
            self._places[reference] = places(tensors)
        sources = tuple(source.name for source in recipe.sources)
        return [
            Step(
                tensor=name,
                info=TensorInfo(info.shape, recipe.dtype or info.dtype) if info.mergeable else info,
                reference=reference,
                method=method if info.mergeable else None,
                base=recipe.base if method.anchored else None,
                sources=sources,
                values=method.values(recipe, self._places[reference][name]),
                seed=recipe.seed,
            )
            for name, info in tensors.items()
        ]

    def _check(self, recipe: Recipe) -> None:
        known = tuple(self._checkpoints)
        problems = check_recipe(recipe, self._methods)
        problems += [
            f"unknown model {model!r}{nearest(model, known)}"
            for model in recipe.models
            if model not in self._checkpoints
        ]
        if problems:
            raise ConfigError(Fault(problem) for problem in problems)
        reference = self.reference(recipe)
        faults = [
            f"{model}, compared with {reference}: {fault}"
            for model in recipe.models
            for fault in self._differences(reference, model)
        ]
        if faults:
            raise PreflightError(Fault(fault) for fault in faults)

    def _differences(self, reference: str, model: str) -> list[str]:
        pair = (reference, model)
        if pair not in self._compatible:
            ours, theirs = self._checkpoints[reference], self._checkpoints[model]
            self._compatible[pair] = tensor_faults(ours, theirs)
        return self._compatible[pair]
