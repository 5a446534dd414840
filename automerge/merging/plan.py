"""Resolve a recipe to what happens to each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, takewhile

from automerge.checkpoints import (
    Checkpoint,
    Fold,
    Joints,
    Stored,
    Target,
    TensorInfo,
    layout,
    reference_model,
    tensor_faults,
)
from automerge.checkpoints.grouped import (
    Layout,
    Part,
    expert_parts,
    grouped_settings,
    layout_of,
)
from automerge.checkpoints.mixed import (
    check_mixed,
    dense_layers,
    form_of,
    mixed_settings,
    pieces,
)
from automerge.errors import ConfigError, Fault, PreflightError, nearest
from automerge.expert_groups import EVIDENCE as ROUTING
from automerge.expert_groups import ExpertGroups
from automerge.merging.router import Router
from automerge.methods import METHODS, Method, Values, check_recipe
from automerge.mixture import EVIDENCE, HIDDEN, RANDOM, UNIFORM, Mixture
from automerge.recipe import Place, Recipe, single

MAX_FAULTS = 10
HALF = Fold(0.5)
"""What the sigmoid of a shared expert's gate of 0 is."""


@dataclass(frozen=True)
class Step:
    """How one tensor is made and from which tensors, and the shape and dtype it is stored in.

    `method` is None for a tensor that is copied from the reference, for the gates of a layer's
    experts, which a `router` makes, and for what a `pool` makes of several merged tensors.
    """

    place: Place
    info: TensorInfo
    reference: Stored
    method: Method | None
    base: Stored | None
    sources: tuple[Stored, ...]
    values: Values
    seed: int
    evidence: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By kind, each source's digest."""
    part: int = 0
    """The number of the recipe's slice."""
    fold: Fold | None = None
    """What scales between slices make of the merged tensor."""
    router: Router | None = None
    pool: Pool | None = None
    stored: str | None = None
    """Its name, where that is not the one at its place in the merge."""
    fixed: bool = False
    """Whether it is one model's, whatever the numbers of the recipe."""

    @property
    def tensor(self) -> str:
        """Its name."""
        return self.stored or self.place.tensor

    @property
    def origins(self) -> tuple[Stored, ...]:
        """The base, if it is an operand, and the sources."""
        return self.sources if self.base is None else (self.base, *self.sources)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for two steps of a tensor exactly when the result is."""
        if self.router is not None:
            return (self.router, self.info)
        if self.pool is not None:
            return (self.pool.key, self.info)
        if self.method is None:
            return (self.reference,)
        seed = self.seed if self.method.seeded else None
        name, dtype = self.method.name, self.info.dtype
        evidence = tuple(self.evidence.items())
        return (name, self.base, self.sources, self.values.key, seed, dtype, evidence, self.fold)


@dataclass(frozen=True)
class Pool:
    """Merged tensors of which a layer with fewer experts is made.

    Group `number` of `count` becomes one expert, of which this is a matrix: `members` are that of
    every expert, of which the group's are averaged. Of the router, `number` is None and its only
    member is the whole of it. Hidden units lie along `axis`.
    """

    by: str
    count: int
    number: int | None
    evidence: tuple[tuple[Stored, str], ...]
    """The router of each source, and the digest of how it routes."""
    members: tuple[Step, ...]
    axis: int = 0
    units: tuple[tuple[Stored, ...], ...] = ()
    """Each expert's matrices in the reference, that with a column per hidden unit the last."""

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal for two pools exactly when the result is."""
        members = tuple(member.key for member in self.members)
        return (self.by, self.count, self.number, self.evidence, members)


def _router(recipe: Recipe, mixture: Mixture) -> Router:
    """Return how the gates of each layer's experts are made."""
    n_experts = len(mixture.experts)
    if mixture.gates == RANDOM:
        return Router(RANDOM, n_experts, recipe.seed)
    known = recipe.evidence.get(EVIDENCE, {})
    named = mixture.experts if mixture.gates == HIDDEN else ()
    return Router(mixture.gates, n_experts, evidence=tuple((name, known[name]) for name in named))


def _taken(step: Step, model: str) -> Step:
    """Return the step that makes a tensor that of one model."""
    copied = METHODS["linear"]
    return replace(
        step,
        method=copied,
        base=None,
        sources=(Stored(model, step.place.tensor),),
        values=copied.values(single(model), step.place),
        evidence={},
        fixed=True,
    )


def _pool(
    step: Step, part: Part, steps: Mapping[str, Step], recipe: Recipe, layout: Layout
) -> Step:
    """Return the step that makes one tensor of a layer with fewer experts.

    Args:
        step: what merges it without that.
        part: what it is to the layer's block of experts.
        steps: of all tensors, by name.
        recipe: makes experts fewer.
        layout: names experts.
    """
    groups, digests = recipe.experts, recipe.evidence[ROUTING]
    assert groups is not None
    routing = tuple((Stored(s.name, part.router), digests[s.name]) for s in recipe.sources)
    if part.expert is None:
        pool = Pool(groups.by, groups.count, None, routing, (step,))
        info = TensorInfo((groups.count, *step.info.shape[1:]), step.info.dtype)
        return replace(step, method=None, info=info, pool=pool)
    matrices = (*layout.inner, layout.outer)
    every = list(takewhile(lambda n: part.sibling(n, part.matrix) in steps, count()))
    pool = Pool(
        groups.by,
        groups.count,
        part.expert,
        routing,
        tuple(steps[part.sibling(n, part.matrix)] for n in every),
        axis=1 if part.matrix == layout.outer else 0,
        units=tuple(tuple(steps[part.sibling(n, m)].reference for m in matrices) for n in every),
    )
    return replace(step, method=None, pool=pool)


