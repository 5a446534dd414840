"""Merge methods, by name."""

from dataclasses import replace

from automerge.extensions import Table
from automerge.methods.arcee_fusion import ARCEE_FUSION
from automerge.methods.base import (
    Coefficients,
    Knob,
    Method,
    Operands,
    Statistic,
    Statistics,
    Values,
)
from automerge.methods.cart import CART
from automerge.methods.check import check_recipe
from automerge.methods.emr_uni import EMR_UNI
from automerge.methods.ewr import EWR
from automerge.methods.ext_sub import EXT_SUB
from automerge.methods.fisher import FISHER
from automerge.methods.fisher_mask_nodes import FISHER_MASK_NODES
from automerge.methods.geometric_median import GEOMETRIC_MEDIAN
from automerge.methods.iso_c import ISO_C
from automerge.methods.iso_cts import ISO_CTS
from automerge.methods.karcher import KARCHER
from automerge.methods.knots_dare_ties import KNOTS_DARE_TIES
from automerge.methods.knots_ties import KNOTS_TIES
from automerge.methods.linear import LINEAR
from automerge.methods.magmax import MAGMAX
from automerge.methods.mats import MATS
from automerge.methods.metagpt import METAGPT
from automerge.methods.model_stock import MODEL_STOCK
from automerge.methods.model_stock_rows import MODEL_STOCK_ROWS
from automerge.methods.multislerp import MULTISLERP, TASK_MULTISLERP
from automerge.methods.nearswap import NEARSWAP
from automerge.methods.nuslerp import NUSLERP, TASK_NUSLERP
from automerge.methods.nuslerp_rows import NUSLERP_ROWS, TASK_NUSLERP_ROWS
from automerge.methods.opcm import OPCM
from automerge.methods.pairs import (
    BREADCRUMBS_LINEAR,
    BREADCRUMBS_TIES,
    CONSENSUS_LINEAR,
    DARE_LINEAR,
    DARE_TIES,
    DELLA_LINEAR,
    DELLA_TIES,
    MODEL_TAILOR_LINEAR,
    STA_LINEAR,
    STAR_MEAN,
    TIES,
)
from automerge.methods.passthrough import PASSTHROUGH
from automerge.methods.pcb import PCB
from automerge.methods.ram import RAM
from automerge.methods.ramplus_tl import RAMPLUS_TL
from automerge.methods.regmean import REGMEAN
from automerge.methods.sce import SCE
from automerge.methods.slerp import SLERP
from automerge.methods.task_arithmetic import TASK_ARITHMETIC
from automerge.methods.tatr import TATR
from automerge.methods.transformed import named_chain, qualified
from automerge.methods.transforms import TRANSFORMS
from automerge.methods.tsv_m import TSV_M
from automerge.methods.ubgm import UBGM
from automerge.methods.varm import VARM
from automerge.methods.widen import WIDEN


def admit(name: str, outside: object) -> Method:
    """Admit a method from outside the package, under the name that recipes know it by.

    Raises:
        TypeError: it is not a `Method`.
    """
    if not isinstance(outside, Method):
        raise TypeError(f"expected an automerge.methods.Method, got {type(outside).__name__}")
    return replace(outside, name=name)


OWN = (
    LINEAR,
    SLERP,
    NUSLERP,
    NUSLERP_ROWS,
    MULTISLERP,
    KARCHER,
    CART,
    PASSTHROUGH,
    TASK_ARITHMETIC,
    TIES,
    DARE_LINEAR,
    DARE_TIES,
    DELLA_TIES,
    DELLA_LINEAR,
    BREADCRUMBS_LINEAR,
    BREADCRUMBS_TIES,
    SCE,
    MODEL_STOCK,
    MODEL_STOCK_ROWS,
    TASK_NUSLERP,
    TASK_NUSLERP_ROWS,
    TASK_MULTISLERP,
    RAM,
    RAMPLUS_TL,
    NEARSWAP,
    ARCEE_FUSION,
    VARM,
    METAGPT,
    GEOMETRIC_MEDIAN,
    CONSENSUS_LINEAR,
    PCB,
    MAGMAX,
    EMR_UNI,
    WIDEN,
    TSV_M,
    KNOTS_TIES,
    KNOTS_DARE_TIES,
    STAR_MEAN,
    ISO_C,
    ISO_CTS,
    OPCM,
    EXT_SUB,
    REGMEAN,
    MATS,
    FISHER,
    FISHER_MASK_NODES,
    UBGM,
    EWR,
    TATR,
    STA_LINEAR,
    MODEL_TAILOR_LINEAR,
)
METHODS: Table[Method] = Table(
    "method", {method.name: method for method in OWN}, "automerge.methods", admit, named_chain
)

__all__ = [
    "METHODS",
    "TRANSFORMS",
    "Coefficients",
    "Knob",
    "Method",
    "Operands",
    "Statistic",
    "Statistics",
    "Values",
    "check_recipe",
    "qualified",
]
