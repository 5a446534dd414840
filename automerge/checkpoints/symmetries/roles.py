"""What each axis of each tensor counts, by architecture: heads, feed-forward units, the stream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.places import LAYER
from automerge.checkpoints.reader import shown
from automerge.errors import PreflightError

if TYPE_CHECKING:
    from torch import Tensor

STREAM = "stream"
QUERY, KEY, VALUE, OUTPUT = "query", "key", "value", "output"
HEADS = (QUERY, KEY, VALUE, OUTPUT)
"""Axes with a block of `head_size` per head; OUTPUT is the input axis of the output projection."""
UNITS = "units"
OTHER = "other"
"""An axis that is left alone."""
FUSED = "fused"
"""Per head its query, key and value, one after the other (GPT-NeoX)."""

_NORM = {"weight": (STREAM,), "bias": (STREAM,)}


def _linear(out: str, into: str) -> dict[str, tuple[str, ...]]:
    return {"weight": (out, into), "bias": (out,)}


def _transposed(out: str, into: str) -> dict[str, tuple[str, ...]]:
    return {"weight": (into, out), "bias": (out,)}


Roles = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Patterns of modules' names → the last part of the tensor's name → the role of each axis."""

_OUTER: Roles = {
    r"embed_tokens|embed_in|wte|wpe": {"weight": (OTHER, STREAM)},
    r"norm|ln_f|final_layernorm|final_layer_norm": _NORM,
    r"lm_head|embed_out": _linear(OTHER, STREAM),
}
_ATTENTION: Roles = {
    r"self_attn\.q_proj": _linear(QUERY, STREAM),
    r"self_attn\.k_proj": _linear(KEY, STREAM),
    r"self_attn\.v_proj": _linear(VALUE, STREAM),
    r"self_attn\.(o_proj|dense)": _linear(STREAM, OUTPUT),
    r"(input|post_attention|pre_feedforward|post_feedforward)_layernorm": _NORM,
}
_GATED: Roles = {
    r"mlp\.(gate|up)_proj": _linear(UNITS, STREAM),
    r"mlp\.down_proj": _linear(STREAM, UNITS),
}
_EXPERTS: Roles = {
    r"(?P<group>mlp\.(experts\.\d+|shared_expert))\.(gate|up)_proj": _linear(UNITS, STREAM),
    r"(?P<group>mlp\.(experts\.\d+|shared_expert))\.down_proj": _linear(STREAM, UNITS),
    r"(?P<group>block_sparse_moe\.experts\.\d+)\.w[13]": _linear(UNITS, STREAM),
    r"(?P<group>block_sparse_moe\.experts\.\d+)\.w2": _linear(STREAM, UNITS),
    r"mlp\.(gate|shared_expert_gate)|block_sparse_moe\.gate": _linear(OTHER, STREAM),
}
_HEAD_NORM: Roles = {r"self_attn\.[qk]_norm": {"weight": (OTHER,)}}
_PHI: Roles = {
    **_ATTENTION,
    r"mlp\.fc1": _linear(UNITS, STREAM),
    r"mlp\.fc2": _linear(STREAM, UNITS),
}


@dataclass(frozen=True)
class Family:
    """The roles of an architecture's axes.

    `rotary` says whether queries and keys are rotated by position, half against half; only
    rotations of such a pair commute with that. `normed` says whether a norm follows queries and
    keys, which no rotation commutes with. `transposed` says whether matrices are (inputs, outputs).
    """

    roles: Roles
    rotary: bool = True
    normed: bool = False
    transposed: bool = False


