"""Models as transformers loads them, under the names that their base stores.

Checkpoints of the same architecture may name and arrange their tensors differently: with or without
an outer prefix, in the spelling of older versions, with experts separate or stacked, with a tied
tensor stored once or twice. Tensors are the same if transformers loads them as the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from automerge.checkpoints.adapters.checkpoint import AdapterCheckpoint
from automerge.checkpoints.architecture import Architecture, architecture, at, native
from automerge.checkpoints.labels import label_order, label_rows, reordered
from automerge.checkpoints.naming import Key
from automerge.checkpoints.places import LAYER
from automerge.checkpoints.reader import Checkpoint, shown
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.errors import PreflightError

if TYPE_CHECKING:
    from torch import Tensor

TIE = "tie_word_embeddings"
QUANTISED = re.compile(r"\.(qweight|qzeros|g_idx|absmax|quant_map|SCB|weight_packed|\w*_blocks)$")
"""Suffixes of names under which quantised weights are stored."""
WRAPPED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|module|base_model(\.model)?)\.")

Read: TypeAlias = Callable[[], "Tensor"]
Tensors: TypeAlias = dict[str, tuple[TensorInfo, Read]]


@dataclass(frozen=True)
class Stored:
    """What a folder stores, in terms of its architecture.

    `names` are the stored names by key, with each tied tensor once; `extra` are stored names that
    the architecture does not have; `elsewhere` are parts that the base's class has, but not the
    class it was saved as. `config` is corrected for tensors that are not tied after all; `notes`
    are for the user.
    """

    raw: Checkpoint
    own: Architecture
    config: Mapping[str, Any]
    names: Mapping[str, str]
    extra: tuple[str, ...]
    elsewhere: frozenset[str]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The stored tensors that are used, in their order."""
        left = {*self.names.values(), *self.extra}
        return {name: info for name, info in self.raw.tensors.items() if name in left}


class PresentedCheckpoint:
    """A model folder's tensors under other names, or without some of them."""

    def __init__(self, stored: Stored, tensors: Tensors, notes: tuple[str, ...]) -> None:
        self.path: Path = stored.raw.path
        self.assets: Path = stored.raw.assets
        self.config = stored.config
        self.stored = stored
        self.notes = (*stored.notes, *notes)
        self.tensors: Mapping[str, TensorInfo] = {name: info for name, (info, _) in tensors.items()}
        self._read = {name: read for name, (_, read) in tensors.items()}

    def read(self, name: str) -> Tensor:
        if name not in self._read:
            raise PreflightError(f"{self.path}: has no tensor {name!r}")
        return self._read[name]()


def present(raw: Checkpoint, base: Checkpoint | None = None) -> Checkpoint:
    """Return a model as transformers loads it, under its own names or those of its base.

    A model of an architecture that transformers does not have is returned unchanged, to be refused
    when it is compared.

    Raises:
        PreflightError: its tensors do not match its configuration.
    """
    if raw.config.get("quantization_config") or not native(raw.config):
        return raw
    try:
        if base is None or not isinstance(base, PresentedCheckpoint):
            stored = examine(raw, raw.config)
            return PresentedCheckpoint(stored, own_tensors(stored), ())
        stored = examine(raw, as_class_of(base.config, raw.config))
        return PresentedCheckpoint(stored, *_Renaming(stored, base).tensors())
    except PreflightError as error:
        raise at(raw.assets / "config.json", error) from error


def notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return what the user should know about how a model's tensors are read."""
    if isinstance(checkpoint, PresentedCheckpoint | AdapterCheckpoint):
        return checkpoint.notes
    return ()


def saved_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return a model's configuration as it was saved, naming the class it was saved as."""
    if isinstance(checkpoint, PresentedCheckpoint):
        return checkpoint.stored.raw.config
    return checkpoint.config


def own_tensors(stored: Stored) -> Tensors:
    """Return the tensors under the names they are stored under."""
    return {name: (info, reader(stored.raw, name)) for name, info in stored.tensors.items()}


def reader(raw: Checkpoint, name: str) -> Read:
    """Return a function that reads one stored tensor."""
    return partial(raw.read, name)


