"""Samplers without slopes on noise-free functions, beside pymoo's NSGA-II and Optuna's own.

    pip install pymoo coco-experiment
    python -m experiments.search_quality.functions --budget 100 --seeds 3

ZDT 1 to 4 and 6 (10 variables), DTLZ 2 and 7 (10 variables, 3 objectives) and six pairs of
bbob-biobj (5 variables in [-5, 5]). The figure is the hypervolume of all points evaluated, as a
share of that of the reference front: the exact one, for bbob-biobj that of 20,000 evaluations of
NSGA-II. The corner of the box is the median of 1,000 random points,
or the reference front's worst where that is worse. Appends to
results/functions.csv and writes results/functions.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from automerge import pareto
from automerge.arrays import Floats
from automerge.methods import METHODS
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.space import Knots, Space, build_space
from automerge.testing.spaces import plain_settings

OUT = Path(__file__).parent / "results" / "functions.csv"
FIELDS = ("function", "method", "budget", "seed", "share", "seconds")
VARIABLES, BIOBJ_VARIABLES = 10, 5
BIOBJ = (1, 3, 11, 24, 36, 53)
"""Sphere and sphere, ill-conditioned, multimodal and weakly structured pairs, of 55."""
REFERENCE_EVALUATIONS = 20_000
BEST_DISTANCE = {"dtlz2": 0.5, "dtlz7": 0.0}
"""The value of all variables but the first two on the front (Deb et al. 2005)."""
POPULATION = 20
"""Of NSGA-II where few evaluations are allowed; pymoo's default of 100 would be one generation."""


@dataclass(frozen=True)
class Function:
    """Losses over the unit cube, and the best front known."""

    name: str
    variables: int
    evaluate: Callable[[Floats], Floats]
    front: Callable[[], Floats]

    @cached_property
    def reference(self) -> Floats:
        """The reference front."""
        return self.front()

    @cached_property
    def corner(self) -> Floats:
        """The median of random points, or the reference front's worst where that is worse."""
        points = np.random.default_rng(0).uniform(size=(1000, self.variables))
        middle = np.median([self.evaluate(x) for x in points], axis=0)
        return np.maximum(middle, self.reference.max(axis=0))

    @cached_property
    def best(self) -> float:
        """The hypervolume of the reference front."""
        return pareto.hypervolume(self.reference, self.corner)

    def share(self, losses: Floats) -> float:
        """The points' hypervolume as a share of the best."""
        return pareto.hypervolume(losses, self.corner) / self.best


def functions() -> list[Function]:
    """All of them."""
    from pymoo.problems import get_problem

    names = ("zdt1", "zdt2", "zdt3", "zdt4", "zdt6")
    problems = {n: get_problem(n, n_var=VARIABLES) for n in names}
    problems |= {n: get_problem(n, n_var=VARIABLES, n_obj=3) for n in ("dtlz2", "dtlz7")}
    found = [_of_pymoo(name, problem) for name, problem in problems.items()]
    return [*found, *map(_biobj, BIOBJ)]


def _of_pymoo(name: str, problem: Any) -> Function:
    low, high = problem.bounds()

    def evaluate(x: Floats) -> Floats:
        return np.asarray(problem.evaluate(low + x * (high - low)), dtype=np.float64)

    def front() -> Floats:
        if name not in BEST_DISTANCE:
            return np.asarray(problem.pareto_front())
        grid = np.linspace(0, 1, 50)
        rest = np.full(problem.n_var - 2, BEST_DISTANCE[name])
        points = np.array([evaluate(np.array([a, b, *rest])) for a in grid for b in grid])
        return points[pareto.nondominated(points)]

    return Function(name, problem.n_var, evaluate, front)


def _biobj(number: int) -> Function:
    import cocoex

    options = f"function_indices:{number} dimensions:{BIOBJ_VARIABLES} instance_indices:1"
    suite = cocoex.Suite("bbob-biobj", "", options)
    problem = suite.get_problem(0)

    def evaluate(x: Floats) -> Floats:
        return np.asarray(problem(10 * x - 5), dtype=np.float64)

    def front() -> Floats:
        return pymoo_nsga2(evaluate, BIOBJ_VARIABLES, REFERENCE_EVALUATIONS, 0, population=100)

    return Function(f"biobj{number}", BIOBJ_VARIABLES, evaluate, front)


def unit_cube(variables: int) -> Space:
    """A search space whose positions are the points of a cube: one weight for each source."""
    settings = plain_settings(
        "task_arithmetic", depth=Knots(1), bounds={"weight": (0.0, 1.0)}, fixed={"lambda": 1.0}
    )
    sources = [f"source{i}" for i in range(variables)]
    return build_space(settings, "base", sources, 1, METHODS)