_LLAMA = Family({**_ATTENTION, **_GATED})
FAMILIES: Mapping[str, Family] = {
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": Family({**_LLAMA.roles, **_HEAD_NORM}, normed=True),
    "gpt2": Family(
        {
            r"ln_[12]": _NORM,
            r"attn\.c_attn": _transposed(f"{QUERY}+{KEY}+{VALUE}", STREAM),
            r"attn\.c_proj": _transposed(STREAM, OUTPUT),
            r"mlp\.c_fc": _transposed(UNITS, STREAM),
            r"mlp\.c_proj": _transposed(STREAM, UNITS),
        },
        rotary=False,
        transposed=True,
    ),
    "gpt_neox": Family(
        {
            r"(input|post_attention)_layernorm": _NORM,
            r"attention\.query_key_value": _linear(FUSED, STREAM),
            r"attention\.dense": _linear(STREAM, OUTPUT),
            r"mlp\.dense_h_to_4h": _linear(UNITS, STREAM),
            r"mlp\.dense_4h_to_h": _linear(STREAM, UNITS),
        }
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Family({**_ATTENTION, **_EXPERTS}),
    "olmo2": Family(
        {
            **_LLAMA.roles,
            r"self_attn\.q_norm": {"weight": (QUERY,)},
            r"self_attn\.k_norm": {"weight": (KEY,)},
        },
        normed=True,
    ),
    "phi": Family(_PHI),
    "phi3": Family(
        {
            **_ATTENTION,
            r"self_attn\.qkv_proj": _linear(f"{QUERY}+{KEY}+{VALUE}", STREAM),
            r"mlp\.gate_up_proj": _linear(f"{UNITS}+{UNITS}", STREAM),
            r"mlp\.down_proj": _linear(STREAM, UNITS),
        }
    ),
    "qwen2": _LLAMA,
    "qwen2_moe": Family({**_LLAMA.roles, **_EXPERTS}),
    "qwen3": Family({**_LLAMA.roles, **_HEAD_NORM}, normed=True),
    "qwen3_moe": Family({**_LLAMA.roles, **_EXPERTS, **_HEAD_NORM}, normed=True),
}
"""By `model_type`: the architectures whose axes are known."""


@dataclass(frozen=True)
class Group:
    """What is permuted together: the stream, one layer's heads, or one layer's or expert's units.

    Attributes:
        role: STREAM, UNITS, or one of `HEADS`.
        layer: None for the stream.
        expert: the module of the units; empty where a layer has only one.
    """

    role: str
    layer: int | None = None
    expert: str = ""


@dataclass(frozen=True)
class Part:
    """The entries of an axis that belong to a group, in the group's order; None for all."""

    group: Group
    entries: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Shapes:
    """How many heads an architecture has, and which of their entries can be rotated.

    `rotary` is the number of a head's entries that are rotated by position: the first ones.
    `rotates` says whether queries and keys can be rotated at all.
    """

    n_heads: int
    n_key_heads: int
    head_size: int
    rotary: int
    rotates: bool

    @property
    def per_key(self) -> int:
        """The number of query heads that share a key head."""
        return self.n_heads // self.n_key_heads

    def count(self, role: str) -> int:
        """Return how many heads an axis of this role has."""
        return self.n_heads if role in (QUERY, OUTPUT) else self.n_key_heads


Axes = tuple[tuple[Part, ...], ...]
"""The parts of each axis of a tensor; an axis without any is left alone."""


@dataclass(frozen=True)
class Anatomy:
    """A model's heads, and by name the parts of its tensors' axes, and the tensors' shapes.

    `transposed` says whether its matrices are (inputs, outputs).
    """

    shapes: Shapes
    axes: Mapping[str, Axes]
    lengths: Mapping[str, tuple[int, ...]]
    transposed: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of its layers."""
        found = {p.group.layer for axes in self.axes.values() for axis in axes for p in axis}
        return tuple(sorted(layer for layer in found if layer is not None))

    def in_layer(self, layer: int) -> dict[str, Axes]:
        """Return the tensors that have parts of one layer."""
        return {
            name: axes
            for name, axes in self.axes.items()
            if any(part.group.layer == layer for axis in axes for part in axis)
        }

    @property
    def sizes(self) -> dict[Group, int]:
        """The number of entries of each group."""
        return {
            part.group: self.lengths[name][number] if part.entries is None else len(part.entries)
            for name, axes in self.axes.items()
            for number, axis in enumerate(axes)
            for part in axis
        }

    @property
    def in_stream(self) -> dict[str, Axes]:
        """The tensors with an axis that is the stream."""
        return {
            name: axes
            for name, axes in self.axes.items()
            if any(part.group.role == STREAM for axis in axes for part in axis)
        }


def anatomy(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> Anatomy:
    """Return what the axes of a model's tensors are.

    Args:
        config: its configuration, with defaults filled in.
        tensors: the shapes of its tensors, by name.

    Raises:
        PreflightError: the architecture, or one of the tensors, is not known here.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise PreflightError(
            f"what the axes of its tensors count is not known for the architecture {kind!r}; "
            f"supported: {', '.join(FAMILIES)}"
        )
    shapes = _shapes(config, family)
    found: dict[str, Axes] = {}
    unknown = []
    for name, shape in tensors.items():
        axes = _axes(name, shape, family, shapes)
        if axes is None:
            unknown.append(name)
        else:
            found[name] = axes
    if unknown:
        raise PreflightError(
            f"a {kind} with {shown(unknown)}, whose axes are not known or of an unexpected length"
        )
    return Anatomy(shapes, found, dict(tensors), family.transposed)


def _shapes(config: Mapping[str, Any], family: Family) -> Shapes:
    n_heads = int(config.get("num_attention_heads") or config["n_head"])
    n_key_heads = int(config.get("num_key_value_heads") or n_heads)
    width = int(config.get("hidden_size") or config["n_embd"])
    size = int(config.get("head_dim") or width // n_heads)
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", 1.0) if isinstance(rope, Mapping) else 1.0
    rotary = int(size * (share if isinstance(share, int | float) else 1.0)) if family.rotary else 0
    normed = family.normed or bool(config.get("qk_layernorm"))
    return Shapes(n_heads, n_key_heads, size, rotary, not normed)


def _axes(name: str, shape: tuple[int, ...], family: Family, shapes: Shapes) -> Axes | None:
    """Return the parts of a tensor's axes; None if it is not known."""
    layered = LAYER.match(name)
    layer, inner = (int(layered[2]), layered[3]) if layered else (None, name)
    module, _, last = inner.rpartition(".")
    for pattern, by_last in (family.roles if layered else _OUTER).items():
        # Names outside the layers may have a prefix: `model.embed_tokens`.
        match = re.fullmatch(pattern if layered else rf"(?:.*\.)?(?:{pattern})", module)
        if match is None or last not in by_last:
            continue
        roles = by_last[last]
        expert = match.groupdict().get("group") or ""
        axes = [
            _parts(role, length, layer, expert, shapes)
            for role, length in zip(roles, shape, strict=False)
        ]
        if len(roles) != len(shape) or None in axes:
            return None
        return tuple(axis for axis in axes if axis is not None)
    return None


def _parts(
    role: str, length: int, layer: int | None, expert: str, shapes: Shapes
) -> tuple[Part, ...] | None:
    """Return the parts of an axis; None if its length is not the expected one."""
    if role == OTHER:
        return ()
    if role == STREAM:
        return (Part(Group(STREAM)),)
    sizes = {head: shapes.count(head) * shapes.head_size for head in HEADS}
    if role == FUSED:
        size, heads = shapes.head_size, range(shapes.n_heads)
        if length != 3 * size * shapes.n_heads or shapes.n_heads != shapes.n_key_heads:
            return None
        return tuple(
            Part(
                Group(kind, layer),
                tuple((3 * h + i) * size + e for h in heads for e in range(size)),
            )
            for i, kind in enumerate((QUERY, KEY, VALUE))
        )
    kinds = role.split("+")
    if UNITS in kinds:
        each, rest = divmod(length, len(kinds))
        sizes, fits = {UNITS: each}, rest == 0
    else:
        fits = length == sum(sizes[kind] for kind in kinds)
    if not fits:
        return None
    if len(kinds) == 1:
        return (Part(Group(role, layer, expert)),)
    parts, start = [], 0
    for kind in kinds:
        entries = tuple(range(start, start + sizes[kind]))
        parts.append(Part(Group(kind, layer, expert), entries))
        start += sizes[kind]
    return tuple(parts)


def entries_first(tensor: Tensor, axis: int, part: Part) -> Tensor:
    """Return the entries of a part, in its order, as rows: (entries, all else), float32."""
    import torch

    moved = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).float()
    return moved if part.entries is None else moved[torch.tensor(part.entries)]
