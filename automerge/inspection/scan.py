"""Scores on the line between two models, whole and one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from automerge.checkpoints import open_together, places
from automerge.config.load import load_with_options
from automerge.errors import ConfigError, FaultyInput, Location
from automerge.estimation.clusters import clustered_standard_error
from automerge.estimation.intervals import influence
from automerge.executors import Executor, outcome_of
from automerge.inspection.model import Line, Point, Scan
from automerge.objective import ItemScores, Objective, estimate, standard_error
from automerge.recipe import BASE, DEFAULT, Profile, Recipe, RecipeSource
from automerge.session.open import open_session
from automerge.session.resume import locate_models, named_folders
from automerge.trial import Items, Job, Measured

WHOLE = (0.0, 0.25, 0.5, 0.75, 1.0)
LAYER = (0.0, 0.5, 1.0)
"""Where on the line scores are taken, for the whole model and for each layer."""


def scan(
    references: Mapping[str, str],
    task: str,
    options: Mapping[str, object],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Scan, ...]:
    """Score models on the lines from the base, which is the first, to each source.

    Args:
        references: paths or hub ids by name.
        task: TASK[:METRIC[:DIRECTION]], as in a study.
        options: how the task is found and scored, as of `load_with_options`.
        progress: called with the number of models scored and in total.

    Raises:
        AutomergeError: whatever a study of these models and this task would refuse.
    """
    base, *sources = references
    with _task_of_scan(), TemporaryDirectory(prefix="automerge-scan-") as folder:
        config = load_with_options(
            {
                "name": "scan",
                "base": references[base],
                "models": {name: references[name] for name in sources},
                "out": str(Path(folder) / "run"),
                "search": {"methods": ["linear"]},
                "slopes": "off",
                "budget": 1,
            },
            {**options, "task": [task]},
        )
        session = open_session(config, "inspect --scan")
        with session.store as store:
            plan = session.plan
            given = named_folders(config.references)
            found = locate_models(store.path.parent, store.study.current.models, given)
            checkpoint = open_together({BASE: found[BASE]}, BASE, {})[BASE]
            layers = by_layer(list(checkpoint.tensors))
            items = plan.draw.draw(plan.items.search, 0, 1)
            (objective,) = plan.objectives
            executor = session.executor(lambda _: None)
            each = len(WHOLE[1:]) + len(layers) * len(LAYER[1:])
            total = len(sources) * each + 1
            done = 0

            def score(recipe: Recipe) -> ItemScores:
                nonlocal done
                scores = _measured(executor, recipe, items)[objective.name]
                done += 1
                progress(done, total)
                return scores.clustered(store.study.begun.inputs.clusters)

            try:
                start = score(on_line(BASE, sources[0], 0.0, None))
                return tuple(_scan(source, objective, layers, start, score) for source in sources)
            finally:
                executor.close()


def by_layer(tensors: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Return the names of each layer's tensors."""
    found: dict[int, list[str]] = {}
    for name, place in places(tensors).items():
        if place.layer is not None:
            found.setdefault(place.layer, []).append(name)
    return {layer: tuple(found[layer]) for layer in sorted(found)}


def jobs(
    source: str, layers: Mapping[int, Sequence[str]]
) -> Iterator[tuple[int | None, float, Recipe]]:
    """Yield what is scored besides the base: the layer that moves, how far, and the recipe."""
    for at in WHOLE[1:]:
        yield None, at, on_line(BASE, source, at, None)
    for layer, tensors in layers.items():
        for at in LAYER[1:]:
            yield layer, at, on_line(BASE, source, at, tensors)


def on_line(base: str, source: str, at: float, tensors: Sequence[str] | None) -> Recipe:
    """Return (1 − `at`) base + `at` source; with `tensors`, of these, the rest being the base's."""

    def weight(moved: float, rest: float) -> Profile:
        if tensors is None:
            return Profile.of(moved)
        return Profile((*((f"{name}*", (moved,)) for name in tensors), (DEFAULT, (rest,))))

    return Recipe(
        "linear",
        (
            RecipeSource(base, {"weight": weight(1 - at, 1.0)}),
            RecipeSource(source, {"weight": weight(at, 0.0)}),
        ),
    )


def line(objective: Objective, layer: int | None, scores: Mapping[float, ItemScores]) -> Line:
    """Judge scores on a line, by its shares from 0 to 1, on the same items.

    The error barrier is the largest L(t) − (1 − t) L(0) − t L(1) (Frankle et al. 2020, Linear Mode
    Connectivity and the Lottery Ticket Hypothesis, section 2; for one layer, Adilova et al. 2024,
    Layer-wise Linear Mode Connectivity). Its standard error is that of the same sum over items.
    """
    found = {at: estimate(own, objective.aggregation) for at, own in scores.items()}
    influences = {at: influence(own, objective.aggregation) for at, own in scores.items()}
    first, last = min(scores), max(scores)
    sign = objective.loss(1.0)

    def height(at: float) -> float:
        straight = (1 - at) * found[first].value + at * found[last].value
        return sign * (found[at].value - straight)

    top = max((at for at in scores if first < at < last), key=height)
    apart = influences[top] - (1 - top) * influences[first] - top * influences[last]
    clusters = scores[top].clusters
    stderr = (
        standard_error(apart) if clusters is None else clustered_standard_error(apart, clusters)
    )
    points = tuple(Point(at, e.value, e.stderr) for at, e in sorted(found.items()))
    return Line(layer, points, height(top) + 0.0, stderr, top)  # no −0.0


@contextmanager
def _task_of_scan() -> Iterator[None]:
    """Locate faults of the task at --scan, the option that names it, instead of --task."""
    try:
        yield
    except FaultyInput as error:
        option, own = Location("--task"), Location("--scan")
        raise type(error)(
            replace(fault, location=own) if fault.location == option else fault
            for fault in error.faults
        ) from None


def _scan(
    source: str,
    objective: Objective,
    layers: Mapping[int, Sequence[str]],
    start: ItemScores,
    score: Callable[[Recipe], ItemScores],
) -> Scan:
    found: dict[int | None, dict[float, ItemScores]] = {}
    for layer, at, recipe in jobs(source, layers):
        found.setdefault(layer, {0.0: start})[at] = score(recipe)
    return Scan(
        source,
        objective.name,
        objective.metric,
        objective.direction == "minimize",
        len(start.items),
        tuple(line(objective, layer, scores) for layer, scores in found.items()),
    )


def _measured(executor: Executor, recipe: Recipe, items: Items) -> Mapping[str, ItemScores]:
    outcome = outcome_of(executor, Job(-1, recipe, "search", items))
    if isinstance(outcome, Measured):
        return outcome.scores
    raise ConfigError(f"a model on the line could not be scored: {outcome.reason}")
