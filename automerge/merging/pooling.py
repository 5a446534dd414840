"""Make one tensor of a mixture whose experts are merged into fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from automerge.checkpoints import Stored
from automerge.errors import PreflightError
from automerge.evidence.routing import Routing
from automerge.expert_groups import EVIDENCE
from automerge.merging.grouping import Group, grouped, unit_order
from automerge.merging.workspace import Workspace

if TYPE_CHECKING:
    from automerge.merging.plan import Pool, Step


def pooled(pool: Pool, workspace: Workspace, merged: Callable[[Step], Tensor]) -> Tensor:
    """Return a group's average of one matrix, or the router's rows averaged by group.

    Args:
        pool: what is averaged.
        workspace: has the evidence, and the reference's experts.
        merged: makes the tensor of a step.

    Returns:
        In float32, or float64 where that is stored.

    Raises:
        PreflightError: Evidence is missing, or is not of this layer.
    """
    groups = _groups(pool, workspace)
    if pool.number is None:
        [router] = pool.members
        rows = merged(router)
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        return torch.stack([_sum(group, [wide[n] for n in group.members]) for group in groups])
    group = groups[pool.number]
    parts = [_ordered(merged(pool.members[n]), n, group, pool, workspace) for n in group.members]
    wide_type = torch.promote_types(parts[0].dtype, torch.float32)
    return _sum(group, [part.to(wide_type) for part in parts])


def pulled_back(pool: Pool, workspace: Workspace) -> list[tuple[Step, Callable[[Tensor], Tensor]]]:
    """Return the merges that a pool is made of, each with what makes its gradient of the pool's.

    Raises:
        PreflightError: as `pooled`.
    """
    if pool.number is None:
        [router] = pool.members
        return [(router, partial(_rows_back, _groups(pool, workspace)))]
    return [
        (member, partial(_member_back, share, order, pool.axis))
        for member, share, order in pooled_members(pool, workspace)
    ]


def pooled_members(pool: Pool, workspace: Workspace) -> list[tuple[Step, float, Tensor | None]]:
    """Return the merges of one matrix that a pool averages, each with its share, and the order in
    which its hidden units are taken; None where they stay.

    Raises:
        PreflightError: as `pooled`.
    """
    assert pool.number is not None
    group = _groups(pool, workspace)[pool.number]
    return [
        (pool.members[n], share, _order(n, group, pool, workspace))
        for n, share in zip(group.members, group.shares, strict=True)
    ]


def _rows_back(groups: Sequence[Group], gradient: Tensor) -> Tensor:
    """Return the gradient of a router's rows, given that of their averages by group."""
    rows = gradient.new_empty(sum(len(group.members) for group in groups), *gradient.shape[1:])
    for group, row in zip(groups, gradient, strict=True):
        for share, number in zip(group.shares, group.members, strict=True):
            rows[number] = share * row
    return rows


def _member_back(share: float, order: Tensor | None, axis: int, gradient: Tensor) -> Tensor:
    """Return the gradient of one expert's matrix, given that of its group's average."""
    if order is None:
        return share * gradient
    return share * gradient.index_select(axis, order.argsort().to(gradient.device))


def _sum(group: Group, parts: list[Tensor]) -> Tensor:
    total = torch.zeros_like(parts[0])
    for share, part in zip(group.shares, parts, strict=True):
        total += share * part
    return total


def _groups(pool: Pool, workspace: Workspace) -> tuple[Group, ...]:
    """Return the groups of the layer that a pool is of."""

    def made() -> tuple[Group, ...]:
        found = [(workspace.evidence(d, EVIDENCE, router), d) for router, d in pool.evidence]
        for evidence, digest in found:
            if evidence is None:
                raise PreflightError(
                    f"the evidence {digest} does not say how {pool.evidence[0][0].tensor} routes: "
                    "gather it again from these models"
                )
        routings = [Routing.unpacked(evidence) for evidence, _ in found if evidence is not None]
        return grouped(routings, pool.by, pool.count)

    return workspace.cache.get(("groups", pool.by, pool.count, pool.evidence), made)


def _ordered(tensor: Tensor, expert: int, group: Group, pool: Pool, workspace: Workspace) -> Tensor:
    """Return an expert's matrix with its hidden units in the order of the dominant one's."""
    order = _order(expert, group, pool, workspace)
    return tensor if order is None else tensor.index_select(pool.axis, order)


def _order(expert: int, group: Group, pool: Pool, workspace: Workspace) -> Tensor | None:
    """Return the order of an expert's hidden units that is nearest to the dominant one's; None
    where they stay as they are numbered."""
    if group.dominant in (None, expert):
        return None
    ours, theirs = (pool.units[n] for n in (group.dominant, expert) if n is not None)

    def units(matrices: tuple[Stored, ...]) -> list[Tensor]:
        whole = [workspace.tensor(one).reshape(workspace.info(one).shape) for one in matrices]
        return [*whole[:-1], whole[-1].T]

    def found() -> Tensor:
        return unit_order(units(ours), units(theirs))

    return workspace.cache.get(("units", ours, theirs), found)
