"""Refuse whatever can be refused of models before a weight is read.

It runs in the driver and returns values that the store keeps, so that resuming a study needs none
of it until something has to be measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from automerge.checkpoints import (
    Checkpoint,
    Joints,
    ModelFolder,
    adapter_kind,
    align,
    alike_but_for_vocabulary,
    check_models,
    is_adapter,
    layout,
    noise_folder,
    notes,
    open_checkpoint,
    places,
    reference_model,
    resolve,
    scan,
    transformed,
)
from automerge.checkpoints.grouped import grouped_settings
from automerge.checkpoints.joints import joint_faults
from automerge.checkpoints.layout import stacks
from automerge.checkpoints.mixed import check_mixed, form_of, mixed_settings, pieces
from automerge.checkpoints.outline import Download, Outlines
from automerge.checkpoints.stacked import stacked_config
from automerge.checkpoints.symmetries.kept import Reading
from automerge.errors import Fault, Locate, Location, PreflightError
from automerge.expert_groups import BY, ExpertGroups
from automerge.files.noise import Noise, is_noise
from automerge.merging.plan import Planner
from automerge.recipe import BASE_VOCABULARY, Place, Recipe, Vocabulary

View = Callable[[Checkpoint], Checkpoint]
Find = Callable[[str], ModelFolder]
"""Finds a model's folder by its reference."""


def whole(checkpoint: Checkpoint) -> Checkpoint:
    """View all of a model."""
    return checkpoint


@dataclass(frozen=True)
class Models:
    """The base, under its name, and its sources, opened but not read."""

    base: str
    folders: Mapping[str, ModelFolder]
    checkpoints: Mapping[str, Checkpoint]
    warnings: tuple[str, ...]

    @property
    def places(self) -> Mapping[str, Place]:
        """The place of every tensor."""
        return places(self.checkpoints[self.base].tensors)

    @property
    def n_layers(self) -> int:
        layers = [p.layer for p in self.places.values() if p.layer is not None]
        return max(layers) + 1 if layers else 1

    @property
    def dtype(self) -> str:
        """The dtype of most of the base's floating-point tensors, by torch's name."""
        sizes: dict[str, int] = {}
        for info in self.checkpoints[self.base].tensors.values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.n_bytes
        return max(sizes, key=lambda dtype: sizes[dtype])


def open_models(
    references: Mapping[str, str],
    base: str,
    locate: Locate,
    vocabulary: Vocabulary = BASE_VOCABULARY,
    view: View = whole,
    align: Mapping[str, str] = MappingProxyType({}),
    near: Sequence[Path] = (),
    note: Callable[[Download], None] = lambda _: None,
    reading: Reading | None = None,
) -> Models:
    """Find, open and compare models by name; raises PreflightError with every fault found.

    `base` is the name of the model that the others are compared with and that adapters belong to.
    All get the vocabulary that was chosen. `view` is what is compared: `whole` models, or models
    `without_layers` for a recipe that says itself which layers are merged. `align` says how sources
    are aligned with the base, by name; alignments that have a digest are looked up in the folders
    `near` first, and `reading` is what aligns by activations. Models of the hub are compared before
    they are downloaded; `note` is told what will be.
    """
    ahead = look_ahead(
        references, base, locate, vocabulary, view, align=align, near=near, reading=reading
    )
    if isinstance(ahead, Models):
        return ahead
    note(ahead)
    return find_and_compare(
        references, base, locate, vocabulary, view, align, near, reading=reading
    )


def look_ahead(
    references: Mapping[str, str],
    base: str,
    locate: Locate,
    vocabulary: Vocabulary = BASE_VOCABULARY,
    view: View = whole,
    check: Callable[[Models], None] = lambda _: None,
    align: Mapping[str, str] = MappingProxyType({}),
    near: Sequence[Path] = (),
    reading: Reading | None = None,
) -> Models | Download:
    """Do as `open_models`, but download no weights: return what is to be downloaded, if any is.

    Without weights, models are compared by configurations, tokenizers and the headers of their
    weight files. Noise, which is made from its base's weights, is left out until they are there.

    Args:
        references: paths or hub ids by name.
        base: the base's name.
        locate: finds where a model was named.
        vocabulary: the vocabulary that was chosen.
        view: what is compared.
        check: raises PreflightError for what else is refused.
        align: how sources are aligned with the base, by name; not before their weights are there.
        near: where alignments that have a digest are looked up first.
        reading: what aligns by activations.

    Raises:
        PreflightError: with every fault found, or if there is no room for the download.
    """
    with Outlines() as outlines:
        try:
            models = find_and_compare(
                references, base, locate, vocabulary, view, align, near, outlines.find, reading
            )
            check(models)
            return outlines.download() or models
        except PreflightError as error:
            raise PreflightError(outlines.translated(error.faults)) from error


