"""Where a tensor sits in its model, read from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from automerge.recipe import Place

LAYER = re.compile(r"^(?:(.*?)\.)?(\d+)\.(.*)$")
NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)
# Tried in this order, on the part of the name after the layer's number.
ATTENTION = re.compile(
    r"attn|attention|(^|\.)(q|k|v|o|qkv|att)_proj|query_key_value|(^|[._])qkv", re.IGNORECASE
)
MLP = re.compile(
    r"mlp|ffn|ff_|feed_?forward|dense_?relu|moe|expert|(^|\.)fc_?\d|(gate|up|down)_proj"
    r"|(^|\.)(intermediate|output)\.dense",
    re.IGNORECASE,
)
EMBEDDING = re.compile(r"embed|(^|\.)(wte|wpe|shared|lm_head|output)(\.|$)", re.IGNORECASE)
HEAD = re.compile(r"lm_head|embed_out|(^|\.)output(\.|$)", re.IGNORECASE)


def places(names: Iterable[str]) -> dict[str, Place]:
    """Return the place of every tensor of one model, by name.

    Layer i of a stack of L has depth i/(L−1). Token embeddings have depth 0; the final norm, the
    output head (an "embedding", since it may be tied to one) and everything else outside the layers
    have depth 1. A norm inside attention is a "norm".
    """
    found = {name: LAYER.match(name) for name in names}
    last: dict[str, int] = {}
    for match in found.values():
        if match:
            stack = match[1] or ""
            last[stack] = max(last.get(stack, 0), int(match[2]))
    placed = {}
    for name, match in found.items():
        if match is None:
            placed[name] = Place(name, outer_component(name), outer_depth(name))
        else:
            layer, top = int(match[2]), last[match[1] or ""]
            depth = layer / top if top else 1.0
            placed[name] = Place(name, inner_component(match[3]), depth, layer)
    return placed


def inner_component(name: str) -> str:
    """Return the component of a tensor within a layer."""
    if NORM.search(module(name)):
        return "norm"
    if ATTENTION.search(name):
        return "attention"
    return "mlp" if MLP.search(name) else "other"


def outer_component(name: str) -> str:
    """Return the component of a tensor outside the layers."""
    if NORM.search(module(name)):
        return "norm"
    return "embedding" if EMBEDDING.search(name) else "other"


def outer_depth(name: str) -> float:
    return 0.0 if EMBEDDING.search(name) and not HEAD.search(name) else 1.0


def module(name: str) -> str:
    """Return the name of the module that owns a parameter."""
    return name.rsplit(".", 2)[-2] if "." in name else name
