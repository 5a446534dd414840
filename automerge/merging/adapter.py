"""A merge as a LoRA adapter of its base, if that is what it is, or nearly.

Where a method adds sources that are adapters, so that W = base + Σ c scale · B · A, the adapter's
factors are theirs side by side, and the product is exact (concatenation, as PEFT's `cat`). Any
other change of a matrix can be replaced by the nearest one of a wanted rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from automerge.checkpoints import Checkpoint, Stored, TensorInfo, reference_model
from automerge.checkpoints.adapters.sites import Site, sites
from automerge.checkpoints.adapters.write import Factored, Trained, write_adapter
from automerge.checkpoints.architecture import architecture
from automerge.checkpoints.reader import shown
from automerge.checkpoints.vocabularies.tensors import vocabulary_tensors
from automerge.errors import Fault, PreflightError
from automerge.evidence import Evidence
from automerge.merging.backends.base import TensorMerge
from automerge.merging.backends.code import compiled_code
from automerge.merging.backends.low_rank import as_sum
from automerge.merging.low_rank_fit import Fit, matrix_fit, product_fit
from automerge.merging.plan import Planner, Step
from automerge.merging.tensor import merge_tensor
from automerge.merging.workspace import Workspace
from automerge.recipe import BASE_VOCABULARY, Recipe

UNIT = 1e-7
"""How far the base's share of a sum may be from 1: a rounding error of its elements."""


@dataclass(frozen=True)
class Accuracy:
    """The rank of a change in an adapter, and its relative error in the Frobenius norm."""

    rank: int
    relative_error: float


@dataclass(frozen=True)
class MergedAdapter:
    """What was written: the accuracy per module and in all, and tensors stored as a whole."""

    modules: Mapping[str, Accuracy]
    relative_error: float
    whole: tuple[str, ...]


def merge_to_adapter(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    base: str,
    target: Path,
    trained: Trained,
    *,
    rank: int | None = None,
    least: int = 0,
    texts: Callable[[MergedAdapter], Mapping[str, str]] = lambda _: {},
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    evidence: Mapping[str, Evidence] = MappingProxyType({}),
) -> MergedAdapter:
    """Write a recipe's merge as a PEFT folder over one of its models, whole or not at all.

    Factors are in float32. Changed norms and biases are stored as they become, and so are
    embeddings and heads that change by more than factors, unless a rank is wanted.

    Args:
        recipe: what to merge.
        checkpoints: its models and the base, by name.
        base: the name of the model that the adapter is added to.
        target: the folder.
        trained: what the adapter's configuration says about its base.
        rank: the highest rank of a module; None for exact adapters only.
        least: the lowest rank of a module, for readers that need the same one everywhere.
        texts: further files' texts by name, given what the adapter holds.
        overwrite: whether the folder may exist and have content.
        progress: is told the tensors done and in total.
        evidence: by digest, what methods need besides the models.

    Raises:
        ConfigError: No method takes the recipe.
        PreflightError: The models cannot be merged, or the merge is no adapter; names every reason.
        InvalidMerge: A merged tensor is not finite.
    """
    if faults := _shape_faults(recipe):
        raise PreflightError(faults)
    steps = Planner(checkpoints).plan(recipe)
    workspace = Workspace(checkpoints, compiled=compiled_code(checkpoints), evidence=evidence)
    work = _Collection(recipe, checkpoints, base, rank, least, workspace)
    for done, step in enumerate(steps, start=1):
        work.add(step)
        workspace.release()
        if progress is not None:
            progress(done, len(steps))
    if faults := work.faults():
        raise PreflightError(faults)
    found = work.summary()
    write_adapter(
        target,
        work.factored,
        work.whole,
        trained,
        work.modules,
        inputs=[checkpoint.path for checkpoint in checkpoints.values()],
        texts=texts(found),
        overwrite=overwrite,
    )
    return found


def _shape_faults(recipe: Recipe) -> list[Fault]:
    """List what makes a model that is none of its base's shape."""
    faults = []
    if recipe.repair:
        faults.append(Fault("a calibrated merge is no adapter: remove `calibrate`, or merge whole"))
    if recipe.slices:
        faults.append(Fault("`slices` change the base's layers, which no adapter can; merge whole"))
    if recipe.mixture is not None:
        faults.append(Fault("a `mixture` has experts, which no adapter can add; merge whole"))
    if recipe.experts is not None:
        faults.append(Fault("`experts` are fewer than the base's, as no adapter's; merge whole"))
    if recipe.vocabulary != BASE_VOCABULARY:
        keys = ", ".join(recipe.vocabulary.plain())
        faults.append(
            Fault(f"`{keys}` is not the base's, and an adapter keeps its base's; merge whole")
        )
    return faults


