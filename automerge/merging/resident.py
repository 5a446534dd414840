"""Merging into a live model: no file written, no model built."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from automerge.checkpoints import Checkpoint, reference_model
from automerge.checkpoints.grouped import count_key, expert_settings
from automerge.checkpoints.layout import stacks
from automerge.checkpoints.stacked import stacked_config, stacked_settings
from automerge.errors import PreflightError
from automerge.evidence import Evidence
from automerge.evidence.gather import linear_layers
from automerge.evidence.stacked_experts import expert_matrices
from automerge.merging.backends.base import Backend
from automerge.merging.backends.code import compiled_code
from automerge.merging.backends.cuda import gpu_compiler
from automerge.merging.backends.gpu import Gpu, Staged
from automerge.merging.backends.host import HOST
from automerge.merging.calibration import interpolated, repair
from automerge.merging.contraction import Contraction
from automerge.merging.distance import squared_norms
from automerge.merging.experts import LiveExperts
from automerge.merging.layers import LiveLayers, layer_order
from automerge.merging.live import live_tensors
from automerge.merging.memory import plan_free_memory
from automerge.merging.plan import Planner, Step
from automerge.merging.pooling import pooled_members
from automerge.merging.tensor import InvalidMerge, merge_into_tensors, merge_tensor, storage_dtype
from automerge.merging.witness import tensor_digest, weights_digest
from automerge.merging.workspace import Workspace
from automerge.recipe import CALIBRATED_BY, Recipe, single
from automerge.trial import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class MergeReport:
    """How many seconds a merge took, and how many of the model's tensors had to be written."""

    seconds: float
    n_written: int
    n_tensors: int


@dataclass(frozen=True)
class Live:
    """A live model's storage by checkpoint name, and what each tensor holds now.

    `names` are those of all tensors of the checkpoint, with and without storage of their own;
    `scales` holds what calibrated tensors were multiplied by since they were merged;
    `moved` holds squared distances to the base, its squared norms, and what they were taken for.
    """

    names: Sequence[str]
    targets: Mapping[str, Tensor]
    scales: dict[str, Tensor] = field(default_factory=dict)
    holds: dict[str, tuple[object, ...]] = field(default_factory=dict)
    moved: dict[str, tuple[tuple[object, ...] | None, float, float]] = field(default_factory=dict)