def as_class_of(base: Mapping[str, Any], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration with its base's class, as which transformers would load it.

    So an encoder and a classifier based on it, or a model saved without its head, share tensors.
    """
    key = "architectures"
    if config.get("model_type") != base.get("model_type") or config.get(key) == base.get(key):
        return config
    return {**config, key: base.get(key)}


def examine(raw: Checkpoint, config: Mapping[str, Any]) -> Stored:
    """Match a model's stored tensors with its architecture.

    Args:
        raw: the model as stored.
        config: its configuration, or the same with another class of its model type.

    Raises:
        PreflightError: the tensors do not match the configuration.
    """
    most = 4 * len(raw.tensors) + 1_000
    own = architecture(config, most)
    found = own.keys([*raw.tensors])
    check_shapes(raw, own, found)
    groups: dict[str, dict[str, str]] = {}
    for name in raw.tensors:
        if (key := found[name]) is not None:
            groups.setdefault(own.ties.get(key.part, key.part), {})[name] = key.part
    names: dict[str, str] = {}
    untied: list[str] = []
    for whole, group in groups.items():
        first = next((name for name, part in group.items() if part == whole), next(iter(group)))
        names[whole] = first
        for name, part in group.items():
            if name != first and not equal(raw, first, name):
                names[part] = name
                untied.append(name)
    said = []
    if untied:
        config = without_tie(config, untied, own, most)
        own = architecture(config, most)
        said.append(
            f"stores {shown(untied)} with values that differ from what its configuration ties it "
            "to: it is treated as untied, as in transformers 5"
        )
    extra = [name for name in raw.tensors if found[name] is None]
    kept = [name for name in extra if name.rpartition(".")[2] not in own.constants]
    beyond = [name for name in kept if LAYER.match(name) and not own.leaves_out(name)]
    if beyond:
        said.append(
            f"stores {shown(beyond)}, of layers or modules that its configuration does not have: "
            "ignored"
        )
    kept = [name for name in kept if name not in beyond]
    lacking = missing(own, names)
    if in_layers := [name for name in lacking if LAYER.match(name)]:
        raise PreflightError(
            f"describes {len(in_layers):,} tensor(s) of layers that the weight files lack: "
            f"{shown(in_layers)}; {remedy(extra)}"
        )
    elsewhere = frozenset(foreign_to(raw.config, lacking, most))
    if (saved := architecture(raw.config, most).name) != own.name:
        lacks = (
            f", which has no {shown(sorted(elsewhere))}: the base's are used" if elsewhere else ""
        )
        said.append(
            f"was saved as a {saved}{lacks}; it is merged as the base's class, a {own.name}"
        )
    lacking = [name for name in lacking if name not in elsewhere]
    if lacking:
        said.append(
            f"lacks {shown(lacking)}, which transformers initialises at random when it loads a "
            f"{own.name}"
        )
    return Stored(raw, own, config, names, tuple(kept), elsewhere, tuple(said))


def foreign_to(config: Mapping[str, Any], parts: list[str], most: int) -> list[str]:
    """Return the parts that the class named by a configuration does not have."""
    if not parts:
        return []
    return [part for part, key in architecture(config, most).keys(parts).items() if key is None]


def remedy(extra: list[str]) -> str:
    """Say what to do about weight files that lack tensors, given the names they have instead."""
    if any(QUANTISED.search(name) for name in extra):
        return (
            "they contain quantised weights, which cannot be merged; use the model they were made "
            "from"
        )
    if wrapped := [name for name in extra if WRAPPED.match(name)]:
        return (
            f"they have {wrapped[0]} instead, a name given by a wrapper in training: save the "
            "unwrapped model"
        )
    if extra:
        return f"they have {shown(extra)} instead; save the model again with save_pretrained"
    return "download the model again"


def check_shapes(raw: Checkpoint, own: Architecture, found: Mapping[str, Key | None]) -> None:
    """Refuse tensors whose shapes are not those of the configuration."""
    wrong = []
    for name, info in raw.tensors.items():
        key = found[name]
        wanted = own.parts.get(key.part) if key is not None else None
        if wanted is None and key is not None and key.part == key.live:
            wanted = own.state[key.live]
        if wanted is not None and tuple(wanted.shape) != info.shape:
            wrong.append((name, list(info.shape), list(wanted.shape)))
    if wrong:
        name, got, expected = wrong[0]
        raise PreflightError(
            f"does not match the weights: {len(wrong)} tensor(s) have a different shape; {name} is "
            f"{got}, expected {expected}"
        )


def equal(raw: Checkpoint, one: str, other: str) -> bool:
    """Return whether two stored tensors have the same values."""
    import torch

    if raw.tensors[one] != raw.tensors[other]:
        return False
    return torch.equal(raw.read(one), raw.read(other))


def without_tie(
    config: Mapping[str, Any], untied: list[str], own: Architecture, most: int
) -> Mapping[str, Any]:
    """Return the configuration that unties these tensors, if there is one, else the same."""
    changed = {**config, TIE: False}
    text = config.get("text_config")
    if isinstance(text, Mapping) and TIE in text:
        changed["text_config"] = {**text, TIE: False}
    left = architecture(changed, most).ties.keys()
    still = {key.part for key in own.keys(untied).values() if key is not None} & left
    return config if still else changed


def missing(own: Architecture, names: Mapping[str, str]) -> list[str]:
    """Return the parts that an architecture needs but that are not stored."""
    lives = {key.live for key in own.keys([*names.values()]).values() if key is not None}
    lives |= {own.ties[name] for name in lives & own.ties.keys()}
    lives |= {target for target, source in own.ties.items() if source in lives}
    stored = {own.ties.get(part, part) for part in names}
    needed = []
    for part in own.parts:
        owner = own.owner(part)
        if owner is None or owner in lives or own.may_lack(owner):
            continue
        if own.ties.get(part, part) not in stored and own.ties.get(owner, owner) not in stored:
            needed.append(part)
    return needed


class _Renaming:
    """Finds the tensors of a base in one of its fine-tunes."""

    def __init__(self, stored: Stored, base: PresentedCheckpoint) -> None:
        self._stored = stored
        self._base = base
        self._theirs = base.stored
        self._spelling = {blank(key): name for key, name in base.stored.names.items()}

    def tensors(self) -> tuple[Tensors, tuple[str, ...]]:
        """Return its tensors by the base's names, and notes for the user."""
        found: Tensors = {}
        used: set[str] = set()
        borrowed: list[str] = []
        raw = self._stored.raw
        keys = {name: key for key, name in self._theirs.names.items()}
        for name, info in self._base.tensors.items():
            if name not in keys:
                if name in self._stored.extra:
                    found[name] = raw.tensors[name], reader(raw, name)
                else:
                    found[name] = info, reader(self._theirs.raw, name)
                    borrowed.append(name)
                continue
            key = keys[name]
            if (own := self._stored.names.get(key)) is not None:
                found[name] = raw.tensors[own], reader(raw, own)
                used.add(own)
            elif (made := self._arranged(key, used)) is not None:
                found[name] = made
            elif key in self._stored.elsewhere or self._stored.own.may_lack(key):
                found[name] = info, reader(self._theirs.raw, name)
        for key, own in self._stored.names.items():
            if own not in used:
                found.setdefault(self._spelled(key, own), (raw.tensors[own], reader(raw, own)))
        said = []
        if borrowed:
            said.append(
                f"lacks {shown(borrowed)}, which its architecture does not use: the merged model "
                "gets the base's"
            )
        said += self._relabel(found)
        dropped = [name for name in self._stored.extra if name not in found]
        if dropped:
            kind = self._stored.own.name
            said.append(f"stores {shown(dropped)}, which a {kind} does not have: ignored")
        return found, tuple(said)

    def _relabel(self, found: Tensors) -> list[str]:
        """Put a classifier's labels in the base's order, and return notes for the user."""
        found_rows = label_rows(self._theirs.config, self._theirs.own)
        rows = {key: row for key, row in found_rows.items() if key in self._stored.names}
        if not rows:
            return []
        order, note = label_order(self._theirs.own, self._stored.own, rows, self._theirs.raw.path)
        for key, dimension in rows.items() if order else ():
            name = self._theirs.names.get(key)
            if name in found and order:
                info, read = found[name]
                found[name] = info, partial(relabelled, read, dimension, order)
        return [note] if note else []

    def _arranged(self, key: str, used: set[str]) -> tuple[TensorInfo, Read] | None:
        """Return a tensor of the base that this model stores in pieces, or as part of another."""
        mine, parts = self._stored, self._stored.own.parts
        if key in parts:
            whole = mine.names.get(mine.own.owner(key) or "")
            if whole is None:
                return None
            used.add(whole)
            return part_of(mine.raw, whole, parts[key])
        pieces = {p: mine.names.get(p) for p in parts if mine.own.owner(p) == key}
        stored = {p: name for p, name in pieces.items() if name is not None}
        if not pieces or len(stored) != len(pieces):
            return None
        used.update(stored.values())
        return joined(mine.raw, {name: parts[p] for p, name in stored.items()}, mine.own.state[key])

    def _spelled(self, key: str, own: str) -> str:
        """Return the base's name for a tensor that it lacks, by analogy with its other layers."""
        like, number = self._spelling.get(blank(key)), LAYER.match(key)
        match = LAYER.match(like) if like is not None else None
        if match is None or number is None:
            return key if key in self._stored.own.state else own
        return ".".join([*([match[1]] if match[1] else []), number[2], match[3]])


def relabelled(read: Read, dimension: int, order: list[int]) -> Tensor:
    """Read a tensor with its labels rearranged."""
    return reordered(read(), dimension, order)


def blank(key: str) -> str:
    """Return a key with the number of its layer replaced by `*`."""
    return re.sub(r"(^|\.)\d+\.", r"\1*.", key, count=1)


def part_of(raw: Checkpoint, whole: str, part: Tensor) -> tuple[TensorInfo, Read]:
    """Return part of a stored tensor, given that part of the live one."""
    shape, stride, offset = tuple(part.shape), part.stride(), part.storage_offset()

    def read() -> Tensor:
        return raw.read(whole).contiguous().as_strided(shape, stride, offset).contiguous()

    return TensorInfo(shape, raw.tensors[whole].dtype), read


def joined(raw: Checkpoint, pieces: Mapping[str, Tensor], whole: Tensor) -> tuple[TensorInfo, Read]:
    """Return a tensor that is stored in pieces, assembled as in the live model."""
    import torch

    dtype = raw.tensors[next(iter(pieces))].dtype
    places = {n: (tuple(p.shape), p.stride(), p.storage_offset()) for n, p in pieces.items()}
    shape = tuple(whole.shape)

    def read() -> Tensor:
        made = torch.empty(shape, dtype=getattr(torch, dtype))
        for name, place in places.items():
            made.as_strided(*place).copy_(raw.read(name))
        return made

    return TensorInfo(shape, dtype), read