def ours(name: str) -> Callable[[Callable[[Floats], Floats], int, int, int], Floats]:
    """One of automerge's samplers, one trial after the other."""

    def run(evaluate: Callable[[Floats], Floats], variables: int, budget: int, seed: int) -> Floats:
        space = unit_cube(variables)
        assert len(space.roles) == variables
        n_objectives = len(evaluate(np.full(variables, 0.5)))
        sampler = SAMPLERS[name](space, n_objectives, seed, budget)
        rows = []
        for number in range(budget):
            params = sampler.ask(number)
            rows.append(evaluate(space.position(params)[:variables]))
            sampler.tell(number, params, Told(tuple(rows[-1].tolist()), (0.0,) * n_objectives))
        return np.array(rows)

    return run


def pymoo_nsga2(
    evaluate: Callable[[Floats], Floats],
    variables: int,
    budget: int,
    seed: int,
    population: int = POPULATION,
) -> Floats:
    """pymoo's NSGA-II with its own settings but for the population."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.optimize import minimize

    rows: list[Floats] = []
    n_objectives = len(evaluate(np.full(variables, 0.5)))

    class Wrapped(ElementwiseProblem):  # type: ignore[misc]
        def _evaluate(self, x: Floats, out: dict[str, Floats], *_: object, **__: object) -> None:
            rows.append(evaluate(x))
            out["F"] = rows[-1]

    problem = Wrapped(n_var=variables, n_obj=n_objectives, xl=0.0, xu=1.0)
    minimize(problem, NSGA2(pop_size=population), ("n_eval", budget), seed=seed)
    return np.array(rows[:budget])


def of_optuna(kind: str) -> Callable[[Callable[[Floats], Floats], int, int, int], Floats]:
    """Optuna's sampler with its defaults."""

    def run(evaluate: Callable[[Floats], Floats], variables: int, budget: int, seed: int) -> Floats:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        samplers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
        n_objectives = len(evaluate(np.full(variables, 0.5)))
        study = optuna.create_study(
            directions=["minimize"] * n_objectives, sampler=samplers[kind](seed=seed)
        )
        rows: list[Floats] = []

        def objective(trial: Any) -> list[float]:
            x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(variables)]
            rows.append(evaluate(np.array(x)))
            return [float(value) for value in rows[-1]]

        study.optimize(objective, n_trials=budget)
        return np.array(rows)

    return run


RUNNERS: Mapping[str, Callable[[Callable[[Floats], Floats], int, int, int], Floats]] = {
    **{name: ours(name) for name in ("gp", "cma", "tpe", "nsga2", "random")},
    "pymoo nsga2": pymoo_nsga2,
    "optuna tpe": of_optuna("tpe"),
    "optuna gp": of_optuna("gp"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", action="append", choices=RUNNERS)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = _read(given.out)
    done = {(r["function"], r["method"], int(r["budget"]), int(r["seed"])) for r in rows}
    for seed in range(given.seeds):
        for function in functions():
            for method in given.method or RUNNERS:
                if (function.name, method, given.budget, seed) in done:
                    continue
                start = time.process_time()
                losses = RUNNERS[method](function.evaluate, function.variables, given.budget, seed)
                seconds = time.process_time() - start
                share = function.share(losses)
                values = (
                    function.name,
                    method,
                    given.budget,
                    seed,
                    f"{share:.4f}",
                    f"{seconds:.1f}",
                )
                _append(dict(zip(FIELDS, values, strict=True)), given.out)
                print(*values, flush=True)
    _write_table(_read(given.out), given.out.with_suffix(".md"))


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _append(row: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _write_table(rows: list[dict[str, str]], path: Path) -> None:
    """Mean shares in percent; a method's last column is its mean rank where it was measured."""
    cells: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    for row in rows:
        cells[int(row["budget"]), row["function"], row["method"]].append(100 * float(row["share"]))
    lines = ["# Hypervolume of all points, in percent of the reference front's", ""]
    for budget in sorted({key[0] for key in cells}):
        names = list(dict.fromkeys(f for b, f, _ in cells if b == budget))
        methods = list(dict.fromkeys(m for b, _, m in cells if b == budget))
        means = {
            key[1:]: statistics.mean(found) for key, found in cells.items() if key[0] == budget
        }
        ranks = {
            m: statistics.mean(
                1 + sum(means.get((f, o), -1.0) > means[f, m] for o in methods)
                for f in names
                if (f, m) in means
            )
            for m in methods
        }
        seeds = max(len(found) for key, found in cells.items() if key[0] == budget)
        lines += [f"{budget} evaluations, {seeds} seeds", ""]
        lines += ["| method | " + " | ".join(names) + " | mean rank |"]
        lines += ["| --- |" + " ---: |" * (len(names) + 1)]
        for m in sorted(methods, key=ranks.__getitem__):
            shown = " | ".join(f"{means[f, m]:.1f}" if (f, m) in means else "" for f in names)
            lines += [f"| {m} | {shown} | {ranks[m]:.1f} |"]
        lines += [""]
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
