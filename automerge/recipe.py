"""A recipe: everything needed, besides the models themselves, to rebuild one merged model.

Values vary over the model's tensors through a `Profile`: an ordered list of selectors, each with
knots interpolated piecewise linearly over depth (mergekit's "gradients"). Depth is 0 at the first
layer and at the token embedding, 1 at the last layer, the final norm and the output head.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, TypeAlias

from automerge.expert_groups import ExpertGroups
from automerge.mixture import Mixture

COMPONENTS = ("attention", "mlp", "norm", "embedding", "other")
ROUTED: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "router": re.compile(
            r"\.(gate|router|shared_expert_gate)\.(layer\.)?(weight|bias|e_score_correction_bias)$"
        ),
        "expert": re.compile(r"\.(experts|shared_experts?)\."),
    }
)
"""Parts of a mixture's feed-forward layers, by what their tensors' names contain."""
DEFAULT = "default"
BASE = "base"
"""What the base is called in a study, and in a recipe file whose adapters need one."""
REPAIR = "repair"
"""The calibration after a merge that there is."""
CALIBRATED_BY = "activations"
"""The kind of evidence that a calibrated recipe names of its sources."""
UNION = "union"
AUTO = "auto"
"""As a tokenizer: all tokens that any of the models has."""

Value: TypeAlias = float | int | bool | str


_ZONE = re.compile(r"depth<(0?\.[0-9]+|1|1\.0+)")


def is_selector(text: str) -> bool:
    """Return whether a text selects tensors: a component, a part of a mixture, `default`, a pattern
    with a `*`, or a zone such as `depth<0.5`."""
    return text in (*COMPONENTS, *ROUTED, DEFAULT) or "*" in text or is_zone(text)


def is_zone(text: str) -> bool:
    """Return whether a selector is that of the tensors above a depth."""
    return _ZONE.fullmatch(text) is not None


def selects(selector: str, place: Place) -> bool:
    """Return whether a selector selects the tensor at a place."""
    if is_zone(selector):
        return place.depth < float(selector.partition("<")[2])
    if selector in ROUTED:
        return place.layer is not None and ROUTED[selector].search(place.tensor) is not None
    return selector in (DEFAULT, place.component) or (
        "*" in selector and fnmatchcase(place.tensor, selector)
    )


def canonical(value: float) -> float:
    """Round to six significant digits, so that a recipe survives being written as text.

    Raises:
        ValueError: the value is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"a recipe holds finite numbers only; got {value!r}")
    return float(f"{value:.6g}") + 0.0  # + 0.0 turns -0.0 into 0.0


@dataclass(frozen=True)
class Place:
    """Where a tensor sits in the model: its name, component and depth in [0, 1]."""

    tensor: str
    component: str
    depth: float
    layer: int | None = None


@dataclass(frozen=True)
class Profile:
    """One knob's value over the tensors of a model; the first matching selector decides.

    A selector is a component's name, a part of a mixture's feed-forward layers (``router``,
    ``expert``), a glob over tensor names (holding ``*``), a zone of depth (``depth<0.5``), or
    ``default``.
    Each has one or more knots, equally spaced over depth.
    """

    parts: tuple[tuple[str, tuple[float, ...]], ...]

    @classmethod
    def of(cls, value: float | Sequence[float] | Mapping[str, float | Sequence[float]]) -> Profile:
        """Build from a number, a list of knots, or a mapping of selectors to numbers or knots.

        Raises:
            ValueError: a selector is not one, a list is empty, or a number is not finite.
        """
        mapping = value if isinstance(value, Mapping) else {DEFAULT: value}
        parts = []
        for selector, knots in mapping.items():
            if not is_selector(selector):
                raise ValueError(
                    f"{selector!r} selects no tensors: use one of "
                    f"{', '.join((*COMPONENTS, *ROUTED, DEFAULT))}, a zone such as "
                    "'depth<0.5', or a pattern such as '*q_proj*'"
                )
            values = tuple(knots) if isinstance(knots, Sequence) else (knots,)
            if not values:
                raise ValueError(f"{selector!r} has an empty list of values; give at least one")
            parts.append((selector, tuple(canonical(float(v)) for v in values)))
        # `default` matches everything, so it can only come last.
        parts.sort(key=lambda part: part[0] == DEFAULT)
        return cls(tuple(parts))

    def at(self, place: Place) -> float | None:
        """Return the value for one tensor; None if no selector matches."""
        deciding = self.deciding(place)
        return None if deciding is None else interpolate(deciding[1], place.depth)

    def deciding(self, place: Place) -> tuple[str, tuple[float, ...]] | None:
        """Return the selector that decides for one tensor, and its knots; None if none matches."""
        for selector, knots in self.parts:
            if selects(selector, place):
                return selector, knots
        return None

    def plain(self) -> float | list[float] | dict[str, float | list[float]]:
        """Return the shortest YAML form; `Profile.of` inverts it."""
        parts = {s: k[0] if len(k) == 1 else list(k) for s, k in self.parts}
        return parts[DEFAULT] if set(parts) == {DEFAULT} else parts


