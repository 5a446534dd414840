"""The laws of evaluators and scorers, as tests that anybody can run over their own evaluator.

from automerge.testing import EvaluatorLaws

class TestMine(EvaluatorLaws):
    @pytest.fixture
    def make(self):
        return MyEvaluator    # a class or function of (entries, settings)

    @pytest.fixture
    def entries(self, tmp_path):
        (tmp_path / "items.txt").write_text("one\ntwo\nthree\n")
        options = {"items": str(tmp_path / "items.txt")}
        return [Entry("my_module:MyEvaluator", "mine", "mine", options=options)]

    @pytest.fixture
    def originals(self, tmp_path):
        return [tmp_path / "items.txt"]
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from automerge.evaluation.base import (
    ITEMS_FOLDER,
    TASKS_FOLDER,
    Entry,
    EvaluatorFactory,
    Live,
    OpenTasks,
    Scored,
    Settings,
    SlopeScorer,
)
from automerge.evaluation.split import document_hash
from automerge.objective import ItemScores
from automerge.testing.live import other_weights, tiny_live
from automerge.trial import PARTS, Items, Steering

MAX_ITEMS = 12
"""How many items of a leaf task are scored, so that the laws are quick."""
CLOSE = 1e-4
"""How much batches of other items may move a score: rounding of float32 over a text."""

STEP = 0.01
"""How far the weights are moved to see what a loss does, in standard deviations of each tensor."""


@contextmanager
def gone(paths: Sequence[Path]) -> Iterator[None]:
    """Move files and folders away."""
    moved = [(path, path.with_name(f"{path.name}.away")) for path in paths]
    for path, away in moved:
        path.rename(away)
    try:
        yield
    finally:
        for path, away in moved:
            away.rename(path)


def facts(tasks: OpenTasks) -> dict[str, object]:
    """Return all that must be the same whenever the same copies are opened."""
    return {
        "objectives": list(tasks.objectives),
        "members": {name: tuple(leaves) for name, leaves in tasks.members.items()},
        "parts": {leaf: tuple(parts) for leaf, parts in tasks.parts.items()},
        "documents": {
            leaf: [document_hash(document) for document in documents]
            for leaf, documents in tasks.documents().items()
        },
        "digests": dict(tasks.digests()),
    }


def content(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def some_items(tasks: OpenTasks, seed: int = 0) -> dict[str, tuple[int, ...]]:
    """Return some items of each leaf task, in no particular order."""
    rng = random.Random(seed)
    sizes = {leaf: len(documents) for leaf, documents in tasks.documents().items()}
    return {leaf: tuple(rng.sample(range(n), min(n, MAX_ITEMS))) for leaf, n in sizes.items()}


def values(scored: Scored) -> dict[str, dict[tuple[str, int], float]]:
    """Return each objective's scores by item."""
    return {
        name: dict(zip(scores.items, scores.values, strict=True))
        for name, scores in scored.scores.items()
    }


@contextmanager
def differentiable(live: Live) -> Iterator[None]:
    """Let a model's weights have gradients."""
    live.model.requires_grad_(True)
    try:
        yield
    finally:
        live.model.requires_grad_(False)


@contextmanager
def moved(live: Live, way: Sequence[torch.Tensor], step: float) -> Iterator[None]:
    """Move a model's weights some steps along a way; give them back at the end."""
    before = [parameter.detach().clone() for parameter in live.model.parameters()]
    with torch.no_grad():
        for parameter, direction in zip(live.model.parameters(), way, strict=True):
            parameter += step * direction
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(live.model.parameters(), before, strict=True):
                parameter.copy_(old)


def generators() -> list[str]:
    """Return the states of the process's random generators."""
    return [repr(random.getstate()), repr(np.random.get_state()), repr(torch.get_rng_state())]


