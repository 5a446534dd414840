"""Score many merges of the demo zoo on the same 1,000 items of each task, once for all.

    OMP_NUM_THREADS=1 python -m experiments.estimation.table FOLDER 1200

Adds to the table in FOLDER until it has so many recipes; an interrupted call goes on when it is
given again. About 3 s and 4 kB a recipe.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from automerge import demo
from automerge.checkpoints import whole_digest
from automerge.config import StudyConfig, load_config
from automerge.estimation.scoreboard import Scoreboard
from automerge.items import BASELINE_SHARES, ItemDraw
from automerge.methods import METHODS
from automerge.objective import ItemScores, Objective, losses
from automerge.recipe import BASE, Recipe, single, uniform_average
from automerge.samplers import SAMPLERS
from automerge.samplers.base import Told
from automerge.session.panel import study_panel
from automerge.session.preflight import open_models
from automerge.session.tasks import open_tasks
from automerge.space import Space, build_space
from automerge.trial import Job, Measured, Params
from automerge.worker.worker import MergeWorker, WorkerSpec
from experiments.estimation.scores import FAILED, Scores, read_chunks

N_ITEMS = 1000
SEARCHED_ITEMS = 100
BUDGET = 200
CHUNK = 20
BATCH_SIZE = 256
STREAMS = ("random", "gp", "random", "cma")
"""Whose turn it is to propose: half of all recipes are uniform draws, half a search's."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to score; who gave it waits for its scores."""

    stream: str
    recipe: Recipe
    params: Params | None


Stream: TypeAlias = Generator[Proposal, Scores, None]


def firsts(space: Space) -> Stream:
    """Base, sources and their uniform average, as a study begins."""
    recipes = (single(BASE), *map(single, space.sources), uniform_average(space.sources))
    for recipe in recipes:
        yield Proposal("first", recipe, space.params(recipe))


def random_draws(space: Space, n_objectives: int) -> Stream:
    """Uniform draws without end."""
    sampler = SAMPLERS["random"](space, n_objectives, 0, 0)
    for number in count():
        params = sampler.ask(number)
        yield Proposal("random", space.recipe(params), params)


def searches(
    name: str, space: Space, objectives: tuple[Objective, ...], first: list[tuple[Proposal, Scores]]
) -> Stream:
    """A shipped sampler's searches, one seed after the other."""
    for seed in count():
        yield from search(name, seed, space, objectives, first)


def search(
    name: str,
    seed: int,
    space: Space,
    objectives: tuple[Objective, ...],
    first: list[tuple[Proposal, Scores]],
) -> Stream:
    """One search as a study makes it: each candidate is told by 100 of its items."""
    pool = {o.name: [(o.task, doc) for doc in range(N_ITEMS)] for o in objectives}
    items = {o.task: tuple(range(N_ITEMS)) for o in objectives}
    draw = ItemDraw({o.name: (o.task,) for o in objectives}, SEARCHED_ITEMS, seed)
    board = Scoreboard(objectives, pool)
    sampler = SAMPLERS[name](space, len(objectives), seed, BUDGET)
    for number in range(BUDGET):
        if number < len(first):
            proposal, scores = first[number]
        else:
            params = sampler.ask(number)
            proposal = Proposal(f"{name}-{seed}", space.recipe(params), params)
            scores = yield proposal
        if (scores == FAILED).any():
            sampler.tell(number, proposal.params, None)
            continue
        drawn = draw.draw(items, number, BASELINE_SHARES if number < len(first) else 1)
        shown = {
            o.name: ItemScores(
                tuple((o.task, doc) for doc in drawn[o.task]),
                tuple(row[list(drawn[o.task])].astype(float).tolist()),
            )
            for o, row in zip(objectives, scores, strict=True)
        }
        candidate = board.add(position(space, proposal.params), shown)
        found = board.estimates(candidate)
        errors = tuple(found[o.name].stderr for o in objectives)
        sampler.tell(number, proposal.params, Told(losses(objectives, found), errors))


def position(space: Space, params: Params | None) -> NDArray[np.float64] | None:
    """Where parameters lie, if anywhere."""
    return None if params is None else space.position(params)


def open_demo(
    config: StudyConfig, folder: Path, slopes: bool = False
) -> tuple[MergeWorker, Space, tuple[Objective, ...]]:
    """A worker for the demo's models and tasks, and its search space."""
    models = open_models(config.references, BASE, config.locate)
    panel = study_panel(config)
    panel = replace(panel, settings=replace(panel.settings, batch_size=BATCH_SIZE))
    tasks = open_tasks(panel, folder, config.locate)
    spec = WorkerSpec(
        models={name: model.path for name, model in models.folders.items()},
        digests={name: whole_digest(model.path) for name, model in models.folders.items()},
        base=BASE,
        panel=panel,
        run=folder,
        dtype="auto",
        device="cpu",
        threads=1,
        methods=tuple(config.search.methods),
        slopes=slopes,
    )
    sources = tuple(config.models)
    space = build_space(config.space_settings(), BASE, sources, models.n_layers, METHODS)
    return MergeWorker(spec, tasks), space, tuple(tasks.objectives)


def measure(worker: MergeWorker, objectives: tuple[Objective, ...], proposal: Proposal) -> Scores:
    """Score a proposal on all items; FAILED where it cannot be."""
    items = {o.task: tuple(range(N_ITEMS)) for o in objectives}
    outcome = worker.measure(Job(0, proposal.recipe, "search", items))
    if not isinstance(outcome, Measured):
        return np.full((len(objectives), N_ITEMS), FAILED, dtype=np.uint8)
    rows = np.zeros((len(objectives), N_ITEMS), dtype=np.uint8)
    for row, objective in zip(rows, objectives, strict=True):
        scores = outcome.scores[objective.name]
        row[[doc for _, doc in scores.items]] = scores.values
    return rows


def main(folder: Path, total: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(demo.CONFIG)
    with tempfile.TemporaryDirectory() as scratch:
        worker, space, objectives = open_demo(config, Path(scratch) / "tasks")
        known = list(read_chunks(folder)[0])
        width = len(space.roles) + space.codes.shape[1]
        chunk: list[tuple[Proposal, Scores]] = []
        done = 0

        def score(proposal: Proposal) -> Scores:
            nonlocal done, chunk
            done += 1
            if done <= len(known):
                return np.asarray(known[done - 1])
            scores = measure(worker, objectives, proposal)
            chunk.append((proposal, scores))
            if len(chunk) == CHUNK:
                write(folder / f"chunk-{done:06d}.npz", chunk)
                chunk = []
            return scores

        def write(path: Path, part: list[tuple[Proposal, Scores]]) -> None:
            positions = [position(space, proposal.params) for proposal, _ in part]
            unknown = np.full(width, np.nan)
            np.savez_compressed(
                folder / "part.npz",
                scores=np.array([scores for _, scores in part]),
                positions=np.array([unknown if p is None else p for p in positions]),
                streams=np.array([proposal.stream for proposal, _ in part]),
            )
            (folder / "part.npz").rename(path)

        first = [(proposal, score(proposal)) for proposal in firsts(space)]
        streams: dict[str, Stream] = {
            name: random_draws(space, len(objectives))
            if name == "random"
            else searches(name, space, objectives, first)
            for name in STREAMS
        }
        waiting = {name: next(stream) for name, stream in streams.items()}
        while done < total:
            name = STREAMS[done % len(STREAMS)]
            waiting[name] = streams[name].send(score(waiting[name]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
