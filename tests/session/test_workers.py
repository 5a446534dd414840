"""What travels to workers on machines that lack it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from automerge import demo
from automerge.config import load_with_options
from automerge.evaluation.base import Settings
from automerge.evaluation.panel import Panel
from automerge.evidence import cache_folder, write_evidence
from automerge.executors import Files
from automerge.session.workers import WorkerBuilder, calibrated_tokens
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


def test_padding_is_counted_with_the_tokens_that_merges_are_calibrated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load_with_options(demo.CONFIG, {"out": str(tmp_path / "run")})
    assert calibrated_tokens(config, {"input_gram": {"one": "0" * 32}}) == 0
    pieces = [[3, 4, 5, 6, 7], [8], [9, 10]]
    file = write_evidence(cache_folder(), "activations", {"pieces": pieces}, {"w": torch.ones(2)})
    assert calibrated_tokens(config, {"activations": {"one": file.digest}}) == 3 * 5
    assert calibrated_tokens(config, {"activations": {"one": "0" * 32}}) == 0
