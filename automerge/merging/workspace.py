"""What merging reads and computes repeatedly, kept while it is useful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from automerge.checkpoints import (
    Checkpoint,
    LowRank,
    Stored,
    TensorInfo,
    low_rank,
    rearranged,
)
from automerge.checkpoints.contents import weights_identity
from automerge.errors import PreflightError
from automerge.evidence import Evidence
from automerge.machine.processors import one_thread
from automerge.merging.backends.code import CompiledCode
from automerge.merging.cache import Cache, n_bytes
from automerge.merging.model_statistics import ModelStatistics
from automerge.merging.ranks import Ranks, ranks_of
from automerge.merging.statistics import Key, VectorStatistics
from automerge.merging.vectors import vector
from automerge.methods import Method, Operands
from automerge.methods.shared.uniform import Keys, keys, uniform


class Workspace:
    """Flat tensors, statistics and uniforms of named checkpoints, each made once.

    What is computed is kept while it fits into `budget` bytes; beyond that, it is computed again
    for every merged tensor, each of which ends with `release`. Tensors stored as low-rank updates
    are kept as that, and multiplied out only where a method needs them whole. `compiled` is the
    code that merges elementwise methods and counts statistics faster; None if it does not pay.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        budget: int = 0,
        compiled: CompiledCode | None = None,
        evidence: Mapping[str, Evidence] = MappingProxyType({}),
    ) -> None:
        self.checkpoints = checkpoints
        self._evidence = evidence
        self.compiled = compiled
        self.cache = Cache(budget)
        self._tensors: dict[Stored, Tensor] = {}
        self._updates: dict[Stored, LowRank | None] = {}
        self._multiplied: dict[Stored, Tensor] = {}
        self._numbers: dict[Key, Tensor] = {}
        self._models = ModelStatistics(checkpoints, self._read)
        self._identities: dict[str, str] = {}
        self._seed: int | None = None
        self._uniforms: dict[Stored, Tensor] = {}

    def release(self) -> None:
        """Forget what was computed for one merged tensor alone."""
        self._multiplied = {}
        self.cache.release()

    def info(self, origin: Stored) -> TensorInfo:
        """Return the shape and dtype of one model's tensor."""
        return self.checkpoints[origin.model].tensors[origin.tensor]

    def tensor(self, origin: Stored) -> Tensor:
        """Return one model's tensor, flat; never write to it."""
        if rearranged(self.checkpoints[origin.model], origin.tensor):
            return self.cache.get(("tensor", origin), lambda: self._read(*origin))
        kept = self._tensors if self.update(origin) is None else self._multiplied
        if origin not in kept:
            kept[origin] = self._read(*origin)
        return kept[origin]

    def update(self, origin: Stored) -> LowRank | None:
        """Return one model's tensor as a low-rank update, if it is stored as one."""
        if origin not in self._updates:
            checkpoint = self.checkpoints[origin.model]
            self._updates[origin] = low_rank.update(checkpoint, origin.tensor)
        return self._updates[origin]

    def _read(self, model: str, name: str) -> Tensor:
        with one_thread():  # adapters are multiplied out, and missing rows are means
            return self.checkpoints[model].read(name).reshape(-1)

    def statistics(self, base: Stored | None, sources: tuple[Stored, ...]) -> VectorStatistics:
        """Return statistics of the vectors of one tensor."""
        return VectorStatistics(
            base, sources, self.tensor, self._numbers, self.cache, self._models, self.compiled
        )

    def mask_keys(self, seed: int, source: Stored) -> Keys:
        """Return the keys of the random numbers of one tensor of one source.

        They depend on the tensor's name and the source's weights, not on what the source is called.
        """
        return keys(seed, source.tensor, self._identity(source.model))

    def _identity(self, model: str) -> str:
        if model not in self._identities:
            self._identities[model] = weights_identity(self.checkpoints[model])
        return self._identities[model]

    def uniform(self, seed: int, source: Stored, start: int, stop: int) -> Tensor:
        """Return uniforms for elements [start, stop) of one tensor of one source."""
        if seed != self._seed:
            self.cache.budget += sum(map(n_bytes, self._uniforms.values()))
            self._seed, self._uniforms = seed, {}
        kept = self._uniforms.get(source)
        if kept is None:
            size = self.info(source).n_elements
            identity = self._identity(source.model)
            if not self.cache.take(4 * size):
                return uniform(seed, source.tensor, identity, start, stop - start)
            kept = uniform(seed, source.tensor, identity, 0, size)
            self._uniforms[source] = kept
        return kept[start:stop]

    def ranks(self, base: Stored | None, source: Stored, columns: int) -> Ranks:
        """Return ranks of one source's vector within its rows of `columns` elements."""

        def ranked() -> Ranks:
            anchor = None if base is None else self.tensor(base)
            rows = torch.cat(list(vector(self.tensor(source), anchor))).reshape(-1, columns)
            ranks = None if self.compiled is None else self.compiled.row_ranks(rows)
            return Ranks((ranks_of(rows) if ranks is None else ranks).reshape(-1), columns)

        return self.cache.get(("ranks", base, source, columns), ranked)

    def evidence(self, digest: str, kind: str, origin: Stored) -> Tensor | None:
        """Return what the evidence has for a source's tensor, by its digest; kept while it fits.

        Raises:
            PreflightError: The evidence is missing, or of another kind.
        """

        def read() -> tuple[Tensor, ...]:
            found = self._evidence[digest]
            if found.kind != kind:
                raise PreflightError(f"the evidence {digest} is {found.kind}, expected {kind}")
            tensor = found.read(origin.tensor)
            return () if tensor is None else (tensor,)

        kept = self.cache.get(("evidence", digest, origin.tensor), read)
        return kept[0] if kept else None

    def pieces(self, digests: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the sequences of token ids that all evidence of these digests was taken on.

        Raises:
            PreflightError: It was taken on different ones, or on none.
        """
        found = [self._evidence[digest].pieces for digest in digests]
        if not found[0] or any(pieces != found[0] for pieces in found):
            raise PreflightError(
                "calibration needs evidence of all sources on the same text: gather it with a "
                "single --text for all"
            )
        return found[0]

    def prepared(self, method: Method, key: Key, operands: Operands) -> tuple[Tensor, ...]:
        """Return what a method computes from one tensor's operands, whatever the knobs."""
        prepare = method.prepare
        return () if prepare is None else self.cache.get((prepare, *key), lambda: prepare(operands))
