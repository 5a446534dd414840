"""Alignments on disk: computed once from two models, kept in files named by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from automerge.checkpoints.compatibility import complete, tensor_faults
from automerge.checkpoints.contents import weights_identity
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.symmetries.descent import MATCHES, Pair, aligned
from automerge.checkpoints.symmetries.roles import (
    OUTPUT,
    QUERY,
    UNITS,
    Anatomy,
    Group,
    anatomy,
)
from automerge.checkpoints.symmetries.transform import Transform
from automerge.checkpoints.symmetries.view import TransformedCheckpoint
from automerge.checkpoints.vocabularies.aligned import rearranged
from automerge.checkpoints.writer import raw_bytes
from automerge.errors import Fault, Locate, PreflightError, StateError
from automerge.files.align import ACTIVATION_MATCHING, DIGITS, Align
from automerge.files.atomic import write_bytes_atomically
from automerge.files.cache import cache_home

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Raised when the same models would get another alignment."""
ENDING = ".alignment.safetensors"
ORTHOGONAL = 1e-4
"""How far R Rᵀ of a rotation may be from the identity."""

Solve: TypeAlias = Callable[[Checkpoint, Checkpoint, Anatomy], Transform]
"""Returns the alignment of a source (second) with its base (first)."""


class Reading(Protocol):
    """Aligns by what models do on text; it comes from above, where models are run."""

    def key(self, name: str) -> str:
        """Return what the alignment of a source depends on besides the models."""

    def align(self, name: str, base: Checkpoint, source: Checkpoint, body: Anatomy) -> Transform:
        """Return the alignment of a source, which has a name, with its base.

        Raises:
            PreflightError: there is no text for it, or no memory for both models.
        """


def transformed(
    checkpoints: Mapping[str, Checkpoint],
    base: str,
    align: Mapping[str, str],
    near: Sequence[Path] = (),
    locate: Locate = lambda _: None,
    reading: Reading | None = None,
) -> Mapping[str, Checkpoint]:
    """Present models aligned with their base.

    Args:
        checkpoints: models with the same tensors, by name.
        base: the name of the model that others are aligned with.
        align: by model, one of `files.align.KINDS`, with a digest or without.
        near: folders where an alignment with a digest is looked up before the cache; where it is
            nowhere, it is computed again, unless it needs text.
        locate: finds where a model's alignment was written.
        reading: what aligns by activations; without it, such alignments must have digests.

    Raises:
        PreflightError: a model cannot be aligned, or its alignment is not the one named.
    """
    found = dict(checkpoints)
    faults: list[Fault] = []
    for name, text in align.items():
        if name not in checkpoints:
            continue
        try:
            if name == base:
                raise PreflightError("is what the others are aligned with, so it cannot be aligned")
            how, folders = Align.parse(text), [*near, cache_folder()]
            found[name] = _view(name, checkpoints[base], checkpoints[name], how, folders, reading)
        except PreflightError as error:
            where = locate(("align", name)) or locate(("align",))
            faults += [Fault(f"{name}: {fault.message}", where) for fault in error.faults]
    if faults:
        raise PreflightError(faults)
    return found


def cache_folder() -> Path:
    """Return the folder that alignments are kept in: `alignments`, in automerge's cache."""
    return cache_home() / "alignments"


