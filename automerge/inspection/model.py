"""The values an inspection finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from automerge.checkpoints.outline import Download


@dataclass(frozen=True)
class ModelFacts:
    """One model, from its configuration, its tokenizer and its weight files' headers.

    `adapter` is LoRA or IA³; None for whole models. `dtypes` has the number of parameters of each
    storage dtype, largest first. `relation` is that of its vocabulary to the base's (see `Relation`
    in `automerge.checkpoints.vocabularies.vocabulary`). `chat_template` is none, base's or own.
    `download` is how many bytes of it are not on this machine.
    """

    name: str
    reference: str
    revision: str | None
    adapter: str | None
    architecture: str
    layers: int
    hidden: int | None
    vocabulary: int
    parameters: int
    dtypes: Mapping[str, int]
    relation: str
    relation_text: str
    tied_head: bool
    chat_template: str
    download: int


@dataclass(frozen=True)
class Nearest:
    """The model whose weights are nearest to a source's, judged by a sample.

    Distances are ‖a − b‖ / √(‖a‖‖b‖): 0 for copies, about √2 for unrelated weights of equal norm.
    `derived` is whether the source is at a distance below 1 from the base.
    """

    model: str
    distance: float
    to_base: float
    derived: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a source can be merged with the base: what prevents it, and what to know."""

    faults: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def mergeable(self) -> bool:
        return not self.faults


@dataclass(frozen=True)
class Cell:
    """2-norms of the task vector and of the base, for one component in one layer.

    `layer` is None outside the layers: before them if `depth` is 0, else after them.
    """

    layer: int | None
    depth: float
    component: str
    norm: float
    base_norm: float

    @property
    def relative(self) -> float | None:
        return self.norm / self.base_norm if self.base_norm else None


@dataclass(frozen=True)
class TaskVector:
    """Source − base: its 2-norm, the base's, and the share of elements that differ."""

    source: str
    norm: float
    base_norm: float
    changed: float
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Pair:
    """Two sources' task vectors, compared.

    `cosine` is None if one of them is zero. `sign_conflict` is the share of opposite signs among
    the elements that both changed; None if there are none. `distance` is the 2-norm of the
    difference.
    """

    one: str
    other: str
    cosine: float | None
    sign_conflict: float | None
    distance: float


@dataclass(frozen=True)
class NotFinite:
    """A tensor with elements that are not finite, and how many of each kind."""

    model: str
    tensor: str
    nan: int
    infinite: int


@dataclass(frozen=True)
class Weights:
    """What was measured on all weights; elements that are not finite count as unchanged."""

    vectors: tuple[TaskVector, ...]
    pairs: tuple[Pair, ...]
    not_finite: tuple[NotFinite, ...]

    @property
    def kinship(self) -> float | None:
        """The mean cosine over all pairs (model kinship, Hu et al. 2024, arXiv:2410.12613)."""
        known = [pair.cosine for pair in self.pairs if pair.cosine is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Point:
    """A score at a share of the way from the base, 0, to the source, 1, with its standard error."""

    at: float
    value: float
    stderr: float


@dataclass(frozen=True)
class Line:
    """The way from the base to a source; of one layer, the others being the base's.

    `barrier` is how much higher the loss is at `top` than on the straight line between the ends
    (the largest such height), and `stderr` its standard error, item by item on the same items.
    """

    layer: int | None
    points: tuple[Point, ...]
    barrier: float
    stderr: float
    top: float


@dataclass(frozen=True)
class Scan:
    """The lines from the base to one source, on one objective; the first is the whole model's."""

    source: str
    objective: str
    metric: str
    minimize: bool
    n_items: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of a source's hidden states with the base's, after each of the base's layers."""

    source: str
    n_prompts: int
    layers: tuple[float, ...]


@dataclass(frozen=True)
class Collapse:
    """How much units of the sources' average vary beside those of one source, on its text.

    Attributes:
        source: its name.
        layers: the ratio of deviations in each layer; NaN where nothing varies.
        lowest: the weight of the linear layer with the lowest ratio.
        ratio: that ratio.
    """

    source: str
    layers: tuple[float, ...]
    lowest: str
    ratio: float


@dataclass(frozen=True)
class GradientPair:
    """The cosine of the base's mean gradients on two sources' texts, whole and in each layer.

    A cosine is None if one of the gradients is zero, or not finite.
    """

    one: str
    other: str
    cosine: float | None
    layers: tuple[float | None, ...]


@dataclass(frozen=True)
class Fall:
    """By how much the loss on a text falls from the base to a source, to first order.

    Attributes:
        text: the source whose text it is.
        source: the source whose task vector is followed.
        nats: the fall, in nats per token.
    """

    text: str
    source: str
    nats: float


@dataclass(frozen=True)
class Gradients:
    """What the base's gradients say of all pairs of sources, and of each text and task vector."""

    pairs: tuple[GradientPair, ...]
    falls: tuple[Fall, ...]


@dataclass(frozen=True)
class Inspection:
    """All that is known about a base and its sources; `weights` is None if they were not read.

    Sources in `nearest` are those whose weights are here.
    """

    base: str
    models: tuple[ModelFacts, ...]
    verdicts: Mapping[str, Verdict]
    nearest: Mapping[str, Nearest | None]
    weights: Weights | None
    download: Download | None = None
    """What has to be downloaded before the models can be merged; None if all are here."""
    scans: tuple[Scan, ...] = ()
    """Scores on the lines from the base to sources, where they were asked for."""
    similarities: tuple[Similarity, ...] = ()
    """How alike hidden states are, where that was asked for."""
    collapses: tuple[Collapse, ...] = ()
    """How much an average varies beside the sources, where that was asked for."""
    gradients: Gradients | None = None
    """Whether the tasks' gradients agree, where that was asked for."""

    @property
    def mergeable(self) -> bool:
        return all(verdict.mergeable for verdict in self.verdicts.values())

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models if model.name != self.base)
