"""The depot as an actor: started on the search's machine, asked from any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from automerge.executors.base import Travelling, WorkerFactory
from automerge.executors.ray.depot import Depot, Listing


class Remote:
    """A depot behind Ray; see `delivery.Source`."""

    def __init__(self, depot: Any) -> None:
        import ray

        self._get, self._depot = ray.get, depot

    def listings(self) -> Mapping[Path, Listing]:
        found: Mapping[Path, Listing] = self._get(self._depot.listings.remote())
        return found

    def digests(self, folder: Path) -> Mapping[str, str]:
        found: Mapping[str, str] = self._get(self._depot.digests.remote(folder))
        return found

    def piece(self, folder: Path, name: str, start: int, host: str) -> bytes:
        found: bytes = self._get(self._depot.piece.remote(folder, name, start, host))
        return found


class Shipping:
    """Serves the files that workers read to other machines, and says what was sent where.

    Without a factory there are no other machines, and nothing is served.
    """

    def __init__(
        self, ray: Any, factory: WorkerFactory | None, note: Callable[[str], None]
    ) -> None:
        self._ray, self._note = ray, note
        self._asked: Any = None
        self._sent: Mapping[str, int] = {}
        self.depot: Any = None
        """The actor; None if nothing is served, or it is not known what workers read."""
        if isinstance(factory, Travelling):
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
            remote = ray.remote(Depot).options(num_cpus=0, scheduling_strategy=here)
            self.depot = remote.remote(factory.files)

    def look(self) -> bool:
        """Note what was sent since; return whether there was anything."""
        if self.depot is None:
            return False
        if self._asked is None:
            self._asked = self.depot.sent.remote()
        if not self._ray.wait([self._asked], timeout=0)[0]:
            return False
        try:
            sent: Mapping[str, int] = self._ray.get(self._asked)
        except self._ray.exceptions.RayError:
            self.depot = None
            return False
        finally:
            self._asked = None
        more = {host: size for host, size in sent.items() if size > self._sent.get(host, 0)}
        self._sent = sent
        for host, size in more.items():
            self._note(f"{host} lacks files that workers read: {size / 1e9:.2f} GB sent so far")
        return bool(more)

    def close(self) -> None:
        """Stop serving."""
        if self.depot is not None:
            self._ray.kill(self.depot)
            self.depot = None
