"""Small models, and recipes of them with knobs that do something, for any method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from automerge.checkpoints import MemoryCheckpoint, Stored, TensorInfo
from automerge.evidence import (
    BASE_GRADIENT,
    GRADIENT,
    INPUT_GRAM,
    SQUARED_MASK_GRADIENT,
    MemoryEvidence,
)
from automerge.merging.plan import Step
from automerge.merging.tensor import merge_tensor
from automerge.merging.workspace import Workspace
from automerge.methods import Knob, Method
from automerge.recipe import Place, Profile, Recipe, RecipeSource

NAME = "model.layers.0.mlp.up_proj.weight"
PLACE = Place(NAME, "mlp", 0.0)
VALUES: Mapping[str, tuple[float, ...]] = {
    "weight": (0.7, -0.3, 0.9, 0.4),
    "density": (0.5, 0.31, 0.8, 1.0),
    "trim_density": (0.4, 0.2, 0.6, 0.9),
    "lambda": (0.8,),
    "t": (0.3,),
    "epsilon": (0.2, 0.1, 0.3, 0.15),
    "gamma": (0.1, 0.2, 0.03, 0.0),
    "select_topk": (0.6,),
    "r": (0.4,),
    "alpha": (0.3,),
    "scale": (0.7,),
    "max_iter": (100.0,),
    "tol": (1e-9,),
    "mask_lambda": (0.3, 0.5, 0.4, 0.6),
    "ratio": (0.3,),
    "above_average": (0.8,),
    "calibration": (1.2,),
    "common": (0.5,),
    "rank": (0.5,),
    "off_diagonal": (0.8,),
    "floor": (0.5,),
    "salience": (0.6,),
    "iterations": (3.0,),
    "eta": (0.4, 0.6, 0.7, 0.5),
}
"""By knob, a value for each source; knobs of other names get their defaults."""
SWITCHES: Mapping[str, bool] = {"whole_model": False}
"""By knob, the only value tried here: a model of one tensor does not tell the two apart."""


def count(method: Method) -> int:
    return min(method.max_sources or 3, max(3, method.min_sources))


def weighted(method: Method) -> bool:
    """Return whether sources have weights."""
    return any(knob.name == "weight" for knob in method.source_knobs)


def scalable(method: Method) -> bool:
    """Return whether a λ scales what is added to a base."""
    return method.anchored and any(knob.name == "lambda" for knob in method.recipe_knobs)


def switchable(method: Method) -> bool:
    """Return whether neutral knobs leave one model: some anchored methods only have λ for that."""
    return weighted(method) or not method.anchored


def tensors(
    n: int, shape: tuple[int, ...] = (7, 5), dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Return a base and sources whose task vectors have something in common, as fine-tunes do."""
    generator = torch.Generator().manual_seed(8)
    base, common = (torch.randn(shape, generator=generator) for _ in range(2))
    return [base.to(dtype)] + [
        (base + 0.5 * common + torch.randn(shape, generator=generator)).to(dtype) for _ in range(n)
    ]


def value(knob: Knob, i: int) -> Profile:
    """Return a value that does something, for the i-th source; the default if VALUES lacks it.

    A knob of a transform may be called after it: `dare_density`.
    """
    endings = (known for known in VALUES if knob.name.endswith(f"_{known}"))
    name = knob.name if knob.name in VALUES else max(endings, key=len, default=knob.name)
    chosen = VALUES[name][i] if name in VALUES else float(knob.default)
    return Profile.of(chosen if knob.domain[0] <= chosen else -chosen)


def neutral(knob: Knob) -> Profile:
    """Return the value that does nothing; the default of a tolerance."""
    return Profile.of(float(knob.default if knob.neutral is None else knob.neutral))


def recipe(method: Method, switch: bool = True, **changes: Any) -> Recipe:
    names = [f"m{i}" for i in range(count(method))]
    knobs = {
        k.name: value(k, 0) if k.kind == "float" else SWITCHES.get(k.name, switch)
        for k in method.recipe_knobs
    }
    sources = tuple(
        RecipeSource(n, {k.name: value(k, i) for k in method.source_knobs})
        for i, n in enumerate(names)
    )
    evidence = {kind: {name: f"{kind} {name}" for name in names} for kind in method.needs}
    base = "base" if method.anchored else None
    made = Recipe(method.name, sources, base, knobs, evidence=evidence)
    return replace(made, **changes)


def evidence(recipe: Recipe, like: Tensor) -> dict[str, MemoryEvidence]:
    """Return different evidence of each kind per source, by the digest that the recipe names."""
    made = {}
    for kind, digests in recipe.evidence.items():
        for seed, digest in enumerate(digests.values()):
            generator = torch.Generator().manual_seed(seed)
            if kind == INPUT_GRAM.name:
                inputs = torch.randn((64, like.shape[-1] if like.ndim else 1), generator=generator)
                found = (inputs.T @ inputs) / len(inputs)
            else:
                rows = (*like.shape[:1], *(1 for _ in like.shape[1:]))
                shape = rows if kind == SQUARED_MASK_GRADIENT.name else like.shape
                found = torch.randn(shape, generator=generator)
                signed = kind in (BASE_GRADIENT.name, GRADIENT.name)
                found = found if signed else found.square()
            made[digest] = MemoryEvidence(kind, digest, {NAME: found})
    return made


def step(method: Method, recipe: Recipe, like: Tensor) -> Step:
    """Return how a recipe by the method, which need not be in a table, makes the only tensor."""
    names = [source.name for source in recipe.sources]
    dtype = recipe.dtype or str(like.dtype).removeprefix("torch.")
    return Step(
        place=PLACE,
        info=TensorInfo(tuple(like.shape), dtype),
        reference=Stored(recipe.base or names[0], NAME),
        method=method,
        base=Stored(recipe.base, NAME) if method.anchored and recipe.base else None,
        sources=tuple(Stored(name, NAME) for name in names),
        values=method.values(recipe, PLACE),
        seed=recipe.seed,
        evidence={
            kind: tuple(recipe.evidence[kind][name] for name in names) for kind in method.needs
        },
    )


def workspace(recipe: Recipe, base: Tensor, *sources: Tensor) -> Workspace:
    """Return models of one tensor each, and the evidence that the recipe names."""
    named = {"base": base} | {f"m{i}": source for i, source in enumerate(sources)}
    models = {name: MemoryCheckpoint({NAME: tensor}) for name, tensor in named.items()}
    return Workspace(models, evidence=evidence(recipe, base))


def merge(method: Method, recipe: Recipe, base: Tensor, *sources: Tensor) -> Tensor:
    """Merge the models; raises InvalidMerge."""
    return merge_tensor(step(method, recipe, base), workspace(recipe, base, *sources))
