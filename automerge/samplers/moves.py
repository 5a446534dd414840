"""Where a search may look next: about a start, anywhere, near the best.

Positions are those of `Space.position`; steps are in proportion to the scales of the coordinates.
"""

from __future__ import annotations

import numpy as np

from automerge.arrays import Floats
from automerge.space import UNIFORM_SCALE, Space, prior_fractions

PROBES = (0.5, 1.0)
"""Least and largest size of a probe's steps about a start, in standard deviations of the prior."""
STDS = (0.03, 0.08, 0.2)
"""Standard deviations of steps from the best, in fractions of a parameter's range where its prior
is uniform; in proportion to the prior's for the others."""
N_MOVED = 6
"""Coordinates a sparse step changes, on average."""
P_DENSE, DENSE = 0.5, 0.5
"""Probability that a step changes all coordinates, and by how much less than a sparse one."""
P_CROSSOVER = 0.5
"""Probability that a step begins between two parents."""
P_SWITCH = 0.1
"""Probability that a step goes to another method or set of models."""
CLOSER = 0.5
"""Size of the steps that refine the best candidates, beside that of the first ones."""


def anywhere(space: Space, n: int, rng: np.random.Generator) -> Floats:
    """Draw n positions from the prior."""
    shares = prior_fractions(rng.random((n, len(space.roles))), space.scales)
    branches = rng.choice(len(space.prior), n, p=space.prior)
    return space.settled(np.hstack([shares, space.codes[branches]]))


def probe(space: Space, start: Floats, method: str, turn: int, seed: int) -> Floats:
    """Step from a start along all coordinates at once, up or down.

    Signs are rows of a Hadamard matrix, which are orthogonal: a few probes say most about the slope
    of a loss, and as each is as far away in every coordinate, its curvature does not confuse them
    (Plackett and Burman 1946).

    Args:
        space: where the start lies.
        start: a position.
        method: that of the probe, with the models nearest to the start's.
        turn: the number of the probe.
        seed: decides rows, columns and sizes.
    """
    d = len(space.roles)
    order = 1 << d.bit_length()
    rng = np.random.default_rng(seed)
    row = int(rng.permutation(order)[turn % order])
    columns = 1 + rng.permutation(order - 1)[:d]
    # Sylvester's matrix: the sign at (i, j) is the parity of the ones of i & j.
    parities = np.array([(row & int(column)).bit_count() % 2 for column in columns])
    signs = (1 - 2 * parities) * rng.choice((-1, 1), d)
    size = np.random.default_rng([seed, turn]).uniform(*PROBES)
    near = start[:d] + size * space.scales * signs
    alike = [branch.method == method for branch in space.branches]
    apart = np.where(alike, np.abs(space.codes - start[d:]).sum(axis=1), np.inf)
    position = np.append(reflected(near), space.codes[int(np.argmin(apart))])
    return np.asarray(space.settled(position[None])[0])


def near(space: Space, parents: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Step from parents, or from the line between two of them, n times."""
    d = len(space.roles)
    first, second = parents[rng.integers(len(parents), size=(2, n))]
    along = rng.uniform(0, 1, (n, 1)) * (rng.random((n, 1)) < P_CROSSOVER)
    dense = rng.random((n, 1)) < P_DENSE
    moved = np.where(dense, DENSE, rng.random((n, d)) < N_MOVED / max(d, N_MOVED))
    shares = first[:, :d] + along * (second - first)[:, :d] + moved * _steps(space, n, rng)
    branches = rng.choice(len(space.prior), n, p=space.prior)
    stays = rng.random(n) >= P_SWITCH
    branches[stays] = space.branch_numbers(first[stays])
    # Where they will lie once measured, so that inactive roles tell no two points apart.
    return space.settled(np.hstack([reflected(shares), space.codes[branches]]))


def closer(space: Space, parents: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Step from parents within their branches, n times: along differences of two, and about."""
    d = len(space.roles)
    first, second, third = parents[rng.integers(len(parents), size=(3, n))]
    along = rng.uniform(-0.5, 1, (n, 1)) * (rng.random((n, 1)) < P_CROSSOVER)
    shares = first[:, :d] + along * (second - third)[:, :d] + CLOSER * _steps(space, n, rng)
    return space.settled(np.hstack([reflected(shares), first[:, d:]]))


def _steps(space: Space, n: int, rng: np.random.Generator) -> Floats:
    """Draw steps of several sizes in proportion to the scales of the coordinates, (n, roles)."""
    sizes = rng.choice(STDS, size=(n, 1)) / UNIFORM_SCALE
    return np.asarray(sizes * space.scales * rng.standard_normal((n, len(space.roles))))


def reflected(fractions: Floats) -> Floats:
    """Reflect at the bounds: clipped there, points would crowd where losses may be steep."""
    return np.asarray(1 - np.abs(1 - np.abs(fractions)))
