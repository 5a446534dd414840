"""Names of devices: what runs, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from automerge.commands.doctor import examine
from automerge.config.sections import Evaluation
from automerge.errors import PreflightError
from automerge.machine.devices import DEVICES, device_fault
from automerge.worker.worker import choose_device


def test_a_configuration_takes_the_devices_that_are_known() -> None:
    assert get_args(Evaluation.model_fields["device"].annotation) == DEVICES
    assert [device_fault(name) for name in DEVICES] == [None] * len(DEVICES)


@pytest.mark.parametrize(
    ("device", "said"),
    [("mps", "use cpu, which auto takes on a Mac"), ("cuda:x", "choose from 'auto', 'cpu'")],
)
def test_other_devices_are_refused_before_anything_is_loaded(device: str, said: str) -> None:
    with pytest.raises(PreflightError, match=said):
        choose_device(device)


def test_on_a_mac_everything_runs_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As PyTorch answers there."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    assert choose_device("auto") == "cpu"
    [found] = [check for check in examine(tmp_path) if check.name == "device"]
    assert (found.state, found.found) == ("ok", "CPU (Apple's GPUs are not supported)")