def interpolate(knots: Sequence[float], depth: float) -> float:
    """Interpolate equally spaced knots piecewise linearly at a depth in [0, 1]."""
    if len(knots) == 1:
        return knots[0]
    (left, less), (right, more) = neighbours(len(knots), depth)
    return less * knots[left] + more * knots[right]


def neighbours(n_knots: int, depth: float) -> tuple[tuple[int, float], ...]:
    """Return the knots on both sides of a depth with their weights; a single knot by itself."""
    if n_knots == 1:
        return ((0, 1.0),)
    position = min(max(depth, 0.0), 1.0) * (n_knots - 1)
    left = min(int(position), n_knots - 2)
    return (left, 1 - (position - left)), (left + 1, position - left)


@dataclass(frozen=True)
class Coordinate:
    """One number of a recipe: a knot of a knob's profile, numbered from 0 at the first layer.

    `source` is the source that the knob belongs to; None for a knob of the recipe itself. `part` is
    the number of the slice that states the knob; None where the recipe does, for all slices that do
    not.
    """

    source: str | None
    knob: str
    selector: str
    knot: int
    part: int | None = None


@dataclass(frozen=True)
class RecipeSource:
    """One model that goes into the merge, by its name in the study, with its own knobs."""

    name: str
    knobs: Mapping[str, Profile]

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", MappingProxyType(dict(sorted(self.knobs.items()))))

    def __reduce__(self) -> tuple[type[RecipeSource], tuple[str, dict[str, Profile]]]:
        return RecipeSource, (self.name, dict(self.knobs))

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.knobs.items())))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens the merged model reads and writes.

    `tokenizer` is `base`, `union` or a model's name. `chat_template` is `base`, a model's name,
    `auto` for the one that most models have, or the template itself; None means the template of
    the model that the tokenizer comes from. The number of rows of the embedding is rounded up to a
    multiple of `pad_to_multiple_of`; None adds no rows.
    """

    tokenizer: str = BASE
    chat_template: str | None = None
    pad_to_multiple_of: int | None = None

    def plain(self) -> dict[str, object]:
        """Return the settings that differ from the default, by their key in a recipe."""
        default = Vocabulary()
        return {key: value for key, value in vars(self).items() if value != vars(default)[key]}


BASE_VOCABULARY = Vocabulary()


def is_template(text: str) -> bool:
    """Return whether a `chat_template` is a Jinja template itself rather than a name."""
    return "{%" in text or "{{" in text


VOCABULARY_KEYS = tuple(field.name for field in fields(Vocabulary))


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of a merged model that rearranges the layers of its models.

    `layers` has, for each model that takes part, the half-open range [first, end) of its layers.
    Sources enter the method in this order. `sources` and `knobs` override knobs of the recipe.
    The hidden state is multiplied by `input_scale` as it enters the first of the layers.
    Depth runs from 0 at the slice's first layer to 1 at its last.
    """

    layers: Mapping[str, tuple[int, int]]
    sources: Mapping[str, Mapping[str, Profile]] = field(default_factory=dict)
    knobs: Mapping[str, Profile | Value] = field(default_factory=dict)
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_scale", canonical(self.input_scale))
        sources = {n: MappingProxyType(dict(sorted(k.items()))) for n, k in self.sources.items()}
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "sources", MappingProxyType(dict(sorted(sources.items()))))
        object.__setattr__(self, "knobs", MappingProxyType(dict(sorted(self.knobs.items()))))

    def __reduce__(self) -> tuple[type[Slice], tuple[object, ...]]:
        sources = {name: dict(knobs) for name, knobs in self.sources.items()}
        return Slice, (dict(self.layers), sources, dict(self.knobs), self.input_scale)

    def __hash__(self) -> int:
        return hash(json.dumps(self.plain()))

    @property
    def n_layers(self) -> int:
        """The number of layers it adds to the merged model."""
        return max((stop - start for start, stop in self.layers.values()), default=0)

    def plain(self) -> dict[str, object]:
        """Return the slice as in `Recipe.plain`."""
        plain: dict[str, object] = {"layers": {n: list(span) for n, span in self.layers.items()}}
        if self.sources:
            plain["sources"] = {name: plain_knobs(knobs) for name, knobs in self.sources.items()}
        if self.knobs:
            plain["parameters"] = plain_knobs(self.knobs)
        if self.input_scale != 1:
            plain["input_scale"] = self.input_scale
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Slice:
        """Invert `plain`."""
        sources = plain.get("sources", {})
        return cls(
            {name: (start, stop) for name, (start, stop) in plain["layers"].items()},
            {name: source_knobs(knobs) for name, knobs in sources.items()},
            recipe_knobs(plain.get("parameters", {})),
            plain.get("input_scale", 1.0),
        )


