"""The Ray cluster that workers run on: started for a search, or joined."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from automerge.errors import ClusterLost
from automerge.executors.ray.settings import RaySettings
from automerge.machine.processors import usable_cpus

HEAD_PATIENCE_S = 25.0
"""How long the head may be unreachable; after 60 s Ray would end our process silently."""
_PORT = re.compile(r":\d+$")


class Cluster:
    """A Ray cluster, and the room it has for workers.

    If Ray is already initialised in this process, it is left running.
    """

    def __init__(self, settings: RaySettings) -> None:
        if settings.address is None:
            _demand_a_token()
        import ray

        self.ray = ray
        self.gone = False
        """Whether its head was lost."""
        self._settings = settings
        self._owned = not ray.is_initialized()
        if self._owned:
            _start(settings)
        self._head: str = ray.get_runtime_context().gcs_address

    def fits(self) -> int:
        """Return how many workers the cluster would have room for if it were idle."""
        held = self.ray.cluster_resources()
        return int(min(held.get(what, 0) / needed for what, needed in self._needs().items()))

    def _needs(self) -> dict[str, float]:
        """Return the resources that a worker takes."""
        settings = self._settings
        needs = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
        return {what: needed for what, needed in needs.items() if needed}

    def missing(self) -> str:
        """Describe what the cluster has, how much of it is free, and what a worker asks for."""
        held, free = self.ray.cluster_resources(), self.ray.available_resources()
        has = " and ".join(
            f"{_number(held.get(what, 0))} {what}s ({_number(free.get(what, 0))} free)"
            for what in ("CPU", "GPU")
        )
        asked = " and ".join(f"{_number(n)} {what}" for what, n in self._needs().items())
        advice = ""
        if self._settings.gpus_per_worker and not held.get("GPU"):
            advice = "; for workers without a GPU, use --device cpu"
        return f"no worker is up: the cluster has {has}, each worker asks for {asked}{advice}"

    def meet_head(self) -> None:
        """Wait until the head can be reached, since without it calls of Ray never return.

        Raises:
            ClusterLost: it cannot be reached for `HEAD_PATIENCE_S`.
        """
        until = time.monotonic() + HEAD_PATIENCE_S
        while not _listens(self._head):
            if time.monotonic() > until:
                self.gone = True
                raise ClusterLost(
                    f"Ray's head at {self._head} has been unreachable for {HEAD_PATIENCE_S:.0f} s; "
                    "restart it and run the same command to resume"
                )
            time.sleep(1)

    def leave(self) -> None:
        """Stop Ray if we started it; if the head is gone, let this process end without Ray."""
        if self.gone:
            atexit.register(_leave)
        elif self._owned:
            self.ray.shutdown()


def cluster_warnings(
    address: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """Return what users should know about a cluster before sending it code."""
    if address is None or environment.get("RAY_AUTH_MODE") == "token":
        return ()
    return (
        f"the Ray cluster at {address} executes code from anyone who can reach it; set "
        "RAY_AUTH_MODE=token there and here, or keep it on a private network",
    )


def _leave() -> None:
    """End the process immediately: without a head, Ray's shutdown hangs and then crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ClusterLost.exit_code)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=3):
            return True
    except OSError:
        return False


def _number(value: float) -> str:
    return f"{value:g}"


def _demand_a_token() -> None:
    """Make a Ray that we start require a random token, since it listens on the network.

    Ray reads these variables when it is imported, and passes them to its processes. If it was
    imported before, it keeps its own default, which since 2.60 is a token too.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _start(settings: RaySettings) -> None:
    import ray

    threads = str(max(1, int(settings.cpus_per_worker)))
    environment = {
        "OMP_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {}
    if settings.address is None:
        # A machine may have fewer cores than workers were asked for; that is the user's choice.
        wanted = (settings.workers or 1) * settings.cpus_per_worker
        cores = max(wanted, usable_cpus())
        options = {"num_cpus": int(-(-cores // 1))}
    address = settings.address or ""
    # Ray tries a port where nobody listens for minutes, and then ends the process.
    if _PORT.search(address) and not _listens(address.removeprefix("ray://")):
        raise _unreachable(address, "nobody listens there")
    try:
        ray.init(
            address=settings.address or "local",
            include_dashboard=False if settings.address is None else None,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": environment},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(settings.address or "this machine", error) from error


def _unreachable(where: str, why: object) -> ClusterLost:
    return ClusterLost(
        f"no Ray could be reached or started at {where}: {why}; check --ray-address and that "
        "RAY_AUTH_TOKEN is the cluster's, or leave the address out to use this machine"
    )
