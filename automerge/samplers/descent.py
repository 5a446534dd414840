"""Descent along slopes of smooth losses, for all trade-offs at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from threadpoolctl import ThreadpoolController

from automerge.arrays import Bools, Floats
from automerge.items import SLOPE_PASSES
from automerge.pareto import nondominated
from automerge.recipe import uniform_average
from automerge.samplers.base import Sampler, Told
from automerge.samplers.goals import (
    MIN_MEASURED,
    GoalModel,
    Shape,
    calibrated,
    near,
    part_losses,
    part_slopes,
    shape_of,
)
from automerge.samplers.gp import GpSampler
from automerge.samplers.region import Region
from automerge.space import Branch, Space
from automerge.trial import Params

STEP, MIN_STEP, MAX_STEP = 0.6, 0.15, 3.0
"""How far a coordinate may go at first from a point that was measured, and the limits of that, in
prior standard deviations."""
LONGER, SHORTER = 1.5, 0.7
"""What a step is multiplied by where the loss still falls at its end, and where it rises."""
JITTER = 0.02
"""The same for a point that is measured again, so that the recipe is another."""
STARTS = 3
"""Measured points that a proposal is looked for around."""
FEW, MANY, LITTLE_NOISE = 1 / 9, 1 / 3, 0.1
"""Shares of a candidate's items that slopes are measured on: the few where noise is no larger than
this share of the variance of the slopes."""
MIN_FITTED = 2
"""Points that tell noise from change."""
FAVOUR = 0.7
"""How far a direction favours an objective: what is won by giving up the others is on no front that
anybody wants."""
GP_SHARE, SETTLED, SETTLE_SHARE = 0.15, 0.55, 0.7
"""How much of the budget is left to the Gaussian process on the true objectives; after which share
of it most of what remains goes to measuring, without slopes and on all items, what the losses
promise; and how much of it."""
STRUCTURE_SHARE = 0.5
"""The Gaussian process's share where layers or experts are searched: slopes say nothing of them."""
ROUNDS, ELSEWHERE = 2, 4
"""How often each branch is tried before they are compared, and of how many proposals one then goes
to the branches in turn."""
EVEN = 3
"""Of how many proposals one is for all objectives alike, which is what most people want."""
CAUTION = 1.0
"""Standard errors a start's mean loss is taken to be worse than it seems."""
MIN_AGREEING, MIN_CORRELATION = 8, 0.1
"""With this many points measured without slopes, losses must rank at least so well by the
surrogate, or the Gaussian process gets most of the proposals."""


