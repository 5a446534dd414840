"""`make chaos` in small, and proof that its audit would see what it looks for."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from automerge.commands.selftest import Row
from automerge.errors import ClusterLost
from tests.chaos import faults
from tests.chaos.hosts import can_make_hosts

pytestmark = pytest.mark.slow
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def rng() -> random.Random:
    return random.Random(5)


def test_a_killed_driver_loses_nothing(tmp_path: Path) -> None:
    assert faults.driver_killed(tmp_path, 4, rng()) == Row("kill -9 of the driver", 4, 4)


def test_a_killed_export_is_whole_or_absent(tmp_path: Path) -> None:
    assert faults.export_killed(tmp_path, 2, rng()) == Row("kill -9 during export", 2, 2)


@root
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    assert faults.disk_full(tmp_path, 2, rng()) == Row("full disk during a search", 2, 2)


@root
def test_a_full_disk_leaves_no_part_of_an_export(tmp_path: Path) -> None:
    assert faults.export_disk_full(tmp_path, 3, rng()).passed


hosts = pytest.mark.skipif(not can_make_hosts(), reason="only root can make network namespaces")


@hosts
def test_a_search_that_loses_its_head_ends_in_time_and_can_be_resumed(tmp_path: Path) -> None:
    assert faults.head_lost(tmp_path) == ClusterLost.exit_code


@hosts
def test_a_cut_line_to_a_host_costs_no_job(tmp_path: Path) -> None:
    assert faults.line_cut(tmp_path, 3, rng()) == Row("cut line to a host", 3, 3)


def test_the_audit_sees_what_was_lost_repeated_or_ended_otherwise(tmp_path: Path) -> None:
    reference = faults.undisturbed(tmp_path)
    witness = tmp_path / "witness"
    witness.write_text("start search/0/x\ndone search/0/x\nstart search/0/x\n")
    row = faults.audit("", 1, reference, witness, reference)
    assert row == Row("", 1, 1, lost=1, repeated=1)
    assert not row.passed
    other = tmp_path / "other"
    other.mkdir()
    for file in reference.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    from dataclasses import replace

    from automerge.store.store import Store

    with Store(other, write=True) as store:
        store.decide(replace(store.study.decided, front=(0,)))
    assert not faults.audit("", 1, other, tmp_path / "none", reference).passed
