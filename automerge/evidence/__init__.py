"""Evidence: what is computed once from a model and data, for methods that need it."""

from automerge.evidence.base import INPUT_GRAM, KINDS, Evidence, Kind
from automerge.evidence.file import (
    EVIDENCE,
    EvidenceFile,
    EvidenceFolders,
    MemoryEvidence,
    cache_folder,
    write_evidence,
)

__all__ = [
    "EVIDENCE",
    "INPUT_GRAM",
    "KINDS",
    "Evidence",
    "EvidenceFile",
    "EvidenceFolders",
    "Kind",
    "MemoryEvidence",
    "cache_folder",
    "write_evidence",
]
