"""What mergekit 0.1.5 calls things, and which of them mean the same here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "name",
)
UNSUPPORTED_KEYS = {
    "modules": "merges of single modules are not supported yet",
    "tokenizer": "only the base's tokenizer is supported yet: remove `tokenizer`",
    "chat_template": "the base's chat template is kept: remove `chat_template`",
}
FAMILY = ("normalize", "rescale", "lambda", "int8_mask")
PARAMETERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("weight",), ("normalize",)),
    "slerp": ((), ("t",)),
    "task_arithmetic": (("weight", "density"), FAMILY),
    "ties": (("weight", "density"), FAMILY),
    "dare_linear": (("weight", "density"), FAMILY),
    "dare_ties": (("weight", "density"), FAMILY),
}
"""Method → the parameters a model may have, and those of the whole merge."""
NORMALIZES = ("linear", "ties")
RESCALES = ("dare_linear", "dare_ties")
REQUIRED = ("weight", "t")
OTHER_METHODS = (
    *("nuslerp", "multislerp", "karcher", "della", "della_linear", "breadcrumbs"),
    *("breadcrumbs_ties", "sce", "ram", "ramplus_tl", "model_stock", "nearswap"),
    *("arcee_fusion", "passthrough"),
)
DTYPES = ("float32", "bfloat16", "float16")

FINAL_MODULES = (
    "lm_head",
    "embed_out",
    "model.norm",
    "model.final_layernorm",
    "gpt_neox.final_layer_norm",
    "decoder.final_layer_norm",
    "ln_f",
    "norm_f",
)
"""Names of final norms and output heads, which take the first value of a gradient in mergekit."""

DARE_NOTE = (
    "mergekit rescales what DARE keeps by the share of its L1 norm, automerge by 1/density as in "
    "the paper; the random masks differ too"
)

Part: TypeAlias = tuple[str | None, tuple[float, ...]]
"""A substring of tensor names, None for all of them, and a value or the knots of a gradient."""


def glob(substring: str) -> str:
    """The selector that matches the names which contain a text."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in substring)
    return f"*{escaped}*"


def final_values(parts: Sequence[Part]) -> dict[str, tuple[float, ...]]:
    """Selectors for final norm and head, where the part that decides them is a gradient."""
    values: dict[str, tuple[float, ...]] = {}
    for module in FINAL_MODULES:
        first = {
            kind: next((k for s, k in parts if s is None or s in f"{module}.{kind}"), ())
            for kind in ("weight", "bias")
        }
        changed = {kind: knots[:1] for kind, knots in first.items() if len({*knots}) > 1}
        if len(changed) == 2 and changed["weight"] == changed["bias"]:
            values[f"*{module}.*"] = changed["weight"]
        else:
            values |= {f"*{module}.{kind}": knots for kind, knots in changed.items()}
    return values
