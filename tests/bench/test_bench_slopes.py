"""The benchmark of slopes runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from automerge.bench.slopes import SlopeTime
from automerge.cli import app
from automerge.errors import ConfigError


@pytest.fixture(autouse=True)
def _threads_and_cache_of_their_own(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_medians_are_taken_of_each_number():
    median = SlopeTime.median(
        [SlopeTime(1, 3, 8, 2, 9), SlopeTime(2, 2, 9, 1, 7), SlopeTime(3, 4, 7, 3, 8)]
    )
    assert median == SlopeTime(2, 3, 8, 2, 8)
    assert (median.to_forward, median.to_floor, median.cpu_to_forward) == (8 / 3, 4, 4)


def test_command_prints_json():
    arguments = ["--task", "demo_clock", "--items", "4", "--repeats", "1", "--device", "cpu"]
    printed = CliRunner().invoke(app, ["bench", "slopes", *arguments, "--json"])
    found = json.loads(printed.stdout)
    work, median = found["work"], found["median"]
    assert (work["items"], work["requests"], work["numbers"]) == (4, 16, 3)
    assert work["weights"] >= 4 * work["parameters"] > work["gradients"] > 0
    assert work["graph"] > 0
    assert median["to_forward"] == median["slopes"] / median["forward"] > 1


def test_command_refuses_what_it_does_not_know():
    arguments = ["--shape", "tinny", "--method", "tie", "--items", "0", "--device", "cpu"]
    refused = CliRunner().invoke(app, ["bench", "slopes", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert len(refused.exception.faults) == 3