class DescentSampler(Sampler):
    """Follows slopes from the uniform average, with one model of each loss for all directions.

    Every measurement with slopes says how each objective's loss falls at a point. A Gaussian
    process per loss learns from all of them (`gradient_process`), so what was seen on the way to
    one trade-off serves the others. Directions take turns: all objectives alike, then two of each
    objective alone and any mixtures. A proposal minimises its direction's mixture of losses within
    a step of a point that was measured; a group has a process for each of its members, from which
    the group's loss follows (`goals`). Later most proposals are such minima, measured without
    slopes on all items. Some are left to `gp`, which sees the true objectives only: where losses
    rank recipes badly, or there are none, it gets most.

    Which layers and experts a model has, no slope says. That is `gp`'s to search, with half of the
    budget; a descent keeps what the trial has whose scores are best for its direction.
    """

    def __init__(self, space: Space, n_objectives: int, seed: int, budget: int) -> None:
        self._space = space
        self._n = n_objectives
        self._seed = seed
        self._inner = GpSampler(space, n_objectives, seed, budget)
        self._by_branch: dict[int, Region] = {}
        self._wanted: dict[int, float] = {}
        """The share of items that each proposal is to have slopes on."""
        self._without = 0
        """Measurements that slopes were wanted of and that have none."""
        self._asked = 0
        self._asked_for: set[int] = set()
        self._told = self._others = 0
        """Trials told, and those of them that were told before any was asked for."""
        self._budget = budget
        self._prices = {"descend": 0.0, "settle": 0.0, "gp": 0.0}
        """What was asked for, in trials without slopes."""
        self._descents = 0
        self._losses: dict[int, tuple[int, Floats]] = {}
        """Of every trial the number of its branch, and its losses."""
        self._errors: dict[int, Floats] = {}
        self._shape: Shape | None = None
        """How the goals are made of parts; None before anything was told."""
        self._parts: dict[int, Floats] = {}
        """Of every trial the losses of all parts, and their errors: (parts, 2)."""
        self._steps: dict[int, tuple[Floats, Floats]] = {}
        """Where each proposal that is being measured came from, and its weights of the losses."""
        self._directions: dict[int, tuple[float, ...]] = {}
        """The weights of the goals that each proposal is a minimum for."""
        self._positions: dict[int, Floats] = {}
        self._whole: set[int] = set()
        """Trials that have every model switched on."""
        self._threads = ThreadpoolController()
        self._structural = space.structural
        self._gp_share = STRUCTURE_SHARE if len(space.structural) else GP_SHARE
        self._followed = _widest(space)
        """The branches that slopes are followed in, by number."""

    def ask(self, number: int) -> Params:
        """Propose parameters for trial `number`."""
        if self._asked == 0:
            self._others = self._told
        self._asked += 1
        self._asked_for.add(number)
        move = self._move()
        rng = np.random.default_rng([self._seed, number])
        if move == "gp":
            self._prices["gp"] += 1
            return self._inner.ask(number)
        with self._threads.limit(limits=1, user_api="blas"):
            params = self._descend(number, rng)
        self._descents += 1
        if move == "descend":
            self._wanted[number] = self._share(params)
        self._prices[move] += SLOPE_PASSES * self._wanted[number] if move == "descend" else 1
        self._inner.repeat(number, params)
        return params

    def wants_slopes(self, number: int) -> float:
        """Return a third of the items, or less where slopes are known well from few; 0 for none."""
        return self._wanted.get(number, 0.0)

    def direction(self, number: int) -> tuple[float, ...]:
        """Return the weights of the goals whose mixture the proposal minimises; none for `gp`'s."""
        return self._directions.get(number, ())

    def favourites(self) -> list[int]:
        """Return the trials with the least even mixture of losses by their surrogates.

        Slopes tell neighbours apart that differ by less than their scores' errors.
        """
        if not self._agrees():
            return []
        preferred = self._preferred()
        branches = sorted(self._by_branch, key=lambda branch: branch != preferred)
        return [number for branch in branches for number in self._ranked(branch)]

    def _ranked(self, branch: int) -> list[int]:
        """A branch's trials by the even mixture of their surrogate losses, then those that are far
        from all slopes."""
        known = self._by_branch[branch]
        own = [n for n, (b, _) in self._losses.items() if b == branch]
        if not known.points or not own:
            return []
        points = np.array([self._positions[n] for n in own])
        close = _distances(points, np.array(known.points)).min(axis=1) <= known.step
        close &= self._alike(points, self._positions[self._best(own, np.ones(self._n))])
        model = self._model(branch)
        ranges = self._ranges(known, model, model.values(np.array(known.points)))
        totals = (model.values(points) / ranges).sum(axis=1)
        order = np.argsort(np.where(close, totals, np.inf), kind="stable")
        return [own[int(i)] for i in order]

    def _share(self, params: Params) -> float:
        """Few items where slopes of the branch had little noise so far."""
        branch = self._space.branches.index(self._space.branch(params))
        known = self._by_branch.get(branch, Region(STEP))
        noises = [noise for _, noise in known.fitted[1]]
        known_well = known.fitted[0] >= MIN_FITTED and np.median(noises) <= LITTLE_NOISE
        return FEW if known_well else MANY

    def tell(self, number: int, params: Params | None, told: Told | None) -> None:
        """Report a trial; its slopes are learned from, and its losses by `gp`."""
        self._inner.tell(number, params, told)
        self._told += 1
        if params is None or told is None or not told.is_finite:
            return
        branch = self._space.branches.index(self._space.branch(params))
        errors = np.nan_to_num(np.array(told.errors or (0.0,) * self._n), posinf=0.0)
        self._losses[number] = branch, np.array(told.losses)
        self._errors[number] = errors
        self._shape = self._shape or shape_of(told)
        self._parts[number] = part_losses(told)
        position = self._scaled(self._space.position(params)[: len(self._space.roles)])
        self._positions[number] = position
        if len(self._space.recipe(params).sources) == len(self._space.branches[branch].models):
            self._whole.add(number)
        if number not in self._wanted:
            return
        slopes = part_slopes(told)
        if any(slope is None or not slope.by_role for slope in slopes):
            self._without += 1
            return
        known = self._by_branch.setdefault(branch, Region(STEP))
        rows: list[Mapping[str, float]] = [slope.by_role for slope in slopes if slope is not None]
        roles = [role for role in self._space.roles if all(role in row for row in rows)]
        smooth = np.array([self._space.columns[role] for role in roles])
        if known.smooth is None:
            known.smooth = smooth
        if not np.array_equal(known.smooth, smooth):
            self._without += 1
            return
        found = np.array([[row[role] for role in roles] for row in rows])
        if not np.isfinite(found).all():
            self._without += 1
            return
        if number in self._steps:
            start, weights = self._steps.pop(number)
            along = float(
                (position - start)[smooth] @ (weights @ found * self._space.scales[smooth])
            )
            known.step *= LONGER if along < 0 else SHORTER
            known.step = min(max(known.step, MIN_STEP), MAX_STEP)
        known.points.append(position)
        known.slopes.append(found * self._space.scales[smooth])
        known.noisier.append(MANY / self._wanted[number])

    def _move(self) -> Literal["descend", "settle", "gp"]:
        """What the next proposal is for."""
        with_slopes = sum(len(known.points) for known in self._by_branch.values())
        if self._without > max(2, with_slopes):
            return "gp"
        total = max(self._budget - self._others, 1)
        spent = sum(self._prices.values())
        agrees = self._agrees()
        share = self._gp_share if agrees else 1 - GP_SHARE
        if spent > GP_SHARE * total and self._prices["gp"] < share * (spent - GP_SHARE * total):
            return "gp"
        due = SETTLE_SHARE * (spent - SETTLED * total)
        return "settle" if with_slopes and self._prices["settle"] < due else "descend"

    def _agrees(self) -> bool:
        """Whether the surrogates rank what was measured on many items as the objectives do.

        They are believed until the upper end of the correlation's interval says otherwise.
        """
        for number, known in self._by_branch.items():
            own = [n for n, (b, _) in self._losses.items() if b == number and n not in self._wanted]
            if not known.points or len(own) < MIN_AGREEING:
                continue
            points = np.array([self._positions[n] for n in own])
            alike = max((self._alike(points, at) for at in known.points), key=np.count_nonzero)
            own = [n for n, counts in zip(own, alike, strict=True) if counts]
            if len(own) < MIN_AGREEING:
                continue
            points = points[alike]
            losses = np.array([self._losses[n][1] for n in own])
            values = self._model(number).values(points)
            # Sizes have no slopes to rank by.
            ranked = [j for j in range(self._n) if np.ptp(values[:, j])]
            found = [_correlation(values[:, j], losses[:, j]) for j in ranked]
            if found and np.mean(found) + 2 / math.sqrt(len(own) * len(found)) < MIN_CORRELATION:
                return False
        return True

    def _alike(self, points: Floats, at: Floats) -> Bools:
        """Which points, (n, roles), have the layers and experts that another has: (n,)."""
        apart = np.abs(points - at)[:, self._structural]
        return np.asarray((apart < JITTER / 2).all(axis=1))

    def _best(self, trials: Sequence[int], direction: Floats) -> int:
        """The trial whose measured losses are best for a direction, errors counted against it."""
        total, variance = self._totals(trials, direction).T
        return trials[int((total + CAUTION * np.sqrt(variance)).argmin())]

    def _jitter(self, rng: np.random.Generator) -> Floats:
        """A small step in all coordinates that do not say which layers and experts there are."""
        step = JITTER * rng.standard_normal(len(self._space.roles))
        step[self._structural] = 0.0
        return step

    def _scaled(self, fractions: Floats) -> Floats:
        return np.asarray((fractions - 0.5) / self._space.scales)

    def _descend(self, trial: int, rng: np.random.Generator) -> Params:
        number = self._branch_number()
        branch, known = self._space.branches[number], self._by_branch.get(number)
        if known is None or known.smooth is None:
            return self._start(branch, rng)
        direction = self._direction(rng)
        self._directions[trial] = tuple(direction.tolist())
        start, at, weights = self._minimum(number, direction)
        self._steps[trial] = start, weights
        if (np.abs(at - np.array(known.points)).max(axis=1) < JITTER / 2).any():
            at = at + self._jitter(rng)
        return self._params(branch, at)

    def _branch_number(self) -> int:
        """The branches in turn twice, then mostly the preferred one."""
        n = len(self._followed)
        if self._descents < ROUNDS * n or self._descents % ELSEWHERE == ELSEWHERE - 1:
            return self._followed[self._descents % n]
        return self._preferred()

    def _preferred(self) -> int:
        """The first branch, unless another's best proposal was better beyond errors.

        The best ones are compared, as the others are for other directions.
        """
        first = self._followed[0]
        own = [k for k in self._asked_for if k in self._losses]
        own = [k for k in own if self._losses[k][0] in self._followed]
        best: dict[int, Floats] = {}
        for k, total in zip(own, self._totals(own), strict=True):
            branch = self._losses[k][0]
            if branch not in best or total[0] < best[branch][0]:
                best[branch] = total
        if first not in best:
            return first
        least = min(best, key=lambda b: float(best[b][0]))
        gap, variance = best[first][0] - best[least][0], best[first][1] + best[least][1]
        return least if gap > math.sqrt(variance) else first

    def _totals(self, trials: Sequence[int], direction: Floats | float = 1.0) -> Floats:
        """The sums of the losses, in units of their ranges and weighted by a direction, and their
        variances: (trials, 2)."""
        rows = np.array([self._losses[n][1] for n in trials]).reshape(len(trials), self._n)
        errors = np.array([self._errors[n] for n in trials]).reshape(len(trials), self._n)
        spread = np.ptp(rows, axis=0) if len(rows) else np.ones(self._n)
        units = np.where(spread > 0, spread, 1.0) / direction
        return np.stack([(rows / units).sum(axis=1), ((errors / units) ** 2).sum(axis=1)], axis=1)

    def _start(self, branch: Branch, rng: np.random.Generator) -> Params:
        """Near the best that was measured, else the uniform average, else the prior's mean.

        Branches share roles, so one begins with what another found. A model that is switched off
        has no slopes, so what lacks one is no start.
        """
        start = np.zeros(len(self._space.roles))
        own = [n for n in self._losses if n in self._whole]
        average = self._space.params(uniform_average(self._space.trained))
        if own:
            start = self._positions[self._best(own, np.ones(self._n))]
        elif average is not None:
            start = self._scaled(self._space.position(average)[: len(start)])
        return self._params(branch, start + self._jitter(rng))

    def _starts(self, branch: int, direction: Floats) -> Floats:
        """The points to begin from, (n, roles): those with slopes or, where layers or experts are
        searched, those of them with the best trial's, and that trial itself."""
        points = np.array(self._by_branch[branch].points)
        if not len(self._structural):
            return points
        own = [n for n in self._whole if self._losses[n][0] == branch]
        best = self._positions[self._best(own, direction)] if own else points[-1]
        return np.vstack([points[self._alike(points, best)], best])

    def _params(self, branch: Branch, at: Floats) -> Params:
        fractions = np.clip(0.5 + at * self._space.scales, 0.0, 1.0)
        code = self._space.codes[self._space.branches.index(branch)]
        return self._space.at(np.append(fractions, code))

    def _direction(self, rng: np.random.Generator) -> Floats:
        """Weights of the objectives, which sum to 1 and leave none out."""
        n = self._n
        even = np.full(n, 1 / n)
        turn, place = divmod(self._descents, EVEN)
        if n == 1 or place == 0:
            return even
        other = ((EVEN - 1) * turn + place - 1) % (2 * n)
        chosen = np.eye(n)[other] if other < n else rng.dirichlet(np.ones(n))
        return np.asarray(FAVOUR * chosen + (1 - FAVOUR) * even)

    def _model(self, branch: int) -> GoalModel:
        """What the surrogates of a branch say of the goals; groups' members by what was measured
        near its slopes."""
        known = self._by_branch[branch]
        surrogates = known.surrogates()
        assert self._shape is not None
        own = [n for n, (b, _) in self._losses.items() if b == branch]
        positions = np.array([self._positions[n] for n in own])
        distances = _distances(positions, np.array(known.points)).min(axis=1)
        close = near(distances, known.step, MIN_MEASURED + 1)
        points = positions[close]
        scale = calibrated(
            self._shape,
            np.stack([surrogate.value(points) for surrogate in surrogates], axis=1),
            np.array([self._parts[n] for n in own])[close],
            np.linalg.norm(known.slopes[0], axis=1),
        )
        return GoalModel(self._shape, surrogates, scale)

    def _minimum(self, branch: int, direction: Floats) -> tuple[Floats, Floats, Floats]:
        """The least mixture of losses within a step of the best starts, with their structure.

        Returns:
            The point measured, the one found, and the weights of the parts' losses there.
        """
        from scipy import optimize

        known, model = self._by_branch[branch], self._model(branch)
        shares = direction / self._ranges(known, model, model.values(np.array(known.points)))
        starts = self._starts(branch, direction)
        totals = model.values(starts) @ shares

        low, high = self._scaled(np.zeros(starts.shape[1])), self._scaled(np.ones(starts.shape[1]))
        best: tuple[Floats, Floats] = starts[0], starts[0]
        least = np.inf
        for start in starts[np.argsort(totals, kind="stable")[:STARTS]]:
            bounds = np.stack(
                [np.maximum(start - known.step, low), np.minimum(start + known.step, high)], 1
            )
            bounds[self._structural] = start[self._structural, None]
            found = optimize.minimize(
                model.mixture,
                start,
                args=(shares,),
                jac=True,
                bounds=bounds,
                method="L-BFGS-B",
                options={"maxiter": 50},
            )
            if found.fun < least:
                best, least = (start, np.array(found.x)), float(found.fun)
        return *best, shares @ model.jacobian(best[1][None])[0]

    def _ranges(self, known: Region, model: GoalModel, values: Floats) -> Floats:
        """What a loss of 1 is worth for each objective: their ranges among the best points."""
        front = values[nondominated(values)]
        spread = front.max(axis=0) - front.min(axis=0)
        first = model.jacobian(known.points[0][None])[0] @ known.slopes[0]
        steepness = np.linalg.norm(first, axis=1)
        usable = len(front) > 1 and len(values) > self._n
        found = np.where(usable & (spread > 0), spread, np.where(steepness > 0, steepness, 1.0))
        return np.asarray(found)


def _widest(space: Space) -> list[int]:
    """The first branch of each method among those with the most models: others are special cases
    with weights of 0, and left to `gp`. So are combinations of methods far from the first."""
    found: dict[str, int] = {}
    for number, branch in enumerate(space.branches):
        if branch.method not in space.turns:
            continue
        best = found.get(branch.method)
        if best is None or len(branch.models) > len(space.branches[best].models):
            found[branch.method] = number
    return [*found.values()]


def _distances(a: Floats, b: Floats) -> Floats:
    """The largest difference of any coordinate, (n, m), of points (n, d) and (m, d)."""
    return np.asarray(np.abs(a[:, None] - b[None]).max(axis=2))


def _correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation."""
    x, y = (np.argsort(np.argsort(v)).astype(float) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0
