"""An inspection as JSON-ready values; docs/inspect.md describes the keys."""

from __future__ import annotations

from dataclasses import asdict

from automerge.inspection.model import Gradients, Inspection, Weights
from automerge.text.json_number import finite

VERSION = 1


def plain(found: Inspection) -> dict[str, object]:
    """Return everything that was found; numbers that are not known are None."""
    return {
        "version": VERSION,
        "base": found.base,
        "mergeable": found.mergeable,
        "download_seconds": None if found.download is None else finite(found.download.seconds),
        "models": [asdict(model) for model in found.models],
        "sources": {
            name: {
                "mergeable": verdict.mergeable,
                "faults": list(verdict.faults),
                "warnings": list(verdict.warnings),
                "nearest": None
                if (nearest := found.nearest.get(name)) is None
                else {
                    k: finite(v) if isinstance(v, float) else v for k, v in asdict(nearest).items()
                },
            }
            for name, verdict in found.verdicts.items()
        },
        "weights": None if found.weights is None else plain_weights(found.weights),
        "similarities": [
            {**asdict(similar), "layers": [finite(value) for value in similar.layers]}
            for similar in found.similarities
        ],
        "collapses": [
            {
                **asdict(collapse),
                "layers": [finite(value) for value in collapse.layers],
                "ratio": finite(collapse.ratio),
            }
            for collapse in found.collapses
        ],
        "gradients": None if found.gradients is None else _gradients(found.gradients),
        "scans": [asdict(scan) for scan in found.scans],
    }


def _gradients(found: Gradients) -> dict[str, object]:
    return {
        "pairs": [asdict(pair) for pair in found.pairs],
        "falls": [{**asdict(fall), "nats": finite(fall.nats)} for fall in found.falls],
    }


def plain_weights(weights: Weights) -> dict[str, object]:
    """Return norms, pairs, and tensors that are not finite."""
    return {
        "kinship": weights.kinship,
        "vectors": [
            {
                **asdict(vector),
                "relative": vector.norm / vector.base_norm if vector.base_norm else None,
                "cells": [{**asdict(cell), "relative": cell.relative} for cell in vector.cells],
            }
            for vector in weights.vectors
        ],
        "pairs": [asdict(pair) for pair in weights.pairs],
        "not_finite": [asdict(found) for found in weights.not_finite],
    }
