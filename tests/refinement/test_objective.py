"""Losses of live merges on text: what they are worth, their slopes, and where steps lead."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from automerge.checkpoints import open_checkpoint, open_together, places
from automerge.merging import ResidentEngine
from automerge.methods import METHODS
from automerge.recipe import Profile, Recipe, RecipeSource, single
from automerge.refinement import (
    LOSSES,
    Pieces,
    Room,
    Steps,
    Text,
    TextObjective,
    detailed,
    explicit,
    find_room,
    numbers,
    refine,
    with_values,
)
from tests.evaluation.toys import make_model
from tests.refinement.zoo import changed, written

STEP = 1e-5
WIDE = Room(10**6)
NAMES = ("base", "own", "noise")
KIND = "gpt2"
"""It computes in double precision throughout; Llama's norms do not."""


def writer():
    return changed(1, 0.15, KIND)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    models = {"base": make_model(KIND, 0), "own": writer(), "noise": changed(2, 0.3, KIND)}
    for name, model in models.items():
        model.double().save_pretrained(root / name)
    return {name: root / name for name in models}


@pytest.fixture
def live(folders) -> tuple[AutoModelForCausalLM, ResidentEngine]:
    model = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float64)
    engine = ResidentEngine(open_together(folders, "base"))
    return model.eval().requires_grad_(False), engine


def pieces(seed: int, train: int = 60) -> Pieces:
    rows = [tuple(row) for row in written(writer(), train + 20, seed)]
    rows[0], rows[-1] = rows[0][:5], rows[-1][:9]  # lengths differ
    return Pieces(tuple(rows[20:]), tuple(rows[:10]), tuple(rows[10:20]))


def recipe(own: float, noise: float) -> Recipe:
    weights = {"own": own, "noise": noise}
    sources = tuple(RecipeSource(n, {"weight": Profile.of(w)}) for n, w in weights.items())
    return Recipe("task_arithmetic", sources, base="base")


def merged(live, made: Recipe):
    live[1].merge_into(live[0], made)
    return live[0], made


def weights(made: Recipe) -> dict[str | None, float]:
    found = numbers(made, METHODS["task_arithmetic"])
    return {number.coordinate.source: number.value for number in found}


def objective(live, loss: str, texts: list[Text], tokens: int = 200, room: Room = WIDE):
    made = TextObjective(*live, loss, texts, tokens, 0, room)
    made.predict()
    return made


def test_steps_find_the_source_that_wrote_the_text_and_drop_the_noise(live):
    aim = objective(live, "nll", [Text("text", pieces(0))], tokens=300)
    start = recipe(0.5, 0.5)
    found = refine(start, numbers(start, METHODS[start.method]), aim, Steps(40, 0.05))
    assert weights(found.recipe) == pytest.approx({"own": 1.0, "noise": 0.0}, abs=0.08)
    [before], [after] = (aim.measure(r, "held").values() for r in (start, found.recipe))
    change, error = after.difference(before)
    assert change == pytest.approx(after.loss - before.loss)
    assert change < -5 * error


def test_the_divergence_of_a_source_from_itself_is_0_and_stays(live):
    aim = objective(live, "kl", [Text("own", pieces(0), ("own",))])
    for start in (single("own"), recipe(1.0, 0.0)):
        assert abs(aim.check(start)) < 1e-9
        method = METHODS[start.method]
        found = refine(start, numbers(start, method), aim, Steps(5))
        [left] = aim.measure(found.recipe, "held").values()
        assert abs(left.loss) < 1e-9
    assert aim.check(recipe(0.9, 0.0)) > 1e-4