def plain_knobs(knobs: Mapping[str, Profile | Value]) -> dict[str, object]:
    """Convert knobs to YAML-ready values."""
    return {k: v.plain() if isinstance(v, Profile) else v for k, v in knobs.items()}


def source_knobs(plain: Mapping[str, Any]) -> dict[str, Profile]:
    """Invert `plain_knobs` for the knobs of a source."""
    return {knob: Profile.of(value) for knob, value in plain.items()}


def recipe_knobs(plain: Mapping[str, Any]) -> dict[str, Profile | Value]:
    """Invert `plain_knobs` for the knobs of a recipe."""
    return {k: v if isinstance(v, bool | str) else Profile.of(v) for k, v in plain.items()}


@dataclass(frozen=True)
class Recipe:
    """How one merged model is made.

    `method` merges all tensors but those that a selector of `methods` selects; the first that does
    decides for another. Knobs hold for each method that has them.
    `base` names the model that task vectors are taken from; None for methods without one.
    `knobs` are the method's global knobs: profiles for numbers, plain values for switches.
    `seed` determines random masks. Tensors are stored in `dtype`; None means the base's.
    `slices` are the layers of the result, in order; empty if each layer is merged from the same
    layer of all models. Token embeddings are merged as in the first slice, the final norm and the
    output head as in the last. `evidence` has, by kind and model, the digest of what was computed
    from the model and some data, for methods that need it. With a `mixture`, the result is a
    mixture of experts, and all but the experts is merged. Of models that are mixtures, `experts`
    says how the experts of the merge are made fewer. `repair` is the strength of the calibration
    after the merge, from 0 for none to 1 (see `merging.calibration`).
    """

    method: str
    sources: tuple[RecipeSource, ...]
    base: str | None = None
    knobs: Mapping[str, Profile | Value] = field(default_factory=dict)
    seed: int = 0
    dtype: str | None = None
    vocabulary: Vocabulary = BASE_VOCABULARY
    slices: tuple[Slice, ...] = ()
    evidence: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: tuple[tuple[str, str], ...] = ()
    mixture: Mixture | None = None
    repair: float = 0.0
    experts: ExpertGroups | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "repair", canonical(self.repair))
        object.__setattr__(self, "knobs", MappingProxyType(dict(sorted(self.knobs.items()))))
        evidence = {
            kind: MappingProxyType(dict(sorted(digests.items())))
            for kind, digests in sorted(self.evidence.items())
        }
        object.__setattr__(self, "evidence", MappingProxyType(evidence))

    def __reduce__(self) -> tuple[type[Recipe], tuple[object, ...]]:
        evidence = {kind: dict(digests) for kind, digests in self.evidence.items()}
        last = (dict(self.knobs), self.seed, self.dtype, self.vocabulary, self.slices, evidence)
        more = (self.methods, self.mixture, self.repair, self.experts)
        return Recipe, (self.method, self.sources, self.base, *last, *more)

    def __hash__(self) -> int:
        return hash(self.id)

    def method_at(self, place: Place) -> str:
        """Return the method that merges the tensor at a place."""
        return next((name for s, name in self.methods if selects(s, place)), self.method)

    @property
    def by_selector(self) -> dict[str, str]:
        """The methods by selector, the first that matches deciding; `default` comes last."""
        return {**dict(self.methods), DEFAULT: self.method}

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The names of its methods, each once."""
        return tuple(dict.fromkeys(self.by_selector.values()))

    @property
    def methods_in_words(self) -> str:
        """Its method, or which method merges what."""
        if not self.methods:
            return self.method
        return ", ".join(
            f"{name} ({'rest' if selector == DEFAULT else selector})"
            for selector, name in self.by_selector.items()
        )

    @property
    def models(self) -> tuple[str, ...]:
        """The models to read: base first, then sources and experts in order, each once."""
        experts = () if self.mixture is None else self.mixture.experts
        names = (*((self.base,) if self.base else ()), *(s.name for s in self.sources), *experts)
        return tuple(dict.fromkeys(names))

    @property
    def parts(self) -> tuple[Recipe, ...]:
        """One recipe without slices for each slice; the recipe itself if it has no slices.

        The models of each are those that take part in the slice.
        """
        return tuple(map(self._part, self.slices)) or (self,)

    def _part(self, piece: Slice) -> Recipe:
        own = {source.name: source.knobs for source in self.sources}
        sources = (
            RecipeSource(name, {**own[name], **piece.sources.get(name, {})})
            for name in piece.layers
            if name in own
        )
        return replace(
            self,
            sources=tuple(sources),
            base=self.base if self.base in piece.layers else None,
            knobs={**self.knobs, **piece.knobs},
            slices=(),
        )

    @property
    def numbers(self) -> dict[Coordinate, float]:
        """The numbers of the recipe, by source and then its own; then those of each slice."""
        owners: list[tuple[int | None, str | None, Mapping[str, Profile | Value]]] = [
            *((None, source.name, source.knobs) for source in self.sources),
            (None, None, self.knobs),
        ]
        for number, piece in enumerate(self.slices):
            owners += ((number, name, knobs) for name, knobs in piece.sources.items())
            owners.append((number, None, piece.knobs))
        return {
            Coordinate(owner, knob, selector, i, part): knot
            for part, owner, knobs in owners
            for knob, profile in knobs.items()
            if isinstance(profile, Profile)
            for selector, knots in profile.parts
            for i, knot in enumerate(knots)
        }

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """Where the numbers of the recipe are, in their order."""
        return tuple(self.numbers)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that identify the recipe's content."""
        text = json.dumps(self.plain(), sort_keys=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def plain(self) -> dict[str, object]:
        """Return the recipe as YAML-ready mappings, lists and scalars, in a fixed order."""
        plain: dict[str, object] = {"method": self.by_selector if self.methods else self.method}
        if self.base is not None:
            plain["base"] = self.base
        plain["sources"] = {source.name: plain_knobs(source.knobs) for source in self.sources}
        if self.knobs:
            plain["parameters"] = plain_knobs(self.knobs)
        if self.slices:
            plain["slices"] = [piece.plain() for piece in self.slices]
        if self.mixture is not None:
            plain["mixture"] = self.mixture.plain()
        if self.experts is not None:
            plain["experts"] = self.experts.plain()
        if self.evidence:
            plain["evidence"] = {kind: dict(found) for kind, found in self.evidence.items()}
        if self.repair:
            plain["calibrate"] = {REPAIR: self.repair}
        if self.seed:
            plain["seed"] = self.seed
        if self.dtype is not None:
            plain["dtype"] = self.dtype
        return plain | self.vocabulary.plain()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Recipe:
        """Invert `plain`; the input is trusted (files go through `recipe_files`)."""
        default, methods = methods_of(plain["method"])
        return cls(
            method=default,
            methods=methods,
            sources=tuple(RecipeSource(n, source_knobs(k)) for n, k in plain["sources"].items()),
            base=plain.get("base"),
            knobs=recipe_knobs(plain.get("parameters", {})),
            seed=plain.get("seed", 0),
            dtype=plain.get("dtype"),
            vocabulary=Vocabulary(**{k: plain[k] for k in VOCABULARY_KEYS if k in plain}),
            slices=tuple(map(Slice.from_plain, plain.get("slices", ()))),
            evidence=plain.get("evidence", {}),
            mixture=Mixture.from_plain(plain["mixture"]) if "mixture" in plain else None,
            repair=plain.get("calibrate", {}).get(REPAIR, 0.0),
            experts=ExpertGroups.from_plain(plain["experts"]) if "experts" in plain else None,
        )


def methods_of(plain: str | Mapping[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the method of a recipe, and the others by selector, from how `Recipe.plain` has them.

    Raises:
        KeyError: none is the default.
    """
    if isinstance(plain, str):
        return plain, ()
    return plain[DEFAULT], tuple((s, name) for s, name in plain.items() if s != DEFAULT)


def single(model: str) -> Recipe:
    """Return the recipe whose result is one of the models, unchanged."""
    return Recipe("linear", (RecipeSource(model, {"weight": Profile.of(1.0)}),))


def uniform_average(models: Sequence[str]) -> Recipe:
    """Return the uniform soup (Wortsman et al. 2022, arXiv:2203.05482)."""
    weight = {"weight": Profile.of(1.0)}
    return Recipe("linear", tuple(RecipeSource(model, weight) for model in models))