class ResidentEngine:
    """Keeps the named models (the base among them) and merges recipes of them.

    Merging always starts from the stored models and never undoes a merge. Tensors and statistics
    are read and computed at their first use and kept; a tensor whose method and values are what the
    live model already holds is not merged again.

    Args:
        checkpoints: By the names that recipes use.
        budget: Bytes for what is computed and kept; None for what `plan_memory` gives for the
            memory that is free now.
        device_budget: Bytes for copies of models on each GPU.
        evidence: What methods need besides the models, by digest.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        budget: int | None = None,
        device_budget: int = 0,
        evidence: Mapping[str, Evidence] = MappingProxyType({}),
    ) -> None:
        self._checkpoints = checkpoints
        self._planner = Planner(checkpoints)
        if budget is None:
            budget = plan_free_memory().budget
        self._workspace = Workspace(checkpoints, budget, compiled_code(checkpoints), evidence)
        self._live: WeakKeyDictionary[nn.Module, Live] = WeakKeyDictionary()
        self._layers: WeakKeyDictionary[nn.Module, LiveLayers] = WeakKeyDictionary()
        self._experts: WeakKeyDictionary[nn.Module, LiveExperts] = WeakKeyDictionary()
        self._device_budget = device_budget
        self._gpus: dict[torch.device, tuple[Gpu, Staged]] = {}

    def merge(self, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
        """Yield the merged tensors one by one, in their storage dtype, before any calibration.

        Raises:
            ConfigError: No method takes the recipe.
            PreflightError: The models do not have the same tensors.
            InvalidMerge: At the first tensor that is not finite.
        """
        for step in self._planner.plan(recipe):
            yield step.tensor, merge_tensor(step, self._workspace)
            self._workspace.release()

    def merge_into(self, model: PreTrainedModel, recipe: Recipe) -> MergeReport:
        """Write the merged tensors into a live model's parameters, in place, and calibrate them.

        Values are rounded to the storage dtype first, whatever dtype the parameters have, so an
        exported folder holds the same numbers. After an error the model holds a mixture until the
        next successful merge. Nobody else may change the model's tensors in between. The model gets
        the layers of the recipe's slices and the experts of its mixture, and keeps them until a
        recipe has others.

        Raises:
            PreflightError: The model cannot have these layers or experts, or be calibrated.
        """
        start = time.perf_counter()
        steps = self._planner.plan(recipe)
        named = model
        routed = recipe.mixture is not None or recipe.experts is not None
        if not routed and model in self._experts and self._experts[model].routed:
            self._experts[model].restore()
        if recipe.slices or model in self._layers:
            self._arrange(model, recipe, steps)
        if routed:
            named = self._route(model, recipe)
        names = [step.tensor for step in steps]
        if model not in self._live or self._live[model].names != names:
            self._live[model] = Live(names, live_tensors(named, names))
        live = self._live[model]
        pairs = [
            (live.targets[step.tensor], step)
            for step in steps
            if step.tensor in live.targets and live.holds.get(step.tensor) != step.key
        ]
        for _, step in pairs:
            live.holds.pop(step.tensor, None)
        where: dict[torch.device, list[tuple[Tensor, Step]]] = {}
        for target, step in pairs:
            where.setdefault(target.device, []).append((target, step))
        with torch.no_grad():
            for device, own in where.items():
                merge_into_tensors(own, self._workspace, self._backends(device))
        live.holds.update({step.tensor: step.key for _, step in pairs})
        live.scales.clear()
        if recipe.repair:
            self._calibrate(model, recipe, steps, live)
        return MergeReport(time.perf_counter() - start, len(pairs), len(live.targets))

    def _calibrate(
        self, model: PreTrainedModel, recipe: Recipe, steps: Sequence[Step], live: Live
    ) -> None:
        digests = recipe.evidence[CALIBRATED_BY]
        by_name = {step.tensor: step for step in steps if step.method or step.pool}
        names = [source.name for source in recipe.sources]
        pieces = self._workspace.pieces([digests[name] for name in names])

        def of_sources(step: Step) -> Tensor | None:
            """Return what the sources have there, by their weights."""
            found = [
                self._workspace.evidence(digests[source.model], CALIBRATED_BY, source)
                for source in step.sources
            ]
            each = [tensor for tensor in found if tensor is not None]
            weights = step.values.each.get("weight", (1.0,) * len(found))
            return interpolated(each, weights) if len(each) == len(found) else None

        def wanted(name: str) -> Tensor | None:
            """Return what units should have; where experts are pooled, by their shares."""
            pool = by_name[name].pool
            if pool is None:
                return of_sources(by_name[name])
            known, shares = [], []
            for member, share, order in pooled_members(pool, self._workspace):
                if (own := of_sources(member)) is not None:
                    known.append(own if order is None or pool.axis else own[:, order])
                    shares.append(share)
            return interpolated(known, shares) if known else None

        targets = {name: live.targets[name] for name in by_name if name in live.targets}
        layers = linear_layers(model, targets, True)
        # Experts of a mixture of dense models are sent tokens that no source's part is sent alone.
        experts = {} if recipe.mixture is not None else expert_matrices(model, targets)
        biases = {name: name.removesuffix("weight") + "bias" for name in layers}
        matrices = {name for names in experts.values() for name in names.values()}
        for name in {*biases, *biases.values(), *matrices} & live.holds.keys():
            live.holds[name] = ("calibrated", recipe.id)
        live.scales.update(
            repair(
                model,
                layers,
                experts,
                pieces,
                wanted,
                recipe.repair,
                lambda name: storage_dtype(by_name[name]),
            )
        )
        if not live.scales:
            kind = type(model).__name__
            raise PreflightError(f"{kind} has no linear layers with evidence: it is not repaired")
        for name, scale in list(live.scales.items()):
            if name in layers and layers[name].bias is not None and biases[name] in live.targets:
                live.scales[biases[name]] = scale.flatten()
        for name in live.scales:
            if not bool(torch.isfinite(live.targets[name]).all()):
                raise InvalidMerge(name)

    def calibrated(self, model: PreTrainedModel, recipe: Recipe) -> Mapping[str, Tensor]:
        """Return the tensors of a live model that calibration changed, by name, as stored."""
        live = self._live[model]
        dtypes = {step.tensor: storage_dtype(step) for step in self._planner.plan(recipe)}
        return {name: live.targets[name].to("cpu", dtypes[name], copy=True) for name in live.scales}

    def contraction(self, model: PreTrainedModel, recipe: Recipe) -> Contraction:
        """Return what computes slopes of losses of a live model into which a recipe was merged."""
        live = self._live[model]
        steps = self._planner.plan(recipe)
        pairs = [(live.targets[step.tensor], step) for step in steps if step.tensor in live.targets]
        return Contraction(model, recipe, pairs, self._workspace, live.scales)

    def tensors(self, model: PreTrainedModel) -> Mapping[str, Tensor]:
        """Return a live model's tensors that the last recipe was merged into, by stored name."""
        return self._live[model].targets

    def leave_devices(self) -> bool:
        """Keep no more copies of models on GPUs; return whether there were any."""
        released = [gpu.release() for gpu, _ in self._gpus.values()]
        return any(released)

    def _backends(self, device: torch.device) -> Sequence[Backend]:
        """Return the backends that write to a device's memory, in the order they are tried."""
        if device.type == "cpu":
            return HOST
        if device not in self._gpus:
            gpu = Gpu(device, self._device_budget, gpu_compiler(device), HOST)
            self._gpus[device] = gpu, Staged(device, HOST)
        return self._gpus[device]

    def distance(self, model: PreTrainedModel, base: str) -> float:
        """Return ‖θ − θ_base‖ / ‖θ_base‖ of the merged weights θ, both as stored.

        Tensors that were not merged again since the last call are not read.

        Raises:
            PreflightError: The model has other layers than the base.
        """
        live = self._live[model]
        stacked = model in self._layers and not self._layers[model].agree({})
        if stacked or (model in self._experts and self._experts[model].routed):
            raise PreflightError(
                "the distance to the base is defined only for models with the base's layers"
            )
        for step in self._planner.plan(single(base)):
            target, holds = live.targets.get(step.tensor), live.holds.get(step.tensor)
            if target is None or ((known := live.moved.get(step.tensor)) and known[0] == holds):
                continue
            stored = merge_tensor(step, self._workspace)
            live.moved[step.tensor] = (holds, *squared_norms(target, stored))
            self._workspace.release()
        moved = math.fsum(moved for _, moved, _ in live.moved.values())
        size = math.fsum(size for _, _, size in live.moved.values())
        return math.sqrt(moved / size)

    def weights(self, model: PreTrainedModel, recipe: Recipe) -> Weights | None:
        """Return what the live model holds of a recipe merged into it, in the storage dtype.

        None if parameters are narrower than what is stored: an export is then more exact.
        """
        live = self._live[model]
        digests: dict[str, str] = {}
        for step in self._planner.plan(recipe):
            target = live.targets.get(step.tensor)
            if target is None:
                continue
            dtype = storage_dtype(step)
            if torch.promote_types(target.dtype, dtype) != target.dtype:
                return None
            digests[step.tensor] = tensor_digest(target.to(dtype))
        without = (name for name in live.names if name not in digests)
        return Weights(weights_digest(digests), tuple(without))

    def _arrange(self, model: PreTrainedModel, recipe: Recipe, steps: Sequence[Step]) -> None:
        """Give the live model the recipe's layers."""
        if model not in self._layers:
            self._layers[model] = LiveLayers(model)
        layers = self._layers[model]
        settings = stacked_settings(recipe, self._checkpoints)[1] if recipe.slices else {}
        if layers.agree(settings):
            return
        if recipe.slices:
            stacked_config(recipe, self._checkpoints, {step.tensor: step.info for step in steps})
        layers.arrange(model, layer_order(recipe, layers.n_layers), settings)
        self._live.pop(model, None)

    def _route(self, model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
        """Give the live model, with the base's layers, experts; return what names its tensors."""
        base = self._checkpoints[reference_model(recipe)]
        if model not in self._experts:
            self._experts[model] = LiveExperts(model, max(stacks(base.tensors).values()))
        config, count = {**base.config, **expert_settings(recipe, base)}, count_key(recipe, base)
        if self._experts[model].make_room(config, count):
            self._live.pop(model, None)
        return self._experts[model].arrange(model, config, count)
