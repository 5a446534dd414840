"""Transforms of task vectors, by name: what comes before a method."""

from collections.abc import Mapping
from types import MappingProxyType

from automerge.methods.transforms.base import Scalars, Transform
from automerge.methods.transforms.breadcrumbs import BREADCRUMBS
from automerge.methods.transforms.consensus import CONSENSUS
from automerge.methods.transforms.dare import DARE
from automerge.methods.transforms.della import DELLA
from automerge.methods.transforms.model_tailor import MODEL_TAILOR
from automerge.methods.transforms.sta import STA
from automerge.methods.transforms.star import STAR
from automerge.methods.transforms.trim import TRIM

TRANSFORMS: Mapping[str, Transform] = MappingProxyType(
    {t.name: t for t in (TRIM, DARE, DELLA, BREADCRUMBS, CONSENSUS, STAR, STA, MODEL_TAILOR)}
)

__all__ = [
    "BREADCRUMBS",
    "CONSENSUS",
    "DARE",
    "DELLA",
    "MODEL_TAILOR",
    "STA",
    "STAR",
    "TRANSFORMS",
    "TRIM",
    "Scalars",
    "Transform",
]
