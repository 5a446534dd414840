"""A recipe: everything needed, beside the models themselves, to rebuild one merged model.

Values vary over the model's tensors through a `Profile`: an ordered list of selectors, each with
knots interpolated piecewise linearly over depth (mergekit's "gradients"). Depth is 0 at the first
layer and at the token embedding, 1 at the last layer, the final norm and the output head.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TypeAlias

COMPONENTS = ("attention", "mlp", "norm", "embedding", "other")
DEFAULT = "default"
BASE = "base"
"""What the base is called in a study, and in a recipe file whose adapters need one."""
UNION = "union"
"""As a tokenizer: every token that any of the models has."""

Value: TypeAlias = float | int | bool | str


def canonical(value: float) -> float:
    """Round to six significant digits, so that a recipe survives text and equal means equal."""
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

    A selector is a component's name, a glob over tensor names (holding ``*``), or ``default``.
    Each has one or more knots, equally spaced over depth.
    """

    parts: tuple[tuple[str, tuple[float, ...]], ...]

    @classmethod
    def of(cls, value: float | Sequence[float] | Mapping[str, float | Sequence[float]]) -> Profile:
        """Build from a number, a list of knots, or selector → number or knots."""
        mapping = value if isinstance(value, Mapping) else {DEFAULT: value}
        parts = []
        for selector, knots in mapping.items():
            if selector not in (*COMPONENTS, DEFAULT) and "*" not in selector:
                raise ValueError(
                    f"{selector!r} selects no tensors: use one of "
                    f"{', '.join((*COMPONENTS, DEFAULT))}, or a pattern such as '*q_proj*'"
                )
            values = tuple(knots) if isinstance(knots, Sequence) else (knots,)
            if not values:
                raise ValueError(f"{selector!r} has an empty list of values; give at least one")
            parts.append((selector, tuple(canonical(float(v)) for v in values)))
        # `default` matches everything, so it can only come last.
        parts.sort(key=lambda part: part[0] == DEFAULT)
        return cls(tuple(parts))

    def at(self, place: Place) -> float | None:
        """The value for one tensor; None where no selector matches."""
        for selector, knots in self.parts:
            if selector in (DEFAULT, place.component) or (
                "*" in selector and fnmatchcase(place.tensor, selector)
            ):
                return interpolate(knots, place.depth)
        return None

    def plain(self) -> float | list[float] | dict[str, float | list[float]]:
        """The shortest YAML form; `Profile.of` inverts it."""
        parts = {s: k[0] if len(k) == 1 else list(k) for s, k in self.parts}
        return parts[DEFAULT] if set(parts) == {DEFAULT} else parts


def interpolate(knots: Sequence[float], depth: float) -> float:
    """Piecewise-linear interpolation of equally spaced knots at depth in [0, 1]."""
    if len(knots) == 1:
        return knots[0]
    position = min(max(depth, 0.0), 1.0) * (len(knots) - 1)
    left = min(int(position), len(knots) - 2)
    share = position - left
    return (1 - share) * knots[left] + share * knots[left + 1]


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

    `tokenizer` is `base`, `union` or a model's name. `chat_template` is `base` or a model's name;
    None is the template of the model whose tokenizer it is. The embedding gets a multiple of
    `pad_to_multiple_of` rows; None adds no row.
    """

    tokenizer: str = BASE
    chat_template: str | None = None
    pad_to_multiple_of: int | None = None

    def plain(self) -> dict[str, object]:
        """What differs from the default, by its key in a recipe."""
        default = Vocabulary()
        return {key: value for key, value in vars(self).items() if value != vars(default)[key]}


BASE_VOCABULARY = Vocabulary()
VOCABULARY_KEYS = tuple(field.name for field in fields(Vocabulary))


@dataclass(frozen=True)
class Recipe:
    """How one merged model is made.

    `base` names the model task vectors are taken from; None for methods without one.
    `knobs` are the method's global knobs: profiles for numbers, plain values for switches.
    `seed` decides random masks. `dtype` is what tensors are stored in; None is the base's.
    """

    method: str
    sources: tuple[RecipeSource, ...]
    base: str | None = None
    knobs: Mapping[str, Profile | Value] = field(default_factory=dict)
    seed: int = 0
    dtype: str | None = None
    vocabulary: Vocabulary = BASE_VOCABULARY

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", MappingProxyType(dict(sorted(self.knobs.items()))))

    def __reduce__(self) -> tuple[type[Recipe], tuple[object, ...]]:
        last = (dict(self.knobs), self.seed, self.dtype, self.vocabulary)
        return Recipe, (self.method, self.sources, self.base, *last)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def models(self) -> tuple[str, ...]:
        """The models to read: base first, then sources in order, each once."""
        names = (*((self.base,) if self.base else ()), *(s.name for s in self.sources))
        return tuple(dict.fromkeys(names))

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the recipe's content."""
        text = json.dumps(self.plain(), sort_keys=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def plain(self) -> dict[str, object]:
        """The recipe as YAML-ready mappings, lists and scalars, in a fixed order."""
        plain: dict[str, object] = {"method": self.method}
        if self.base is not None:
            plain["base"] = self.base
        plain["sources"] = {
            source.name: {knob: profile.plain() for knob, profile in source.knobs.items()}
            for source in self.sources
        }
        if self.knobs:
            plain["parameters"] = {
                knob: value.plain() if isinstance(value, Profile) else value
                for knob, value in self.knobs.items()
            }
        if self.seed:
            plain["seed"] = self.seed
        if self.dtype is not None:
            plain["dtype"] = self.dtype
        return plain | self.vocabulary.plain()

    @classmethod
    def from_plain(cls, plain: Mapping[str, object]) -> Recipe:
        """Invert `plain`; the input is trusted (files go through `recipe_files`)."""
        sources = plain["sources"]
        parameters = plain.get("parameters", {})
        assert isinstance(sources, Mapping)
        assert isinstance(parameters, Mapping)
        return cls(
            method=str(plain["method"]),
            sources=tuple(
                RecipeSource(name, {knob: Profile.of(value) for knob, value in knobs.items()})
                for name, knobs in sources.items()
            ),
            base=None if plain.get("base") is None else str(plain["base"]),
            knobs={
                knob: value if isinstance(value, bool | str) else Profile.of(value)
                for knob, value in parameters.items()
            },
            seed=int(str(plain.get("seed", 0))),
            dtype=None if plain.get("dtype") is None else str(plain["dtype"]),
            vocabulary=Vocabulary(
                **{key: plain[key] for key in VOCABULARY_KEYS if key in plain}  # type: ignore[arg-type]
            ),
        )


def single(model: str) -> Recipe:
    """The recipe whose result is one of the models, unchanged."""
    return Recipe("linear", (RecipeSource(model, {"weight": Profile.of(1.0)}),))


def uniform_average(models: Sequence[str]) -> Recipe:
    """The uniform soup (Wortsman et al. 2022, arXiv:2203.05482)."""
    weight = {"weight": Profile.of(1.0)}
    return Recipe("linear", tuple(RecipeSource(model, weight) for model in models))
