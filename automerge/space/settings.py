"""What a user may say about the search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from automerge.space.experts import ExpertSettings
from automerge.space.mixtures import MixtureSettings


@dataclass(frozen=True)
class Knots:
    """Values at equally spaced depths, interpolated linearly over the layers between."""

    count: int


@dataclass(frozen=True)
class Groups:
    """One value for each of several runs of neighbouring layers, of (nearly) equal length."""

    count: int


@dataclass(frozen=True)
class PerLayer:
    """One value per layer."""


Depth: TypeAlias = Knots | Groups | PerLayer


@dataclass(frozen=True)
class SpaceSettings:
    """The methods to search, and what varies over what; the configuration decides all of it.

    Attributes:
        methods: names of the methods.
        components: groups of selectors (as in a recipe's profiles) that share values.
        depth: how values vary over the layers.
        bounds: replace a knob's declared search bounds, and make a knob searched that is not by
            default.
        fixed: knobs that have one value and are not searched.
        switches: boolean knobs that are searched.
        deviation: prior standard deviation of a value over components and depth about the source's
            common value, as a share of the knob's range.
        varying: knobs that differ between component groups and over depth; each other knob is one
            number per source.
        shared: knobs that have one value for all sources.
        leave_out: whether the search may drop sources, down to the method's minimum.
        drop: how many neighbouring layers may be left out, at most.
        repeat: how many neighbouring layers may be run twice, at most.
        rounds: how many times the layers of all sources are laid out for paths through them; 0
            where paths are not searched.
        scale: the largest factor between layers of a path that do not follow each other in a model.
        longest: the most layers of a path; None for half as many again as a model has.
        network: whether a network says which layers a path has; None for where there are many.
        swap: whether the bottom and top layers of one of two sources are put around the other's.
        crossing: whether two sources change places above a layer.
        mixture: what of mixtures of experts is searched; None where they are not.
        experts: how many experts of mixtures are kept; None where that is not searched.
        seed: decides the random masks of seeded methods, the same for every recipe.
        dtype: of the merged models, where it is not the base's.
        noise: sources that are random: merged only by methods that add task vectors, with weights
            that are 0 a priori and vary as deviations do.
        evidence: the digest of each kind of evidence that a method needs, by source.
        calibrate: whether merged models are calibrated, and how much of it, is searched.
        by_group: the methods that each group of tensors chooses from, by the group's selector, the
            first that selects a tensor deciding and `default` being the last; empty where one of
            `methods` merges the whole model. The groups then stand for `components`.
    """

    methods: tuple[str, ...]
    components: tuple[tuple[str, ...], ...]
    depth: Depth
    bounds: Mapping[str, tuple[float, float]]
    fixed: Mapping[str, float | bool]
    switches: tuple[str, ...]
    deviation: float
    varying: tuple[str, ...]
    shared: tuple[str, ...]
    leave_out: bool
    drop: int
    repeat: int
    seed: int
    swap: bool = False
    crossing: bool = False
    mixture: MixtureSettings | None = None
    experts: ExpertSettings | None = None
    rounds: int = 0
    scale: float = 1.0
    longest: int | None = None
    network: bool | None = None
    dtype: str | None = None
    noise: tuple[str, ...] = ()
    evidence: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    calibrate: bool = False
    by_group: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