def test_each_source_counts_alike_on_its_own_text_or_a_shared_one(live):
    own, shared = Text("own", pieces(0), ("own",)), Text("text", pieces(1), NAMES[1:])
    made = recipe(0.4, 0.3)
    alone = [objective(live, "kl", [text]).check(made) for text in (own, shared)]
    both = objective(live, "kl", [own, shared])
    assert len(both.aims) == 3
    assert both.check(made) == pytest.approx((alone[0] + 2 * alone[1]) / 3)


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_batch_is_what_is_checked(live, loss):
    """On the same sequences, as many as there are."""
    rows = pieces(0)
    texts = [Text(name, Pieces(rows.train, rows.train, rows.held), (name,)) for name in NAMES[1:]]
    made = recipe(0.4, 0.3)
    aim = objective(live, loss, texts, tokens=10**5)
    assert aim.slopes(made)[0] == pytest.approx(aim.check(made))


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_are_central_differences(live, folders, loss):
    layout = places(open_checkpoint(folders["base"]).tensors).values()
    texts = [Text("own", pieces(0), ("own",)), Text("noise", pieces(1), ("noise",))]
    method = METHODS["task_arithmetic"]
    made = detailed(explicit(recipe(0.4, 0.3), method), method, layout, "components")

    def batch(at: Recipe):
        return objective(live, loss, texts).slopes(at)  # anew, so that the batch is the first

    value, slopes = batch(made)
    assert math.isfinite(value)
    found = numbers(made, method)
    assert {number.coordinate for number in found} == set(slopes)
    for number in found[:: len(found) // 4]:
        low, high = (
            batch(with_values(made, {number.coordinate: number.value + by}))[0]
            for by in (-STEP, STEP)
        )
        expected = (high - low) / (2 * STEP)
        # Sources' predictions are kept in single precision.
        assert slopes[number.coordinate] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_how_many_sequences_run_together_changes_nothing(live, loss):
    texts = [Text("own", pieces(0), ("own", "noise"))]
    made = recipe(0.4, 0.3)
    at_once, apart = (objective(live, loss, texts, room=room) for room in (WIDE, Room(1)))
    assert at_once.check(made) == pytest.approx(apart.check(made), rel=1e-6)
    (value, slopes), (other, others) = at_once.slopes(made), apart.slopes(made)
    assert value == pytest.approx(other, rel=1e-6)
    assert slopes == pytest.approx(others, rel=1e-5)


def test_nll_is_that_of_transformers(live):
    text = Text("text", pieces(0))
    made = recipe(0.4, 0.3)
    [found] = objective(live, "nll", [text]).measure(made, "held").values()
    model = live[0]
    for row, value, n in zip(
        sorted(text.pieces.held, key=lambda row: -len(row)),
        found.losses,
        found.positions,
        strict=True,
    ):
        tokens = torch.tensor([row])
        assert n == len(row) - 1
        assert value / n == pytest.approx(model(input_ids=tokens, labels=tokens).loss.item())


def test_a_broken_merge_has_no_finite_loss(live):
    aim = objective(live, "nll", [Text("text", pieces(0))])
    linear = Recipe("linear", tuple(RecipeSource(n, {"weight": Profile.of(0.0)}) for n in NAMES))
    assert aim.check(linear) == math.inf
    assert aim.slopes(linear) == (math.inf, {})


def test_what_fits_decides_how_it_is_run(live):
    model, engine = live
    with engine.contraction(*merged(live, recipe(0.4, 0.3))):
        whole = find_room(model, 24, 500, 10**9)
        assert whole is not None
        assert (whole.tokens, whole.lean) == (20 * 24, False)
        limits = [int(10**7 * 0.8**i) for i in range(40)]
        rooms = [find_room(model, 24, 500, limit) for limit in limits]
    kinds = [None if room is None else room.lean for room in rooms]
    assert kinds == sorted(kinds, key=[False, True, None].index)  # less memory, leaner, then none
    assert set(kinds) == {False, True, None}


@pytest.mark.sample(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_layers_that_are_run_again_change_nothing(live, loss):
    texts = [Text("own", pieces(0), ("own", "noise"))]
    made = recipe(0.4, 0.3)
    plain, lean = (
        objective(live, loss, texts, room=Room(100, lean)).slopes(made) for lean in (False, True)
    )
    assert plain[0] == lean[0]
    assert plain[1] == pytest.approx(lean[1], rel=1e-12)