class _Collection:
    """Gathers the changes of one tensor after another, and what no adapter can hold."""

    def __init__(
        self,
        recipe: Recipe,
        checkpoints: Mapping[str, Checkpoint],
        base: str,
        rank: int | None,
        least: int,
        workspace: Workspace,
    ) -> None:
        self.factored: list[Factored] = []
        self.whole: list[tuple[Site, Tensor]] = []
        self._base, self._rank, self._least, self._workspace = base, rank, least, workspace
        self._read = checkpoints[base].read
        reference = checkpoints[reference_model(recipe)]
        self.modules = [n for n, _ in architecture(reference.config).model.named_modules()]
        vocabulary = vocabulary_tensors(reference.config, reference.tensors)
        tied = [head for head in vocabulary.heads if head not in reference.tensors]
        self._sites = sites(reference.config, [*reference.tensors, *tied])
        # A tied head is changed with its embedding, for which PEFT has no single name.
        self._also = dict.fromkeys(vocabulary.embeddings, tied)
        self._accuracy: dict[str, Accuracy] = {}
        self._square = self._error = 0.0
        self._dense: list[str] = []
        self._parts: list[str] = []
        self._dense_methods: dict[str, None] = {}

    def add(self, step: Step) -> None:
        """Find the change of one tensor, if there is any."""
        site = self._sites.get(step.tensor)
        if site is None or step.method is None:
            return
        found = as_sum(TensorMerge(step, step.method, self._workspace))
        origin = Stored(self._base, step.tensor)
        base = self._workspace.tensor(origin).reshape(step.info.shape)
        is_unit = found is not None and all(
            abs(c - (x.data_ptr() == base.data_ptr())) <= UNIT for c, x in found.whole
        )
        if found is not None and is_unit:
            updates = [(c * u.scale, u) for c, u in found.updates if c]
            if not updates:
                return
            if site.takes_factors:
                up = torch.cat([u.up.double() * c for c, u in updates], dim=1)
                down = torch.cat([u.down.double() for _, u in updates])
                self._keep(step, site, product_fit(up, down, self._rank))
                return
        merged = merge_tensor(step, self._workspace)
        if merged.dtype == base.dtype and torch.equal(merged, base):
            return
        if not site.takes_factors:
            if site.kind is site.kind.PART:
                self._parts.append(step.tensor)
            else:
                self._store(step, site, merged)
        elif self._rank is None:
            if site.outer:
                self._store(step, site, merged)
            else:
                self._dense.append(step.tensor)
                self._dense_methods[step.method.name] = None
        else:
            precise = replace(step, info=TensorInfo(step.info.shape, "float32"))
            change = merge_tensor(precise, self._workspace).double() - base.double()
            if change.any():
                self._keep(step, site, matrix_fit(change, self._rank))

    def _keep(self, step: Step, site: Site, fit: Fit) -> None:
        self._square += fit.square
        self._error += fit.error
        relative = sqrt(fit.error / fit.square) if fit.square else 0.0
        fit = fit.filled(self._least)
        for place in self._all(step, site):
            self.factored.append(Factored(place, fit.up, fit.down))
            self._accuracy[place.module] = Accuracy(fit.rank, relative)

    def _store(self, step: Step, site: Site, merged: Tensor) -> None:
        self.whole += [(place, merged) for place in self._all(step, site)]

    def _all(self, step: Step, site: Site) -> list[Site]:
        return [site, *(self._sites[head] for head in self._also.get(step.tensor, ()))]

    def faults(self) -> list[Fault]:
        """List why the merge is no adapter."""
        faults = []
        if self._dense:
            n, by = len(self._dense), ", ".join(self._dense_methods)
            faults.append(
                Fault(
                    f"{n} matrices ({shown(self._dense, 3)}) are not the base plus a sum of "
                    f"adapters' factors after {by}: give --rank N for the nearest adapter of rank "
                    "N, use a method that adds adapters (task_arithmetic; linear with weights that "
                    "sum to 1), or merge whole"
                )
            )
        if self._parts:
            faults.append(
                Fault(
                    f"{len(self._parts)} changed tensors ({shown(self._parts, 3)}) are parts of "
                    "parameters in the live model, such as stacked experts, which have no module "
                    "for factors; merge whole"
                )
            )
        if not faults and not self.factored:
            more = f"; it changes {shown([s.module for s, _ in self.whole])}" if self.whole else ""
            faults.append(Fault(f"the merge changes no matrix of its base: not an adapter{more}"))
        return faults

    def summary(self) -> MergedAdapter:
        whole = tuple(f"{site.module}.{site.leaf}" for site, _ in self.whole)
        relative = sqrt(self._error / self._square) if self._square else 0.0
        return MergedAdapter(self._accuracy, relative, whole)