class Planner:
    """Resolves recipes over named checkpoints; remembers where tensors are stored."""

    def __init__(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        self._checkpoints = checkpoints
        self._layouts: dict[tuple[object, ...], list[Target]] = {}
        self._compatible: dict[tuple[str, str], list[str]] = {}

    def plan(self, recipe: Recipe) -> list[Step]:
        """List the steps; without slices, in the order of the reference's tensors.

        Raises:
            ConfigError: No method takes the recipe.
            PreflightError: The models do not have the same tensors.
        """
        self._check(recipe)
        parts = recipe.parts
        joints = Joints(recipe, self._checkpoints[reference_model(recipe)].config)
        steps = [
            self._step(target, parts[target.part], joints.fold(target.place))
            for target in self._layout(recipe)
        ]
        if recipe.experts is not None:
            return self._pooled(steps, recipe, recipe.experts)
        return steps if recipe.mixture is None else self._mixed(steps, recipe, recipe.mixture)

    def _pooled(self, steps: Sequence[Step], recipe: Recipe, groups: ExpertGroups) -> list[Step]:
        """Return the steps of a mixture with fewer experts, given those of the merge."""
        base = self._checkpoints[reference_model(recipe)]
        layout = layout_of(base)
        grouped_settings(groups, base)  # refuses what cannot be
        by_name = {step.tensor: step for step in steps}
        parts = expert_parts(by_name)
        made = []
        for step in steps:
            part = parts.get(step.tensor)
            if part is None:
                made.append(step)
            elif part.expert is None or part.expert < groups.count:
                made.append(_pool(step, part, by_name, recipe, layout))
        return made

    def _mixed(self, steps: Sequence[Step], recipe: Recipe, mixture: Mixture) -> list[Step]:
        """Return the steps of a mixture of experts, given those of the merge.

        A shared expert is the merge: it and the other experts count half, so that with experts
        that are the merge the mixture computes what the merge does.
        """
        base = self._checkpoints[reference_model(recipe)]
        form, n_experts = form_of(base), len(mixture.experts)
        last = max((step.place.layer or 0 for step in steps), default=0)
        if mixture.layers is not None and mixture.layers[1] > last + 1:
            message = f"mixture: expected layers up to {last + 1}, got {list(mixture.layers)}"
            raise PreflightError(message)
        plain = dense_layers(form, mixture, last + 1)
        router = _router(recipe, mixture)
        dense = {step.tensor: step for step in steps}
        made = []
        for piece in pieces(form, n_experts, dense, plain):
            step = replace(dense[piece.dense], stored=piece.tensor)
            if piece.gates:
                shape = (1 if piece.shared else n_experts, step.info.shape[1])
                info = TensorInfo(shape, step.info.dtype)
                how = Router(UNIFORM, 1) if piece.shared else router
                step = replace(step, method=None, info=info, router=how)
            elif piece.expert is not None and piece.layer is not None:
                if mixture.has(piece.layer):
                    step = _taken(step, mixture.experts[piece.expert])
                if form.shared and "down_proj" in piece.dense:
                    step = replace(step, fold=HALF)
            made.append(step)
        settings = mixed_settings(n_experts, mixture.per_token, base, plain)
        check_mixed({**base.config, **settings}, [step.tensor for step in made])
        return made

    def _step(self, target: Target, recipe: Recipe, fold: Fold | None) -> Step:
        method = METHODS[recipe.method_at(target.place)]
        info = self._checkpoints[target.reference.model].tensors[target.reference.tensor]
        return Step(
            place=target.place,
            info=TensorInfo(info.shape, recipe.dtype or info.dtype) if info.mergeable else info,
            reference=target.reference,
            method=method if info.mergeable else None,
            base=target.stored[recipe.base] if method.anchored and recipe.base else None,
            sources=tuple(target.stored[source.name] for source in recipe.sources),
            values=method.values(recipe, target.place),
            seed=recipe.seed,
            part=target.part,
            evidence={
                kind: tuple(recipe.evidence[kind][source.name] for source in recipe.sources)
                for kind in method.needs
            },
            fold=fold,
        )

    def _layout(self, recipe: Recipe) -> list[Target]:
        slices = tuple(tuple(piece.layers.items()) for piece in recipe.slices)
        key = (recipe.base, recipe.models, slices)
        if key not in self._layouts:
            names = {model: self._checkpoints[model].tensors for model in recipe.models}
            targets = layout(recipe, names)
            if recipe.slices:
                self._check_slices(targets)
            self._layouts[key] = targets
        return self._layouts[key]

    def _check_slices(self, targets: Sequence[Target]) -> None:
        """Refuse tensors of different shapes or kinds that slices bring together."""
        faults = []
        for target in targets:
            ours = self._checkpoints[target.reference.model].tensors[target.reference.tensor]
            for origin in target.stored.values():
                theirs = self._checkpoints[origin.model].tensors[origin.tensor]
                alike = theirs.dtype == ours.dtype or (theirs.mergeable and ours.mergeable)
                if theirs.shape != ours.shape or not alike:
                    where = f"slice {target.part + 1}: {origin.model}'s {origin.tensor}"
                    wanted = f"{target.reference.model}'s {target.reference.tensor} is {ours}"
                    faults.append(f"{where} is {theirs}; {wanted}")
        if faults:
            raise PreflightError(Fault(fault) for fault in faults[:MAX_FAULTS])

    def _check(self, recipe: Recipe) -> None:
        known = tuple(self._checkpoints)
        problems = check_recipe(recipe, METHODS)
        problems += [
            f"unknown model {model!r}{nearest(model, known)}"
            for model in recipe.models
            if model not in self._checkpoints
        ]
        if problems:
            raise ConfigError(Fault(problem) for problem in problems)
        if recipe.slices:
            return
        reference = reference_model(recipe)
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
