"""Two hosts on one machine: network namespaces with a line between them that can be cut (root)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
HEAD, OTHER = "10.213.77.1", "10.213.77.2"
PORT = 6399
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "both-hosts-have-it",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""One token for both; a lost node is noticed after some seconds, not after half a minute."""


def can_make_hosts() -> bool:
    """Whether this user may make network namespaces, and the tool for it is there."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@dataclass
class Hosts:
    """Names of the namespaces, by address, and what runs in them."""

    names: dict[str, str]
    scratch: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, address: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on a host."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[address], *command],
            cwd=REPOSITORY,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=(self.scratch / "stderr").open("ab"),
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def start_ray(self, address: str) -> subprocess.Popen[bytes]:
        """Start a Ray node with one core on a host, the head on the first."""
        where = [f"--address={HEAD}:{PORT}"]
        if address == HEAD:
            where = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        # Session folders hold sockets, whose paths must be short.
        folder = f"/tmp/{self.names[address]}"
        options = [f"--node-ip-address={address}", f"--temp-dir={folder}", "--num-cpus=1"]
        ray = Path(sys.executable).with_name("ray")
        return self.run(address, str(ray), "start", *where, *options, "--block")

    def await_port(self, address: str, port: int) -> None:
        """Wait until something on a host listens to its port."""
        code = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
        until = time.monotonic() + 60
        while self.run(address, sys.executable, "-c", code).wait():
            if time.monotonic() > until:
                raise TimeoutError(f"nothing listens at {address}:{port}")
            time.sleep(0.5)

    def cut(self) -> None:
        """Nothing gets through from here on."""
        ip("-n", self.names[OTHER], "link", "set", "line", "down")

    def mend(self) -> None:
        """Everything gets through again."""
        ip("-n", self.names[OTHER], "link", "set", "line", "up")

    def end(self, process: subprocess.Popen[bytes], gently: bool = True) -> None:
        """End a program and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL)[not gently :]:
            for pid in session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            until = time.monotonic() + 5
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
        process.wait()


@contextmanager
def two_hosts(scratch: Path) -> Iterator[Hosts]:
    """Two hosts with a line; all that was started on them is ended at the end."""
    names = {HEAD: f"am{os.getpid()}a", OTHER: f"am{os.getpid()}b"}
    hosts = Hosts(names, scratch)
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ends = [part for name in names.values() for part in ("line", "netns", name)]
        ip("link", "add", *ends[:3], "type", "veth", "peer", "name", *ends[3:])
        for address, name in names.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "line")
            ip("-n", name, "link", "set", "line", "up")
        yield hosts
    finally:
        for process in reversed(hosts.running):
            hosts.end(process)
        for name in names.values():
            for pid in subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            ).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
            shutil.rmtree(f"/tmp/{name}", ignore_errors=True)


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
