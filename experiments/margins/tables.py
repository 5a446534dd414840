"""results.json → the tables of README.md, printed: python -m experiments.margins.tables"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.margins.coverage import BEFORE, ESTIMATORS
from experiments.margins.results import read


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def ranking(zoo: Mapping[str, Any]) -> str:
    """Return the mean correlations: a row per score, a column per objective and number of items."""
    sizes = zoo["ranking"]
    names = list(zoo["table"]["objectives"])
    scores = list(next(iter(sizes.values()))[names[0]])
    rows = [
        [score, *(f"{found[name][score]:.2f}" for name in names for found in sizes.values())]
        for score in scores
    ]
    return table(["score", *(f"{name}, n = {n}" for name in names for n in sizes)], rows)


def estimates(zoo: Mapping[str, Any], suffix: str) -> str:
    """Return variance in shares of the plain mean's, and coverage."""
    sizes = zoo["estimates"]
    rows = []
    for name in ESTIMATORS:
        cells = []
        for found in sizes.values():
            own, plain = found[name + suffix], found["mean" + suffix]
            share = (own["error"] / plain["error"]) ** 2
            cells.append(f"{share:.2f}, {100 * own['coverage']:.0f} %")
        rows.append([name, *cells])
    title = suffix.removeprefix(", ") or "at the end"
    return table([title, *(f"n = {n}" for n in sizes)], rows)


def items_needed(zoo: Mapping[str, Any], suffix: str) -> str:
    """Return how many items give the standard error that there was before, by estimator."""
    sizes = zoo["estimates"]
    logs = np.log([float(n) for n in sizes])
    rows = []
    for name in ESTIMATORS[2:]:
        errors = np.log([found[name + suffix]["stderr"] for found in sizes.values()])
        cells = []
        for n, found in sizes.items():
            wanted = np.log(found[BEFORE + suffix]["stderr"])
            if errors.min() <= wanted <= errors.max():
                needed = np.exp(np.interp(-wanted, -errors, logs))
                cells.append(f"{needed:.0f} ({needed / float(n):.2f})")
            else:
                cells.append("")
        rows.append([name, *cells])
    return table(["", *(f"before: {n}" for n in sizes)], rows)


def main() -> None:
    for name, zoo in read().items():
        print(f"## {name}: {zoo['table']}\n")
        print(ranking(zoo))
        if "estimates" not in zoo:
            continue
        for suffix in (", when told", ""):
            print(estimates(zoo, suffix))
            print(items_needed(zoo, suffix))


if __name__ == "__main__":
    main()
