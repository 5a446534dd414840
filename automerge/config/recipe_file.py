"""Recipe files: automerge's YAML in and out, and mergekit's YAML in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from automerge.config.recipe_layers import is_span, read_experts, read_mixture
from automerge.errors import ConfigError, Fault, Location, nearest
from automerge.evidence import KINDS
from automerge.evidence.file import DIGEST
from automerge.expert_groups import ExpertGroups
from automerge.files.align import Align, align_fault
from automerge.files.references import NAME, resolve, short_name
from automerge.files.yaml_file import Located, Plain, Step, dump_yaml, load_yaml
from automerge.mergekit import is_mergekit, parse_mergekit
from automerge.methods import METHODS
from automerge.methods.check import recipe_faults
from automerge.mixture import Mixture
from automerge.recipe import (
    AUTO,
    BASE,
    COMPONENTS,
    DEFAULT,
    REPAIR,
    ROUTED,
    UNION,
    VOCABULARY_KEYS,
    Profile,
    Recipe,
    RecipeSource,
    Slice,
    Value,
    Vocabulary,
    is_selector,
    is_template,
    methods_of,
)

VERSION = 1
KEYS = (
    *("recipe", "name", "models", "method", "base", "sources", "parameters", "slices"),
    *("mixture", "experts", "align", "evidence", "calibrate", "seed", "dtype"),
    *VOCABULARY_KEYS,
)
SLICE_KEYS = ("layers", "sources", "parameters", "input_scale")
DTYPES = ("float32", "bfloat16", "float16")
MAX_PADDING = 1 << 20


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and the models its names refer to.

    `models` maps names to absolute paths or hub ids; names it lacks are those of a study. `align`
    says how models are aligned with the base, or with the first model where there is no base.
    `notes` say where an imported file means something else here.
    """

    name: str
    recipe: Recipe
    models: Mapping[str, str]
    notes: tuple[str, ...] = ()
    document: Located | None = field(default=None, compare=False, repr=False)
    align: Mapping[str, str] = field(default_factory=dict)

    def among(
        self, references: Mapping[str, str], align: Mapping[str, str] = MappingProxyType({})
    ) -> Recipe:
        """Return the recipe under a study's model names, whose models are `references`.

        Raises ConfigError for models that are not among them, or are aligned otherwise than the
        study's, which are aligned as `align` says.
        """
        names = {reference: name for name, reference in references.items()}
        renamed: dict[str, str] = {}
        problems = []
        for model in self.recipe.models:
            reference = self.models.get(model)
            if reference is None and model in references:
                renamed[model] = model
            elif reference in names:
                renamed[model] = names[reference]
            else:
                meant = f" ({reference})" if reference else ""
                advice = "" if reference else nearest(model, tuple(references))
                problems.append(f"the recipe's model {model!r}{meant} is not in the study{advice}")
        faults = [Fault(problem, self.locate(("models",))) for problem in problems]
        faults += [
            Fault(
                f"a study's models share the base's vocabulary; remove `{key}`", self.locate((key,))
            )
            for key in self.recipe.vocabulary.plain()
        ]
        faults += [
            Fault(
                f"{model!r} is aligned by {text}, but in the study "
                f"{'as ' + align[renamed[model]] if renamed[model] in align else 'not aligned'}: "
                "set the study's own `align`",
                self.locate(("align", model)) or self.locate(("align",)),
            )
            for model, text in self.align.items()
            if model in renamed and not _agree(text, align.get(renamed[model]))
        ]
        if faults:
            raise ConfigError(faults)
        return renamed_models(self.recipe, renamed)

    def alone(self) -> Mapping[str, str]:
        """Return the references of all models, for merging without a study.

        Raises ConfigError for names that refer to nothing.
        """
        missing = [name for name in self.recipe.models if name not in self.models]
        if missing:
            advice = "; add it to `models:` (name: folder or hub id)"
            raise ConfigError(
                Fault(f"no model is defined for {name!r}{advice}", self.locate(("models",)))
                for name in missing
            )
        return {name: self.models[name] for name in self.recipe.models}

    def locate(self, path: Sequence[Step]) -> Location | None:
        """Return where part of the file was written."""
        return None if self.document is None else self.document.locate(path)


def read_recipe(path: Path | str) -> RecipeFile:
    """Read a recipe, automerge's or mergekit's; raise ConfigError with every fault, located."""
    return parse_recipe(load_yaml(path), path)


