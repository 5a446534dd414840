"""mergekit 0.1.5's names, and their counterparts here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from automerge.methods import METHODS

VOCABULARY_KEYS = ("tokenizer_source", "tokenizer", "chat_template")
KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "name",
    *VOCABULARY_KEYS,
)
FAMILY = ("normalize", "rescale", "lambda", "int8_mask")
PARAMETERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("weight",), ("normalize",)),
    "slerp": ((), ("t",)),
    "nuslerp": (("weight",), ("nuslerp_row_wise", "nuslerp_flatten")),
    "multislerp": (("weight",), ("normalize_weights", "eps")),
    "karcher": ((), ("max_iter", "tol")),
    "passthrough": (("scale",), ()),
    "task_arithmetic": (("weight", "density"), FAMILY),
    "ties": (("weight", "density"), FAMILY),
    "dare_linear": (("weight", "density"), FAMILY),
    "dare_ties": (("weight", "density"), FAMILY),
    "della": (("weight", "density", "epsilon"), FAMILY),
    "della_linear": (("weight", "density", "epsilon"), FAMILY),
    "breadcrumbs": (("weight", "density", "gamma"), FAMILY),
    "breadcrumbs_ties": (("weight", "density", "gamma"), FAMILY),
    "sce": ((), ("select_topk", "int8_mask")),
    "model_stock": ((), ("filter_wise",)),
    "ram": ((), ("epsilon",)),
    "ramplus_tl": ((), ("r", "alpha", "epsilon")),
    "nearswap": ((), ("t",)),
    "arcee_fusion": ((), ()),
}
"""Method → the parameters of each model, and those of the whole merge."""
ALL_PARAMETERS = frozenset(name for own, whole in PARAMETERS.values() for name in (*own, *whole))
RESCALES = ("dare_linear", "dare_ties", "della", "della_linear")
BASELESS = ("linear", "karcher", "passthrough")
"""Methods that treat the base, if it is listed, like any other model."""
REQUIRED = ("weight", "t")
INTEGERS = ("max_iter",)


@dataclass(frozen=True)
class Counterpart:
    """mergekit's name for one of our methods, and the switches that choose it."""

    method: str
    switches: Mapping[str, bool] = field(default_factory=dict)


COUNTERPARTS: Mapping[str, Counterpart] = {
    **{method: Counterpart(method) for method in PARAMETERS},
    "nuslerp": Counterpart("nuslerp", {"nuslerp_flatten": True}),
    "nuslerp_rows": Counterpart("nuslerp", {"nuslerp_flatten": False}),
    "task_nuslerp": Counterpart("nuslerp", {"nuslerp_flatten": True}),
    "task_nuslerp_rows": Counterpart("nuslerp", {"nuslerp_flatten": False}),
    "task_multislerp": Counterpart("multislerp"),
    "model_stock": Counterpart("model_stock", {"filter_wise": False}),
    "model_stock_rows": Counterpart("model_stock", {"filter_wise": True}),
}
"""mergekit's counterpart of each of our methods. One of its methods may stand for two of ours: one
with a base, one without."""
SWITCHES: Mapping[str, Mapping[str, bool]] = {
    "nuslerp": {"nuslerp_flatten": True},
    "model_stock": {"filter_wise": False},
}
"""mergekit's defaults for the switches that choose between our methods."""


def our_method(method: str, based: bool, switches: Mapping[str, bool]) -> str:
    """Return our name for one of mergekit's methods; `based` says whether the file names a base."""
    ours = [
        name
        for name, counterpart in COUNTERPARTS.items()
        if counterpart.method == method and counterpart.switches == switches
    ]
    return next((name for name in ours if METHODS[name].anchored == based), ours[0])


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
"""Names of final norms and output heads, which get the first value of a gradient in mergekit."""

DARE_NOTE = (
    "mergekit rescales what DARE keeps to the L1 norm before, automerge by 1/density as in "
    "the paper; the random masks differ too"
)
DELLA_NOTE = (
    "mergekit rescales what DELLA keeps to the L1 norm before, automerge each element by "
    "1/probability as in the paper; the random masks differ too"
)
TIES_NOTE = (
    "if several elements have exactly the magnitude of the density's threshold, mergekit keeps "
    "some of them, automerge all"
)
ZERO_NOTE = "mergekit treats a zero tensor as orthogonal to others, automerge as colinear"
STOCK_NOTE = (
    "mergekit shrinks the cosines of short task vectors and moves away from sources whose cosines "
    "are negative; automerge does neither"
)
SCE_NOTE = (
    "mergekit weights task vectors equally if their mean squares are below 1e-6, automerge always "
    "weights them by their squares"
)
FUSION_NOTE = (
    "mergekit computes importance in the dtype of the tensors, and its quantiles from a sample of "
    "large tensors; automerge computes both exactly"
)
NOTES: Mapping[str, tuple[str, ...]] = {
    "ties": (TIES_NOTE,),
    "dare_linear": (DARE_NOTE,),
    "dare_ties": (DARE_NOTE,),
    "della": (DELLA_NOTE,),
    "della_linear": (DELLA_NOTE,),
    "breadcrumbs": (TIES_NOTE,),
    "breadcrumbs_ties": (TIES_NOTE,),
    "nuslerp": (ZERO_NOTE,),
    "nuslerp_rows": (ZERO_NOTE,),
    "task_nuslerp": (ZERO_NOTE,),
    "task_nuslerp_rows": (ZERO_NOTE,),
    "sce": (SCE_NOTE,),
    "model_stock": (STOCK_NOTE,),
    "model_stock_rows": (STOCK_NOTE,),
    "arcee_fusion": (FUSION_NOTE,),
}
"""How mergekit's result differs, by our methods."""

Part: TypeAlias = tuple[str | None, tuple[float, ...]]
"""A substring of tensor names (None for all tensors), and a value or the knots of a gradient."""


def glob(substring: str) -> str:
    """Return the selector that matches names containing a text."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in substring)
    return f"*{escaped}*"


def final_values(parts: Sequence[Part]) -> dict[str, tuple[float, ...]]:
    """Return values of final norm and head by selector, if the part that matches is a gradient."""
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
