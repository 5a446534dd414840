"""Who can reach the Ray that a search starts, and what is said of others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from automerge.executors.ray import cluster_warnings

OURS = """
import sys
from automerge.executors.ray import RayExecutor, RaySettings
from automerge.recipe import single
from automerge.trial import Job
from tests.toy import ITEMS, ToyWorker
if __name__ == "__main__":
    executor = RayExecutor(ToyWorker, RaySettings(workers=1))
    executor.submit(Job(0, single("a"), "search", ITEMS))
    while executor.next_finished(1.0) is None:
        pass
    import ray
    print("at", ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
    executor.close()
"""
STRANGER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
print("came in with", ray.cluster_resources())
"""


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_a_ray_of_our_own_refuses_strangers(token: str | None) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    ours = subprocess.Popen(
        [sys.executable, "-c", OURS],
        env=clean,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert ours.stdout is not None
    assert ours.stdin is not None
    address = next(line.split()[1] for line in ours.stdout if line.startswith("at "))
    guess = {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_TOKEN": token}
    if token is not None:
        guess["RAY_AUTH_MODE"] = "token"
    try:
        command = ["timeout", "60", sys.executable, "-c", STRANGER, address]
        environment = {**clean, **guess}
        stranger = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert stranger.returncode != 0
        assert "came in" not in stranger.stdout
    finally:
        ours.stdin.write("\n")
        ours.stdin.close()
        ours.stdout.close()
        assert ours.wait(timeout=60) == 0


def test_an_open_cluster_is_warned_about() -> None:
    [warning] = cluster_warnings("10.0.0.1:6379", {})
    assert "RAY_AUTH_MODE=token" in warning
    assert cluster_warnings("10.0.0.1:6379", {"RAY_AUTH_MODE": "token"}) == ()
    assert cluster_warnings(None, {}) == ()