def find_and_compare(
    references: Mapping[str, str],
    base: str,
    locate: Locate,
    vocabulary: Vocabulary = BASE_VOCABULARY,
    view: View = whole,
    align: Mapping[str, str] = MappingProxyType({}),
    near: Sequence[Path] = (),
    find: Find = resolve,
    reading: Reading | None = None,
) -> Models:
    """Do as `open_models`, without looking ahead: what `find` downloads is downloaded first."""
    found = find_models(
        references, base, lambda name: locate(("base",) if name == base else ("models", name)), find
    )
    if base not in found.checkpoints:
        raise PreflightError(found.faults)
    aligned = compare_aligned(found.checkpoints, base, vocabulary, view)
    if faults := [*found.faults, *aligned.faults]:
        raise PreflightError(faults)
    outlined = {name for name, folder in found.folders.items() if folder.outline}
    ready = {n: how for n, how in align.items() if not {base, n} & outlined}
    checkpoints = transformed(aligned.checkpoints, base, ready, near, locate, reading)
    return Models(base, found.folders, checkpoints, aligned.warnings)


@dataclass(frozen=True)
class Found:
    """Models that were found and opened, the base first, and what keeps others from it."""

    folders: Mapping[str, ModelFolder]
    checkpoints: Mapping[str, Checkpoint]
    faults: tuple[Fault, ...]


def find_models(
    references: Mapping[str, str],
    base: str,
    locate: Callable[[str], Location | None],
    find: Find = resolve,
) -> Found:
    """Find and open models by name, `base` first, since adapters belong to it.

    Args:
        references: paths or hub ids by name.
        base: the base's name.
        locate: finds where a model was named.
        find: finds their folders, or those of their outlines.
    """
    faults: list[Fault] = []
    folders: dict[str, ModelFolder] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for name in (base, *(name for name in references if name != base)):
        try:
            if is_noise(references[name]):
                if name == base:
                    raise PreflightError("noise is added to a base; name a model as the base")
                if base in checkpoints and not folders[base].outline:
                    noise = Noise.parse(references[name])
                    folders[name] = noise_folder(noise, checkpoints[base])
                    checkpoints[name] = open_checkpoint(folders[name].path, checkpoints[base])
                continue
            folders[name] = find(references[name])
            if name != base and base not in checkpoints and is_adapter(folders[name].path):
                continue  # the base's own fault is reported already
            checkpoints[name] = open_checkpoint(folders[name].path, checkpoints.get(base))
        except PreflightError as error:
            faults += [replace(fault, location=locate(name)) for fault in error.faults]
    return Found(folders, checkpoints, tuple(faults))


@dataclass(frozen=True)
class Compared:
    """Models in one vocabulary, if possible, and what keeps them from being merged."""

    checkpoints: Mapping[str, Checkpoint]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def compare_aligned(
    checkpoints: Mapping[str, Checkpoint], base: str, vocabulary: Vocabulary, view: View = whole
) -> Compared:
    """Bring models to one vocabulary, and compare the rest of them with the base."""
    sources = {name: c for name, c in checkpoints.items() if name != base}
    said = tuple(f"{name}: {note}" for name, c in checkpoints.items() for note in notes(c))
    reference = checkpoints[base]
    try:
        unsafe = any(scan(checkpoint.assets) for checkpoint in checkpoints.values())
        alike = not unsafe and all(
            alike_but_for_vocabulary(view(reference), view(source)) for source in sources.values()
        )
    except PreflightError:
        alike = False
    if not alike:
        found = check_models((base, view(reference)), {n: view(c) for n, c in sources.items()})
        return Compared(checkpoints, found.faults, said + found.warnings)
    try:
        aligned = align(checkpoints, base, vocabulary)
    except PreflightError as error:
        return Compared(checkpoints, error.faults, said)
    models = {name: view(checkpoint) for name, checkpoint in aligned.checkpoints.items()}
    found = check_models((base, models.pop(base)), models)
    return Compared(aligned.checkpoints, found.faults, said + aligned.warnings + found.warnings)