def find(digest: str, folders: Sequence[Path]) -> Path | None:
    """Return the file of an alignment; None if it is in none of the folders."""
    paths = (folder / f"{digest}{ENDING}" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _view(
    name: str,
    base: Checkpoint,
    source: Checkpoint,
    align: Align,
    folders: Sequence[Path],
    reading: Reading | None,
) -> TransformedCheckpoint:
    shapes = {tensor: info.shape for tensor, info in base.tensors.items()}
    try:
        body = anatomy(complete(base), shapes)
    except PreflightError as error:
        raise PreflightError(f"cannot be aligned: {error}") from error
    if faults := tensor_faults(base, source):
        raise PreflightError(f"cannot be aligned: {faults[0]}")
    path = find(align.digest, folders) if align.digest else None
    if path is not None:
        return TransformedCheckpoint(source, body, _read(path, body), align)
    if align.kind != ACTIVATION_MATCHING:
        solve = partial(_by_weights, align.kind)
        key = _key(align.kind, base, source)
    elif align.digest:
        raise PreflightError(
            f"no alignment {align.digest} in {', '.join(map(str, folders))}, and without its text "
            f"it cannot be computed again: copy {align.digest}{ENDING} there from where the recipe "
            "was made"
        )
    elif reading is None:
        raise PreflightError(
            f"{align.kind} needs text: set `evidence: {{text: FILE}}` in a study; for a recipe, "
            f"`automerge gather BASE {name}=MODEL --align {align.kind} --text FILE` prints it with "
            "its digest"
        )
    else:
        solve = partial(reading.align, name)
        key = _key(f"{align.kind}\0{reading.key(name)}", base, source)
    digest, transform = _computed(solve, key, base, source, body)
    if align.digest not in ("", digest):
        raise PreflightError(
            f"the alignment computed from its weights has the digest {digest}, expected "
            f"{align.digest}: it is another model, or another kind of processor, which rounds "
            f"rotations differently; put {align.digest}{ENDING}, from where the recipe was made, "
            "beside the recipe"
        )
    return TransformedCheckpoint(source, body, transform, Align(align.kind, digest))


def _by_weights(kind: str, base: Checkpoint, source: Checkpoint, body: Anatomy) -> Transform:
    return aligned(Pair(body, base.read, source.read), MATCHES[kind])


def _computed(
    solve: Solve, key: str, base: Checkpoint, source: Checkpoint, body: Anatomy
) -> tuple[str, Transform]:
    """Return the alignment of two models and its digest; from the cache if it is there."""
    index = cache_folder() / f"{key}.json"
    with suppress(OSError, ValueError, PreflightError):
        digest = str(json.loads(index.read_text()))
        if (path := find(digest, [cache_folder()])) is not None:
            return digest, _read(path, body)
    transform = solve(base, source, body)
    return _keep(transform, index), transform


def _key(how: str, base: Checkpoint, source: Checkpoint) -> str:
    """Return a digest of all that an alignment depends on."""
    digest = hashlib.sha256(f"{how}\0{VERSION}".encode())
    for model in (base, source):
        digest.update(weights_identity(model).encode())
        for name in sorted(model.tensors):
            if rearranged(model, name):
                digest.update(name.encode() + b"\0" + raw_bytes(model.read(name)))
    return digest.hexdigest()[:DIGITS]


def _keep(transform: Transform, index: Path) -> str:
    """Write an alignment, and its digest under the models' key; return the digest."""
    from safetensors.torch import save

    content = save({name: tensor.clone() for name, tensor in transform.plain().items()})
    digest = hashlib.sha256(content).hexdigest()[:DIGITS]
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(index.with_name(f"{digest}{ENDING}"), content)
        write_bytes_atomically(index, json.dumps(digest).encode())
    except (OSError, StateError) as error:
        advice = "free some space or set XDG_CACHE_HOME to another folder"
        raise PreflightError(
            f"cannot keep the alignment in {index.parent}: {error}; {advice}"
        ) from error
    return digest


def _read(path: Path, body: Anatomy) -> Transform:
    """Read an alignment, which anyone may have made.

    Raises:
        PreflightError: it is damaged, or not one of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest()[:DIGITS] != path.name.removesuffix(ENDING):
        raise PreflightError(f"{path} is damaged: its bytes do not match its name; delete it")
    try:
        found = Transform.from_plain(load(content))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PreflightError(f"{path} is not an alignment: {error}") from error
    if not _fits(found, body):
        raise PreflightError(f"{path} is an alignment of a model of another shape")
    return found


def _fits(transform: Transform, body: Anatomy) -> bool:
    """Return whether a transform has a permutation and rotations for every group of a model."""
    shapes, size = body.shapes, body.shapes.head_size
    for group, length in body.sizes.items():
        if group.layer is None:
            fits = _permutation(transform.stream, length)
        elif group.role == UNITS:
            order = transform.units.get((group.layer, group.expert))
            fits = order is not None and _permutation(order, length)
        else:
            fits = _heads_fit(transform, group, shapes.count(group.role), length // size)
        if not fits:
            return False
    return True


def _heads_fit(transform: Transform, group: Group, n_heads: int, expected: int) -> bool:
    heads = transform.heads.get(group.layer) if group.layer is not None else None
    if heads is None or n_heads != expected:
        return False
    order = heads.queries if group.role in (QUERY, OUTPUT) else heads.keys
    rotations = [given for given in (heads.turns, heads.values) if given is not None]
    return _permutation(order, n_heads) and all(
        len(rotation) == len(heads.keys) and _orthogonal(rotation) for rotation in rotations
    )


def _permutation(order: Tensor, length: int) -> bool:
    import torch

    return order.dtype == torch.int64 and torch.equal(order.sort().values, torch.arange(length))


def _orthogonal(rotation: Tensor) -> bool:
    import torch

    if rotation.ndim != 3 or rotation.shape[1] != rotation.shape[2]:
        return False
    identity = torch.eye(rotation.shape[1], dtype=torch.float64)
    wide = rotation.double()
    return bool(((wide @ wide.transpose(1, 2) - identity).abs() <= ORTHOGONAL).all())
