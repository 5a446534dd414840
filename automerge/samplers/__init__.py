"""Samplers: who proposes the next parameters."""

from automerge.samplers.table import SAMPLERS

__all__ = ["SAMPLERS"]