def structure_faults(recipes: Sequence[Recipe], models: Models, locate: Locate) -> list[Fault]:
    """List the slices and mixtures that a study's models do not have."""
    faults: list[Fault] = []
    for i, recipe in enumerate(recipes):
        try:
            if recipe.mixture is not None or recipe.experts is not None:
                Planner(models.checkpoints).plan(recipe)
            if not recipe.slices:
                continue
            known = {name: models.checkpoints[name].tensors for name in recipe.models}
            tensors = {
                target.place.tensor: known[target.reference.model][target.reference.tensor]
                for target in layout(recipe, known)
            }
            stacked_config(recipe, models.checkpoints, tensors)
            Joints(recipe, models.checkpoints[reference_model(recipe)].config)
        except PreflightError as error:
            faults += [Fault(fault.message, locate(("recipes", i))) for fault in error.faults]
    return faults


def check_adapters(models: Models, names: Sequence[str], rank: int | None, locate: Locate) -> None:
    """Refuse to export adapters from a study with other sources; `names` are the sources'.

    Without a rank, all must be LoRA: IA³ has no factors that could be laid side by side.

    Raises:
        PreflightError: with where each was named.
    """
    faults = [
        Fault(
            f"{name!r} is no adapter, and `export: adapter` is for studies whose sources all "
            "are; use another `export` and, after the search, automerge export --adapter --rank N",
            locate(("models", name)),
        )
        for name in names
        if not is_adapter(models.checkpoints[name].path)
    ]
    if rank is None:
        faults += [
            Fault(
                f"{name!r} is an IA³ adapter, which is not a sum of factors: add adapter_rank: N "
                "for the nearest LoRA adapters of rank N, or use another `export`",
                locate(("models", name)),
            )
            for name in names
            if adapter_kind(models.checkpoints[name].path) == "IA³"
        ]
    if faults:
        raise PreflightError(faults)


def check_mixtures(models: Models, locate: Locate) -> None:
    """Refuse a search of mixtures of experts of models that have none.

    Raises:
        PreflightError: with where the search asks for them.
    """
    base = models.checkpoints[models.base]
    try:
        config = {**base.config, **mixed_settings(2, 1, base)}
        made = (piece.tensor for piece in pieces(form_of(base), 2, base.tensors))
        check_mixed(config, made)
    except PreflightError as error:
        where = locate(("search", "layers")) or locate(("search",))
        raise PreflightError(Fault(fault.message, where) for fault in error.faults) from error


def check_experts(models: Models, counts: Sequence[int], locate: Locate) -> None:
    """Refuse a search of numbers of experts that the base's layers cannot have.

    Raises:
        PreflightError: with where the search asks for them.
    """
    try:
        grouped_settings(ExpertGroups(max(counts), BY[0]), models.checkpoints[models.base])
    except PreflightError as error:
        where = locate(("search", "layers", "experts", "count")) or locate(("search",))
        raise PreflightError(Fault(fault.message, where) for fault in error.faults) from error


def check_stack(models: Models, locate: Locate) -> None:
    """Refuse a search of other layers for a model with several stacks of them.

    Raises:
        PreflightError: with where the search asks for them.
    """
    found = stacks(models.checkpoints[models.base].tensors)
    if len(found) > 1:
        have = ", ".join(f"{stack} ({n})" for stack, n in found.items())
        where = locate(("search", "layers")) or locate(("search",))
        message = f"other layers need one stack of them; the base has {have}: remove this"
        raise PreflightError([Fault(message, where)])


def check_scales(models: Models, locate: Locate) -> None:
    """Refuse a search of scales between layers that the base's weights cannot take.

    Raises:
        PreflightError: with where the search asks for them.
    """
    faults = joint_faults(models.checkpoints[models.base].config)
    if faults:
        where = locate(("search", "layers")) or locate(("search",))
        raise PreflightError(Fault(fault, where) for fault in faults)