class EvaluatorLaws:
    """Every law of `automerge.evaluation.base`: of Evaluator, OpenTasks, Scorer and SlopeScorer.

    The fixture `make` is an `EvaluatorFactory`, `entries` what it is built from. `originals` are
    the files and folders that these name, `settings` those of the study, `live` the model that is
    scored; a random one of two layers where the fixture is not replaced.
    """

    @pytest.fixture
    def originals(self) -> Sequence[Path]:
        """Return the files and folders that entries and settings name."""
        return ()

    @pytest.fixture
    def settings(self) -> Settings:
        """Return what holds for every task."""
        return Settings()

    @pytest.fixture
    def live(self) -> Live:
        """Return the model to be scored."""
        return tiny_live()

    @pytest.fixture
    def tasks(
        self,
        make: EvaluatorFactory,
        entries: Sequence[Entry],
        settings: Settings,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> OpenTasks:
        """Return the tasks, opened from their copies."""
        run = tmp_path_factory.mktemp("run")
        evaluator = make(entries, settings)
        evaluator.keep(run)
        return evaluator.open(run)

    def test_a_study_goes_on_where_the_originals_are_gone(
        self,
        make: EvaluatorFactory,
        entries: Sequence[Entry],
        settings: Settings,
        originals: Sequence[Path],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        folder = tmp_path_factory.mktemp("runs")
        run, elsewhere = folder / "run", folder / "elsewhere"
        run.mkdir()
        evaluator = make(entries, settings)
        evaluator.keep(run)
        before, kept = facts(evaluator.open(run)), content(run)
        assert all(Path(name).parts[0] in (ITEMS_FOLDER, TASKS_FOLDER) for name in kept)
        with gone(originals):
            again = make(entries, settings)
            again.keep(run)
            assert content(run) == kept
            assert facts(again.open(run)) == before
            run.rename(elsewhere)
            assert facts(make(entries, settings).open(elsewhere)) == before
        shutil.rmtree(elsewhere)

    def test_every_entry_has_its_objective(
        self, tasks: OpenTasks, entries: Sequence[Entry]
    ) -> None:
        assert [o.name for o in tasks.objectives] == [entry.name for entry in entries]
        for objective, entry in zip(tasks.objectives, entries, strict=True):
            assert objective.goal == entry.goal
            assert objective.direction == entry.direction or entry.direction is None

    def test_leaf_tasks_have_documents_and_digests(self, tasks: OpenTasks) -> None:
        leaves = {leaf for own in tasks.members.values() for leaf in own}
        assert set(tasks.members) <= {objective.name for objective in tasks.objectives}
        assert set(tasks.documents()) == set(tasks.digests()) == leaves
        assert all(len(documents) > 0 for documents in tasks.documents().values())
        assert all(isinstance(digest, str) and digest for digest in tasks.digests().values())
        assert set(tasks.parts) <= leaves
        assert all(set(parts) <= set(PARTS) for parts in tasks.parts.values())

    def test_commands_are_words(self, tasks: OpenTasks) -> None:
        commands = tasks.commands(Path("models/best"), Path("samples.json"), "float32")
        assert all(isinstance(word, str) for command in commands for word in command)

    def test_every_item_asked_for_has_a_score_in_order(self, tasks: OpenTasks, live: Live) -> None:
        scorer = tasks.attach(live)
        for items in (some_items(tasks), some_items(tasks, 1)):
            scored = scorer.score(items)
            assert set(scored.scores) == {objective.name for objective in tasks.objectives}
            for name, leaves in tasks.members.items():
                wanted = [(leaf, i) for leaf in leaves for i in items[leaf]]
                assert list(scored.scores[name].items) == wanted
            for scores in scored.scores.values():
                assert all(math.isfinite(value) for value in scores.values)
            assert min(scored.forward_s, scored.score_s, scored.tokens) >= 0
            assert all(math.isfinite(share) for share in scored.notes.values())

    def test_margins_are_finite_of_items_with_a_score_and_agree_with_it(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        scored = tasks.attach(live).score(some_items(tasks))
        scores = values(scored)
        for name, own in scored.margins.items():
            assert own.items, name
            assert len(set(own.items)) == len(own.items)
            for item, margin in zip(own.items, own.values, strict=True):
                assert math.isfinite(margin)
                assert margin == 0 or scores[name][item] == (margin > 0), item

    def test_what_is_handed_over_has_the_gradient_of_the_losses(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        scorer = tasks.attach(live)
        if not isinstance(scorer, SlopeScorer):
            pytest.skip("scores without slopes")
        items = some_items(tasks)
        parameters = list(live.model.parameters())
        generator = torch.Generator().manual_seed(2)
        way = [torch.randn(p.shape, generator=generator).to(p) * p.std() for p in parameters]
        along: dict[str, float] = {}

        def backward(name: str, loss: torch.Tensor, keep: bool) -> None:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=keep, allow_unused=True)
            pairs = zip(gradients, way, strict=True)
            rise = sum(float((g * w).sum()) for g, w in pairs if g is not None)
            along[name] = along.get(name, 0.0) + rise

        def losses_at(step: float) -> Mapping[str, float]:
            with moved(live, way, step):
                return scorer.score_with_slopes(items, steering, lambda *_: None).losses

        steering = Steering(dict.fromkeys(items, 1.0))
        with differentiable(live):
            scored = scorer.score_with_slopes(items, steering, backward)
            before, after = losses_at(-STEP), losses_at(STEP)
        assert along.keys() == scored.losses.keys() <= {o.name for o in tasks.objectives}
        _same(values(scored), values(scorer.score(items)))
        for name, loss in scored.losses.items():
            expected = (after[name] - before[name]) / (2 * STEP)
            # Log-likelihoods are rounded to some 2⁻²⁰ of themselves, and the loss bends.
            error = 0.01 * abs(expected) + 2**-20 * abs(loss) / STEP
            assert along[name] == pytest.approx(expected, abs=error), name

    def test_where_no_item_is_asked_for_there_is_no_score(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        scored = tasks.attach(live).score({})
        empty = {name: scored.scores[name] for name in tasks.members}
        assert all(scores == ItemScores((), ()) or not scores.items for scores in empty.values())

    def test_a_score_belongs_to_its_item_whatever_else_is_asked_for(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        items = some_items(tasks)
        scorer = tasks.attach(live)
        together = values(scorer.score(items))
        fewer: Items = {leaf: ids[::-2] for leaf, ids in items.items()}
        for name, scores in values(scorer.score(fewer)).items():
            for item, value in scores.items():
                assert value == pytest.approx(together[name][item], rel=CLOSE, abs=CLOSE), item

    def test_scores_are_those_of_the_weights_at_the_call(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        items = some_items(tasks)
        scorer = tasks.attach(live)
        first = values(scorer.score(items))
        with other_weights(live):
            _same(values(scorer.score(items)), values(tasks.attach(live).score(items)))
        _same(values(scorer.score(items)), first)

    def test_the_same_weights_and_items_have_the_same_scores_whatever_generators_do(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        items = some_items(tasks)
        scorer = tasks.attach(live)
        found = []
        with torch.random.fork_rng(devices=[]):
            for seed in (1, 2):
                random.seed(seed)
                np.random.seed(seed)
                torch.manual_seed(seed)
                found.append(values(scorer.score(items)))
        assert found[0] == found[1]

    def test_the_model_and_the_generators_are_left_as_they_were(
        self, tasks: OpenTasks, live: Live
    ) -> None:
        scorer = tasks.attach(live)
        scorer.score(some_items(tasks))  # whatever is loaded at the first call
        before = [tensor.clone() for tensor in live.model.state_dict().values()]
        states = generators()
        scorer.score(some_items(tasks, 1))
        assert generators() == states
        after = live.model.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert not live.model.training
        assert not any(parameter.requires_grad for parameter in live.model.parameters())


def _same(
    one: Mapping[str, Mapping[tuple[str, int], float]],
    other: Mapping[str, Mapping[tuple[str, int], float]],
) -> None:
    """Compare scores up to rounding: a scorer may go other ways at its first call."""
    assert one.keys() == other.keys()
    for name, scores in one.items():
        assert list(scores) == list(other[name])
        assert list(scores.values()) == pytest.approx(
            list(other[name].values()), rel=CLOSE, abs=CLOSE
        )
