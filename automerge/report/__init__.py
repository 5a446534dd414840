"""Results for people and programs: table, HTML, model card and front.json."""

from automerge.store.result import ModelOrigin, Provenance, StudyResult, TrialResult

__all__ = ["ModelOrigin", "Provenance", "StudyResult", "TrialResult"]
