"""What travels to workers on machines that lack it."""

from __future__ import annotations

from pathlib import Path

from automerge.evaluation.base import Settings
from automerge.evaluation.panel import Panel
from automerge.executors import Files
from automerge.session.workers import WorkerBuilder
from automerge.worker.worker import WorkerSpec


def test_workers_get_the_alignments_that_their_models_have() -> None:
    kept, there = Path("/here/alignments"), Path("/there/received")
    spec = WorkerSpec(
        models={"base": Path("/here/base"), "one": Path("/here/one")},
        digests={},
        base="base",
        panel=Panel((), Settings()),
        run=Path("/here/run"),
        dtype="auto",
        device="cpu",
        align={"one": f"activation_matching@{'0' * 32}"},
        alignments=(kept,),
    )
    builder = WorkerBuilder(spec, ())
    assert Files(kept, (f"{'0' * 32}.alignment.safetensors",)) in builder.files
    moved = builder.relocated({kept: there})
    assert moved.spec.alignments == (there,)
    assert moved.spec.models == spec.models
