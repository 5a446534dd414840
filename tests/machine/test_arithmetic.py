"""Kinds of processors are told apart, and the number of threads is not one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from automerge.machine.arithmetic import arithmetic

FLAGS = Path("/proc/cpuinfo")


def elsewhere(**environment: str) -> str:
    """What a process with other settings finds."""
    code = "from automerge.machine.arithmetic import arithmetic; print(arithmetic())"
    settings = {**os.environ, **environment}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


@pytest.mark.sample(1)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_processes_of_one_machine_agree_whatever_their_threads(threads):
    assert elsewhere(OMP_NUM_THREADS=threads) == arithmetic()


@pytest.mark.slow
@pytest.mark.skipif(
    not FLAGS.exists() or "avx2" not in FLAGS.read_text("ascii", "replace"),
    reason="only vector instructions can be left out",
)
def test_processors_that_round_otherwise_are_noticed():
    plain = elsewhere(ATEN_CPU_CAPABILITY="default", OMP_NUM_THREADS="1")
    vectors = elsewhere(ATEN_CPU_CAPABILITY="avx2", OMP_NUM_THREADS="1")
    assert plain != vectors