def parse_recipe(document: Located, path: Path | str) -> RecipeFile:
    """Do as `read_recipe` with a file that was read already."""
    folder, stem = Path(path).absolute().parent, short_name(Path(path).stem)
    if is_mergekit(document.data):
        read = parse_mergekit(document, folder)
        return RecipeFile(read.name or stem, read.recipe, read.models, read.notes, document)
    return _Reader(document, folder, stem).read()


def _agree(text: str, study: str | None) -> bool:
    """Return whether a recipe's alignment of a model can be that of a study."""
    if study is None:
        return False
    own, theirs = Align.parse(text), Align.parse(study)
    digests = {own.digest, theirs.digest} - {""}
    return own.kind == theirs.kind and len(digests) < 2


def recipe_text(
    recipe: Recipe,
    models: Mapping[str, str],
    name: str | None = None,
    align: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a recipe, its models and how they are aligned as YAML that `read_recipe` reads back
    unchanged."""
    plain: dict[str, Plain] = {"recipe": VERSION}
    if name is not None:
        plain["name"] = name
    if models:
        plain["models"] = dict(models)
    if align:
        plain["align"] = dict(align)
    plain |= recipe.plain()
    return dump_yaml(plain)


def write_recipe(
    recipe: Recipe, models: Mapping[str, str], path: Path | str, name: str | None = None
) -> None:
    """Write `recipe_text` to a file."""
    Path(path).write_text(recipe_text(recipe, models, name), encoding="utf-8")


def renamed_models(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Return the recipe with other names for its models."""
    return replace(
        recipe,
        sources=tuple(replace(source, name=names[source.name]) for source in recipe.sources),
        base=None if recipe.base is None else names[recipe.base],
        evidence={
            kind: {names[model]: digest for model, digest in digests.items()}
            for kind, digests in recipe.evidence.items()
        },
        slices=tuple(
            replace(
                piece,
                layers={names[model]: span for model, span in piece.layers.items()},
                sources={names[model]: knobs for model, knobs in piece.sources.items()},
            )
            for piece in recipe.slices
        ),
        mixture=None if recipe.mixture is None else recipe.mixture.renamed(names),
    )


def _unknown_selector(selector: str) -> str:
    advice = "(a pattern of tensor names holds a '*', a zone of depth is written 'depth<0.5')"
    known = (*COMPONENTS, *ROUTED, DEFAULT)
    return f"unknown selector {selector!r} {advice}{nearest(selector, known)}"


def _only_switches(value: Mapping[str, Plain]) -> bool:
    return bool(value) and all(isinstance(on, bool) for on in value.values())


class _Reader:
    """Reads automerge's own format, collecting faults."""

    def __init__(self, document: Located, folder: Path, stem: str) -> None:
        self._document = document
        self._data = document.data
        self._folder = folder
        self._stem = stem
        self._faults: list[Fault] = []

    def read(self) -> RecipeFile:
        data = self._data
        for key in data:
            if key not in KEYS:
                self._fault((key,), f"unknown key {key!r}{nearest(key, KEYS)}", key=True)
        version = data.get("recipe", VERSION)
        if version != VERSION or isinstance(version, bool):
            message = f"expected recipe: {VERSION}, got {version!r}; a newer automerge wrote this"
            self._fault(("recipe",), message)
        models = self._models()
        method, methods = self._methods()
        recipe = Recipe(
            method=method,
            methods=methods,
            sources=self._sources(),
            base=self._text("base"),
            knobs=self._knobs(("parameters",), switches=True),
            seed=self._seed(),
            dtype=self._dtype(),
            vocabulary=self._vocabulary(),
            slices=self._slices(),
            evidence=self._evidence(),
            mixture=self._mixture(),
            repair=self._repair(),
            experts=self._experts(),
        )
        self._check_vocabulary(recipe)
        if not self._faults:
            self._faults += recipe_faults(recipe, METHODS, self._document.locate)
        if not self._faults:
            for name in models:
                if name not in (*recipe.models, BASE):  # adapters need a base that is not merged
                    advice = nearest(name, recipe.models)
                    self._fault(
                        ("models", name), f"the recipe does not use {name!r}{advice}", key=True
                    )
        name = self._text("name") or self._stem
        if self._faults:
            raise ConfigError(sorted(self._faults, key=lambda f: f.location or Location("")))
        align = self._align(recipe, models)
        if self._faults:
            raise ConfigError(self._faults)
        return RecipeFile(name, recipe, models, document=self._document, align=align)

    def _fault(self, path: tuple[Step, ...], message: str, *, key: bool = False) -> None:
        self._faults.append(Fault(message, self._document.locate(path, key=key)))

    def _text(self, key: str, required: bool = False) -> str | None:
        value = self._data.get(key)
        if isinstance(value, str):
            return value
        if value is not None:
            self._fault((key,), f"expected text, got {value!r}; quote it if it is a name")
        elif required:
            self._fault((), f"missing key {key!r}")
        return None

    def _methods(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return the method, and the others by selector."""
        given = self._data.get("method")
        if not isinstance(given, dict):
            return self._text("method", required=True) or "", ()
        if DEFAULT not in given:
            message = "expected a method for `default`: the tensors that nothing else selects"
            self._fault(("method",), message)
            return "", ()
        for selector, name in given.items():
            if not is_selector(selector):
                self._fault(("method", selector), _unknown_selector(selector), key=True)
            if not isinstance(name, str):
                self._fault(("method", selector), f"expected a method's name, got {name!r}")
        return methods_of({selector: str(name) for selector, name in given.items()})

    def _mapping(self, path: tuple[Step, ...]) -> dict[str, Any]:
        value: Plain = self._data
        for step in path:
            value = value.get(step) if isinstance(value, dict) else value[step]
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._fault(path, f"expected a mapping of names to values, got {value!r}")
            return {}
        return value

    def _models(self) -> dict[str, str]:
        models = {}
        for name, text in self._mapping(("models",)).items():
            if not isinstance(text, str):
                self._fault(("models", name), f"expected a folder or a hub id, got {text!r}")
                continue
            if not NAME.fullmatch(name):
                self._fault(("models", name), f"{name!r} is not a valid model name", key=True)
            try:
                models[name] = resolve(text, self._folder)
            except ValueError as error:
                self._fault(("models", name), str(error))
        return models

    def _align(self, recipe: Recipe, models: Mapping[str, str]) -> dict[str, str]:
        """Return how models are aligned; a single kind is that of all but the reference."""
        reference = recipe.base or (BASE if BASE in models else recipe.models[0])
        given = self._data.get("align")
        if isinstance(given, str):
            given = {model: given for model in recipe.models if model != reference}
            paths: dict[str, tuple[Step, ...]] = dict.fromkeys(given, ("align",))
        else:
            given = self._mapping(("align",))
            paths = {model: ("align", model) for model in given}
        for model, text in given.items():
            if model == reference:
                problem = f"{model!r} is what the others are aligned with; remove it"
                self._fault(paths[model], problem, key=True)
            elif model not in recipe.models:
                problem = f"unknown model {model!r}{nearest(model, recipe.models)}"
                self._fault(paths[model], problem, key=True)
            elif (fault := align_fault(text)) is not None:
                self._fault(paths[model], fault)
        return dict(given)

    def _sources(self) -> tuple[RecipeSource, ...]:
        names = list(self._mapping(("sources",)))
        if not names:
            self._fault(("sources",), "expected `sources:`, a mapping of model names to knobs")
        return tuple(RecipeSource(n, self._profiles(("sources", n))) for n in names)

    def _slices(self) -> tuple[Slice, ...]:
        entries = self._data.get("slices", [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            message = "expected a list of slices, each with `layers`"
            self._fault(("slices",), f"{message}; got {entries!r}")
            return ()
        return tuple(self._slice(("slices", i)) for i in range(len(entries)))

    def _mixture(self) -> Mixture | None:
        given = "mixture" in self._data
        return read_mixture(self._mapping(("mixture",)), self._fault) if given else None

    def _experts(self) -> ExpertGroups | None:
        given = "experts" in self._data
        return read_experts(self._mapping(("experts",)), self._fault) if given else None

    def _slice(self, at: tuple[Step, ...]) -> Slice:
        for key in self._mapping(at):
            if key not in SLICE_KEYS:
                advice = nearest(key, SLICE_KEYS)
                self._fault((*at, key), f"unknown key {key!r}{advice}", key=True)
        layers: dict[str, tuple[int, int]] = {}
        for model, span in self._mapping((*at, "layers")).items():
            if is_span(span):
                layers[model] = (span[0], span[1])
            else:
                wanted = "[FIRST, END]: the first layer, counted from 0, and the one past the last"
                self._fault((*at, "layers", model), f"expected {wanted}; got {span!r}")
        sources = (*at, "sources")
        return Slice(
            layers,
            {name: self._profiles((*sources, name)) for name in self._mapping(sources)},
            self._knobs((*at, "parameters"), switches=True),
            self._input_scale((*at, "input_scale")),
        )

    def _input_scale(self, path: tuple[Step, ...]) -> float:
        """Return what the hidden state is multiplied by as it enters a slice."""
        value = self._mapping(path[:-1]).get("input_scale", 1.0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number:
            self._fault(path, f"expected a number above 0, got {value!r}")
            return 1.0
        return float(value)

    def _profiles(self, path: tuple[Step, ...]) -> dict[str, Profile]:
        knobs = self._knobs(path, switches=False)
        return {name: value for name, value in knobs.items() if isinstance(value, Profile)}

    def _knobs(self, path: tuple[Step, ...], switches: bool) -> dict[str, Profile | Value]:
        knobs: dict[str, Profile | Value] = {}
        for name, value in self._mapping(path).items():
            if switches and isinstance(value, bool):
                knobs[name] = value
            elif switches and isinstance(value, dict) and _only_switches(value):
                if self._selectors((*path, name), value):
                    knobs[name] = Profile.of({s: float(on) for s, on in value.items()})
            elif self._is_profile((*path, name), value):
                knobs[name] = Profile.of(value)
        return knobs

    def _is_profile(self, path: tuple[Step, ...], value: Plain) -> bool:
        before = len(self._faults)
        if isinstance(value, dict):
            self._selectors(path, value)
            for selector, knots in value.items():
                self._check_knots((*path, selector), knots)
            if not value:
                self._fault(path, "expected a number, got nothing")
        else:
            self._check_knots(path, value)
        return len(self._faults) == before

    def _selectors(self, path: tuple[Step, ...], value: Mapping[str, Plain]) -> bool:
        """Refuse keys that select nothing; return whether there were none."""
        unknown = [selector for selector in value if not is_selector(selector)]
        for selector in unknown:
            self._fault((*path, selector), _unknown_selector(selector), key=True)
        return not unknown

    def _check_knots(self, path: tuple[Step, ...], value: Plain) -> None:
        for knot in value if isinstance(value, list) and value else [value]:
            if isinstance(knot, bool) or not isinstance(knot, int | float):
                message = f"expected a number or a list of numbers, got {knot!r}"
                self._fault(path, message)
                return

    def _evidence(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for kind in self._mapping(("evidence",)):
            if kind not in KINDS:
                message = f"unknown kind of evidence {kind!r}{nearest(kind, tuple(KINDS))}"
                self._fault(("evidence", kind), message, key=True)
                continue
            found[kind] = {}
            for model, digest in self._mapping(("evidence", kind)).items():
                if isinstance(digest, str) and DIGEST.fullmatch(digest):
                    found[kind][model] = digest
                else:
                    message = f"expected 32 hexadecimal digits, quoted, got {digest!r}"
                    self._fault(("evidence", kind, model), message)
        return found

    def _repair(self) -> float:
        """Return the strength of the calibration."""
        given = self._data.get("calibrate")
        if given is None:
            return 0.0
        if given == REPAIR:
            return 1.0
        strength = given.get(REPAIR) if isinstance(given, dict) and set(given) == {REPAIR} else None
        if isinstance(strength, int | float) and not isinstance(strength, bool):
            return float(strength)
        self._fault(
            ("calibrate",),
            f"expected {REPAIR}, or {{{REPAIR}: STRENGTH}} with a number from 0 to 1; "
            f"got {given!r}",
        )
        return 0.0

    def _seed(self) -> int:
        seed = self._data.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            self._fault(("seed",), f"expected a whole number from 0, got {seed!r}")
            return 0
        return seed

    def _dtype(self) -> str | None:
        dtype = self._text("dtype")
        if dtype is not None and dtype not in DTYPES:
            self._fault(("dtype",), f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}")
        return dtype

    def _vocabulary(self) -> Vocabulary:
        rows = self._data.get("pad_to_multiple_of")
        if rows is not None and (type(rows) is not int or not 1 <= rows <= MAX_PADDING):
            message = f"expected a whole number from 1 to {MAX_PADDING}, got {rows!r}"
            self._fault(("pad_to_multiple_of",), message)
            rows = None
        return Vocabulary(self._text("tokenizer") or BASE, self._text("chat_template"), rows)

    def _check_vocabulary(self, recipe: Recipe) -> None:
        chosen = recipe.vocabulary
        for key, value, words in (
            ("tokenizer", chosen.tokenizer, (BASE, UNION)),
            ("chat_template", chosen.chat_template, (BASE, AUTO)),
        ):
            known = (*words, *(model for model in recipe.models if model not in words))
            written = key == "chat_template" and value is not None and is_template(value)
            if value is not None and value not in known and not written:
                self._fault((key,), f"unknown {key} {value!r}{nearest(value, known)}")
