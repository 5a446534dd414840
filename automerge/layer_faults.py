"""What is wrong with the layers of a recipe: its slices, its mixture of experts, its experts."""

from __future__ import annotations

from typing import TypeAlias

from automerge import expert_groups, mixture
from automerge.errors import nearest
from automerge.recipe import Recipe

PlainPath: TypeAlias = tuple[str | int, ...]
"""Where something is in `Recipe.plain`."""


def slice_faults(recipe: Recipe) -> list[tuple[PlainPath, str]]:
    """List what is wrong with the layers of slices, and where."""
    faults: list[tuple[PlainPath, str]] = []
    names = [source.name for source in recipe.sources]
    for i, piece in enumerate(recipe.slices):
        here: PlainPath = ("slices", i)
        if not piece.layers:
            faults.append((here, "expected `layers`, a mapping of model names to ranges"))
        if piece.input_scale <= 0:
            problem = f"expected a number above 0, got {piece.input_scale:g}"
            faults.append(((*here, "input_scale"), f"input_scale: {problem}"))
        for model, (start, stop) in piece.layers.items():
            at = (*here, "layers", model)
            if model not in recipe.models:
                faults.append((at, f"unknown model {model!r}{nearest(model, recipe.models)}"))
            if not 0 <= start < stop:
                wanted = "the first layer, counted from 0, and the one past the last"
                faults.append((at, f"expected {wanted}, got [{start}, {stop}]"))
            elif stop - start != piece.n_layers:
                most = f"{piece.n_layers} of another model"
                faults.append((at, f"takes {stop - start} layer(s) of {model}, but {most}"))
        known = [name for name in piece.layers if name in names]
        faults += [
            (
                (*here, "sources", name),
                f"{name!r} is not a source of this slice{nearest(name, known)}",
            )
            for name in piece.sources
            if name not in known
        ]
    used = {model for piece in recipe.slices for model in piece.layers}
    if recipe.slices and all(piece.layers for piece in recipe.slices):
        lacking = [name for name in names if name not in used]
        faults += [
            (("sources", name), f"no slice has layers of {name!r}; remove it") for name in lacking
        ]
    return faults


def mixture_faults(recipe: Recipe) -> list[tuple[PlainPath, str]]:
    """List what is wrong with a recipe's mixture of experts, and where."""
    if recipe.mixture is None:
        return []
    known = recipe.evidence.get(mixture.EVIDENCE, {})
    found = recipe.mixture.faults(known)
    faults: list[tuple[PlainPath, str]] = [(("mixture", key), problem) for key, problem in found]
    if recipe.slices:
        faults.append((("slices",), "a mixture of experts has the base's layers; remove `slices`"))
    return faults


def expert_faults(recipe: Recipe) -> list[tuple[PlainPath, str]]:
    """List what is wrong with how a recipe makes experts fewer, and where."""
    if recipe.experts is None:
        return []
    known = recipe.evidence.get(expert_groups.EVIDENCE, {})
    found = recipe.experts.faults([source.name for source in recipe.sources], known)
    faults: list[tuple[PlainPath, str]] = [(("experts", key), problem) for key, problem in found]
    if recipe.slices:
        faults.append((("slices",), "experts are merged in the base's layers; remove `slices`"))
    if recipe.mixture is not None:
        problem = "experts that are merged are those of the models; remove this, or `experts`"
        faults.append((("mixture",), problem))
    return faults
