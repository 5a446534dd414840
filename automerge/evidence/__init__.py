"""Evidence: what is computed once from a model and data, for methods that need it."""

from automerge.evidence.base import (
    ACTIVATIONS,
    BASE_GRADIENT,
    BASE_SQUARED_GRADIENT,
    GRADIENT,
    HIDDEN_STATE,
    INPUT_GRAM,
    KINDS,
    ROUTING,
    SQUARED_GRADIENT,
    SQUARED_MASK_GRADIENT,
    Evidence,
    Kind,
)
from automerge.evidence.file import (
    EVIDENCE,
    EvidenceFile,
    EvidenceFolders,
    MemoryEvidence,
    cache_folder,
    write_evidence,
)

__all__ = [
    "ACTIVATIONS",
    "BASE_GRADIENT",
    "BASE_SQUARED_GRADIENT",
    "EVIDENCE",
    "GRADIENT",
    "HIDDEN_STATE",
    "INPUT_GRAM",
    "KINDS",
    "ROUTING",
    "SQUARED_GRADIENT",
    "SQUARED_MASK_GRADIENT",
    "Evidence",
    "EvidenceFile",
    "EvidenceFolders",
    "Kind",
    "MemoryEvidence",
    "cache_folder",
    "write_evidence",
]
