"""Slopes of a live model's losses with respect to the numbers of the recipe it holds.

∂L/∂θ = Σ ⟨∂L/∂W, ∂W/∂θ⟩ over the merged tensors W. Each gradient is contracted in a hook as soon as
it is complete and then dropped, so there is never more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType

from torch import Tensor, nn

from automerge.checkpoints.naming import same_part
from automerge.merging.plan import Step
from automerge.merging.pooling import pulled_back
from automerge.merging.slopes import TensorSlopes, smooth_knobs
from automerge.merging.workspace import Workspace
from automerge.recipe import Coordinate, Profile, Recipe, Value, neighbours

Share = tuple[int, Coordinate, float]
"""The index of a knob of a tensor's merge, a number it comes from, and that number's weight."""


@dataclass(frozen=True)
class _Merge:
    """A merge that a tensor of the model, or part of its parameter, is made of.

    Of several that are pooled in it, `back` makes of the gradient of the tensor that of this one.
    """

    target: Tensor
    tensor: str
    slopes: TensorSlopes
    shares: list[Share]
    back: Callable[[Tensor], Tensor] | None = None


class Contraction:
    """While entered, the model's parameters require gradients, which are contracted as they come.

    A recipe's smooth numbers (see `methods.base.Knob`) have slopes. A knob at a tensor is a sum of
    a profile's knots, and its slope is spread over them by the same weights. A number that holds in
    several slices has the sum of their slopes. Which experts are merged into one does not depend on
    these numbers, so each has its share of the gradient of what they become.

    Args:
        model: Holds the recipe's merge.
        recipe: What the model holds.
        pairs: The model's tensors, or parts of its parameters, with how they were made.
        workspace: Gives the tensors that were merged.
        scales: What some tensors were multiplied by after the merge, by name; held as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        pairs: Iterable[tuple[Tensor, Step]],
        workspace: Workspace,
        scales: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self._workspace = workspace
        self._scales = scales
        self._merges: dict[nn.Parameter, list[_Merge]] = {}
        self._slopes: dict[Coordinate, float] = {}
        self._handles: list[Callable[[], None]] = []
        owners = {p.untyped_storage().data_ptr(): p for p in model.parameters()}
        for target, step in pairs:
            owner = owners.get(target.untyped_storage().data_ptr())
            if owner is not None and owner.is_floating_point():
                merges = _merges(recipe, target.detach(), step, workspace)
                self._merges.setdefault(owner, []).extend(merges)
        self._merges = {owner: merges for owner, merges in self._merges.items() if merges}
        self.coordinates = tuple(
            dict.fromkeys(
                coordinate
                for merges in self._merges.values()
                for merge in merges
                for _, coordinate, _ in merge.shares
            )
        )

    def __enter__(self) -> Contraction:
        for parameter in self._merges:
            parameter.requires_grad_(True)
            hook = parameter.register_post_accumulate_grad_hook
            handle = hook(self._contract)  # type: ignore[no-untyped-call]
            self._handles.append(handle.remove)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for remove in self._handles:
            remove()
        self._handles = []
        for parameter in self._merges:
            parameter.requires_grad_(False)
            parameter.grad = None

    def slopes(self, loss: Tensor, keep: bool = False) -> dict[Coordinate, float]:
        """Run a loss backwards.

        Args:
            loss: A scalar computed from the model since this was entered.
            keep: Whether its graph is needed again.

        Returns:
            ∂loss/∂number per number that the loss depends on.
        """
        self._slopes = {}
        if loss.requires_grad:
            loss.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
        return self._slopes

    def _contract(self, parameter: Tensor) -> None:
        whole = parameter.grad
        assert whole is not None
        assert isinstance(parameter, nn.Parameter)
        parameter.grad = None
        for merge in self._merges[parameter]:
            gradient = same_part(whole, parameter, merge.target)
            if (scale := self._scales.get(merge.tensor)) is not None:
                gradient = gradient * scale
            found = merge.slopes.contract(gradient if merge.back is None else merge.back(gradient))
            for index, coordinate, weight in merge.shares:
                known = self._slopes.get(coordinate, 0.0)
                self._slopes[coordinate] = known + weight * found[index]
            self._workspace.release()


def _merges(recipe: Recipe, target: Tensor, step: Step, workspace: Workspace) -> list[_Merge]:
    """List the merges with smooth numbers that a tensor is made of."""
    pool = step.pool
    every = [(step, None)] if pool is None else pulled_back(pool, workspace)
    found = []
    for own, back in every:
        shares = [] if own.method is None or own.fixed else _shares(recipe, own)
        if shares:
            slopes = TensorSlopes(own, workspace)
            found.append(_Merge(target, step.tensor, slopes, shares, back))
    return found


def _shares(recipe: Recipe, step: Step) -> list[Share]:
    """List the numbers of a recipe that the smooth knobs of a tensor's merge come from."""
    assert step.method is not None
    names = [source.model for source in step.sources]
    shares: list[Share] = []
    for index, which in enumerate(smooth_knobs(step.method, len(step.sources))):
        owner = None if which.source is None else names[which.source]
        part, profile = _stated(recipe, step.part, owner, which.knob)
        deciding = profile.deciding(step.place) if isinstance(profile, Profile) else None
        if deciding is not None:
            selector, knots = deciding
            shares += (
                (index, Coordinate(owner, which.knob, selector, knot, part), weight)
                for knot, weight in neighbours(len(knots), step.place.depth)
                if weight
            )
    return shares


def _stated(
    recipe: Recipe, part: int, owner: str | None, knob: str
) -> tuple[int | None, Profile | Value | None]:
    """Return a knob's value in a slice, after the slice's number where the slice states it."""
    if recipe.slices:
        piece = recipe.slices[part]
        own: Mapping[str, Profile | Value] = (
            piece.knobs if owner is None else piece.sources.get(owner, {})
        )
        if knob in own:
            return part, own[knob]
    if owner is None:
        return None, recipe.knobs.get(knob)
    return None, next(s.knobs.get(knob) for s in recipe.sources if s.name == owner)
