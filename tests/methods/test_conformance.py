"""Laws that every merge method keeps, over METHODS."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

from automerge import methods
from automerge.checkpoints import MemoryCheckpoint
from automerge.evidence import MemoryEvidence
from automerge.merging import InvalidMerge, ResidentEngine
from automerge.methods import METHODS, Knob, Method, check_recipe
from automerge.methods.shared.uniform import uniform
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.methods.dataless import DATALESS
from tests.methods.oracles import ORACLES

NAME = "model.layers.0.mlp.up_proj.weight"
SHAPES = [(7, 5), (64,), (), (3, 2, 4)]
by_name = attrgetter("name")
ALL = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
ANCHORED = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.anchored], ids=by_name
)
ELEMENTWISE = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.extent == "element"], ids=by_name
)
VALUES: dict[str, tuple[float, ...]] = {
    "weight": (0.7, -0.3, 0.9, 0.4),
    "density": (0.5, 0.31, 0.8, 1.0),
    "lambda": (0.8,),
    "t": (0.3,),
    "epsilon": (0.2, 0.1, 0.3, 0.15),
    "gamma": (0.1, 0.2, 0.03, 0.0),
    "select_topk": (0.6,),
    "r": (0.4,),
    "alpha": (0.3,),
    "scale": (0.7,),
    "max_iter": (100.0,),
    "tol": (1e-9,),
    "mask_lambda": (0.3, 0.5, 0.4, 0.6),
    "ratio": (0.3,),
    "above_average": (0.8,),
    "calibration": (1.2,),
    "common": (0.5,),
    "rank": (0.5,),
    "off_diagonal": (0.8,),
    "eta": (0.4, 0.6, 0.7, 0.5),
}


def count(method: Method) -> int:
    return min(method.max_sources or 3, max(3, method.min_sources))


def weighted(method: Method) -> bool:
    """Whether sources have weights."""
    return any(knob.name == "weight" for knob in method.source_knobs)


def switchable(method: Method) -> bool:
    """Whether neutral knobs leave one model: some anchored methods have λ alone for that."""
    return weighted(method) or not method.anchored


def tensors(n: int, shape=(7, 5), dtype=torch.float32) -> list[torch.Tensor]:
    """A base and sources; task vectors have something in common, as those of fine-tunes have."""
    generator = torch.Generator().manual_seed(8)
    base, common = (torch.randn(shape, generator=generator) for _ in range(2))
    return [base.to(dtype)] + [
        (base + 0.5 * common + torch.randn(shape, generator=generator)).to(dtype) for _ in range(n)
    ]


def value(knob: Knob, i: int) -> Profile:
    """A value that does something, for the i-th source; the default of what VALUES lacks."""
    chosen = VALUES[knob.name][i] if knob.name in VALUES else float(knob.default)
    return Profile.of(chosen if knob.domain[0] <= chosen else -chosen)


def neutral(knob: Knob) -> Profile:
    """What does nothing; the default of a tolerance."""
    return Profile.of(float(knob.default if knob.neutral is None else knob.neutral))


def recipe(method: Method, switch: bool = True, **changes) -> Recipe:
    names = [f"m{i}" for i in range(count(method))]
    knobs = {k.name: value(k, 0) if k.kind == "float" else switch for k in method.recipe_knobs}
    sources = tuple(
        RecipeSource(n, {k.name: value(k, i) for k in method.source_knobs})
        for i, n in enumerate(names)
    )
    evidence = {kind: {name: f"{kind} {name}" for name in names} for kind in method.needs}
    base = "base" if method.anchored else None
    made = Recipe(method.name, sources, base, knobs, evidence=evidence)
    return dataclasses.replace(made, **changes)


def merge(recipe: Recipe, base: torch.Tensor, *sources: torch.Tensor) -> torch.Tensor:
    named = {"base": base} | {f"m{i}": s for i, s in enumerate(sources)}
    engine = ResidentEngine(
        {n: MemoryCheckpoint({NAME: t}) for n, t in named.items()}, evidence=evidence(recipe, base)
    )
    [(_, merged)] = engine.merge(recipe)
    return merged


def evidence(recipe: Recipe, like: torch.Tensor) -> dict[str, MemoryEvidence]:
    """A Gram matrix of its own for each source, by the digest that the recipe names."""
    made = {}
    for kind, digests in recipe.evidence.items():
        for seed, digest in enumerate(digests.values()):
            inputs = torch.randn(
                (64, like.shape[-1] if like.ndim else 1),
                generator=torch.Generator().manual_seed(seed),
            )
            gram = (inputs.T @ inputs) / len(inputs)
            made[digest] = MemoryEvidence(kind, digest, {NAME: gram})
    return made


def test_methods_import_without_torch():
    code = "import sys, automerge.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_method_imports_another():
    folder = Path(methods.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "check"}
    for path in [folder / f"{name}.py" for name in modules] + list(folder.glob("shared/*.py")):
        imported = re.findall(r"automerge\.methods(?:\.| import )(\w+)", path.read_text("utf-8"))
        assert not modules.intersection(imported), path.name


@ALL
def test_declaration_is_consistent(method):
    assert METHODS[method.name] is method
    assert method.paper
    for knob in method.knobs:
        low, high = knob.domain
        assert low <= float(knob.default) <= high
        if knob.search:
            assert low <= knob.search[0] < knob.search[1] <= high
        if knob.neutral is None:
            assert knob.search is None
        else:
            assert knob.kind == "float"
    if method.anchored:
        assert any(knob.name == "lambda" for knob in method.recipe_knobs)
    assert check_recipe(recipe(method), METHODS) == []


@ALL
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_shape_and_dtype_are_kept_and_inputs_untouched(method, shape, dtype):
    inputs = tensors(count(method), shape, dtype)
    before = [t.clone() for t in inputs]
    merged = merge(recipe(method), *inputs)
    assert merged.shape == shape
    assert merged.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize("method", [m for m in METHODS.values() if switchable(m)], ids=by_name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_knobs_return_the_base_or_the_first_source_bit_for_bit(method, dtype):
    inputs = tensors(count(method), dtype=dtype)
    made = recipe(method)
    idle = {k.name: neutral(k) for k in method.source_knobs}
    sources = [RecipeSource(s.name, idle) for s in made.sources]
    if not method.anchored:
        sources[0] = RecipeSource(sources[0].name, {})
    knobs = {k.name: neutral(k) for k in method.recipe_knobs if k.kind == "float"}
    made = dataclasses.replace(made, sources=tuple(sources), knobs=knobs)
    assert torch.equal(merge(made, *inputs), inputs[0 if method.anchored else 1])


@ANCHORED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lambda_zero_returns_the_base_bit_for_bit(method, dtype):
    inputs = tensors(count(method), dtype=dtype)
    made = recipe(method)
    made = dataclasses.replace(made, knobs={**made.knobs, "lambda": Profile.of(0.0)})
    assert torch.equal(merge(made, *inputs), inputs[0])


@ANCHORED
def test_the_merged_task_vector_is_proportional_to_lambda(method):
    base, *sources = tensors(count(method))
    made = recipe(method)

    def merged(scale: float) -> torch.Tensor:
        knobs = {**made.knobs, "lambda": Profile.of(scale)}
        return merge(dataclasses.replace(made, knobs=knobs), base, *sources) - base

    torch.testing.assert_close(merged(-2.0), -2 * merged(1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS.values() if weighted(m) and not m.compares],
    ids=by_name,
)
def test_a_source_of_weight_zero_has_no_influence(method):
    inputs = tensors(count(method))
    made = recipe(method)
    idle = RecipeSource("m1", {**made.sources[1].knobs, "weight": Profile.of(0.0)})
    made = dataclasses.replace(made, sources=(made.sources[0], idle, *made.sources[2:]))
    first = merge(made, *inputs)
    inputs[2] = inputs[2].flip(0) * 3 - 1
    torch.testing.assert_close(merge(made, *inputs), first, rtol=1e-6, atol=1e-6)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sources_equal_to_the_base_change_nothing(method, dtype):
    base = tensors(0, dtype=dtype)[0]
    made = recipe(method)
    if method.max_sources == 1:  # there is no other source to average with
        idle = {k.name: neutral(k) for k in method.source_knobs}
        made = dataclasses.replace(made, sources=(RecipeSource("m0", idle),))
    merged = merge(made, base, *[base.clone()] * count(method))
    if method.anchored:
        assert torch.equal(merged, base)
    else:
        torch.testing.assert_close(merged, base, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)


@ALL
def test_source_order_matters_only_where_declared(method):
    inputs = tensors(count(method))
    made = recipe(method)
    backwards = dataclasses.replace(made, sources=made.sources[::-1])
    same = torch.allclose(merge(made, *inputs), merge(backwards, *inputs), rtol=1e-5, atol=1e-6)
    assert same != method.ordered


@ALL
def test_same_recipe_gives_the_same_bits_and_another_seed_matters_only_where_declared(method):
    inputs = tensors(count(method))
    first = merge(recipe(method), *inputs)
    assert torch.equal(first, merge(recipe(method), *inputs))
    reseeded = merge(recipe(method, seed=9), *inputs)
    assert torch.equal(first, reseeded) != method.seeded


@pytest.mark.parametrize("method", DATALESS.values(), ids=DATALESS)
@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (66_001,), (2, 12, 9)], ids=str)
def test_method_agrees_with_the_paper_in_float64(method, switch, shape):
    inputs = tensors(count(method), shape)
    made = recipe(method, switch)
    n = inputs[0].numel()
    uniforms = [
        uniform(0, NAME, s.name, 0, n).reshape(shape).double().numpy() for s in made.sources
    ]
    each = [{k: p.parts[0][1][0] for k, p in s.knobs.items()} for s in made.sources]
    knobs = {k: v.parts[0][1][0] if isinstance(v, Profile) else v for k, v in made.knobs.items()}
    base, *sources = (t.double().numpy() for t in inputs)
    expected = ORACLES[method.name](base, sources, each, knobs, uniforms)
    np.testing.assert_allclose(merge(made, *inputs).numpy(), expected, rtol=2e-5, atol=2e-5)


@ALL
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [0, 1, -1])
def test_a_poisoned_element_is_never_merged_into_a_finite_model(method, poison, where):
    inputs = tensors(count(method))
    if not method.anchored and where == 0:
        where = 1
    inputs[where][3, 2] = poison
    with pytest.raises(InvalidMerge, match=NAME):
        merge(recipe(method), *inputs)


@ALL
def test_coefficients_ask_only_for_declared_statistics(method):
    class Declared:
        count = count(method)
        size = 10

        def inner(self, i, j):
            assert "gram" in method.statistics
            return 1.0 if i == j else 0.5

        def model_inner(self, i, j):
            assert "model_gram" in method.statistics
            return 1.0 if i == j else 0.5

        def magnitude(self, i, k):
            assert "magnitude" in method.statistics
            return 0.1 * (11 - k)

        @property
        def n_spread(self):
            assert "spread" in method.statistics
            return 9

        def spread(self, k):
            assert "spread" in method.statistics
            return 0.1 * (11 - k)

        def spread_energy(self, i, k):
            assert "spread" in method.statistics
            return 0.1 * k

    from automerge.recipe import Place

    made = recipe(method)
    scalars = method.coefficients(method.values(made, Place(NAME, "mlp", 0.0)), Declared())
    assert len(scalars.each) == len(made.sources)


@ELEMENTWISE
def test_kernel_does_not_depend_on_the_cut_into_blocks(method):
    from automerge.checkpoints import Stored
    from automerge.merging.workspace import Workspace
    from automerge.methods import Operands
    from automerge.recipe import Place

    made, inputs = recipe(method), tensors(count(method), (64,))
    names = tuple(s.name for s in made.sources)
    base_name = "base" if method.anchored else None
    named = zip(("base", *names), inputs, strict=True)
    workspace = Workspace({n: MemoryCheckpoint({NAME: t}) for n, t in named})
    base = Stored(base_name, NAME) if base_name else None
    origins = tuple(Stored(name, NAME) for name in names)
    statistics = workspace.statistics(base, origins)
    scalars = method.coefficients(method.values(made, Place(NAME, "mlp", 0.0)), statistics)
    uniforms = [uniform(0, NAME, n, 0, 64) for n in names] if method.seeded else []
    ranked = names if "ranks" in method.statistics else ()
    ranks = [workspace.ranks(base, Stored(n, NAME), 8).cut(0, 64) for n in ranked]

    def kernel(cut: slice) -> torch.Tensor:
        base, *sources = (t[cut] for t in inputs)
        anchor = base if method.anchored else None
        cuts = ([t[cut] for t in kind] for kind in (uniforms, ranks))
        return method.kernel(Operands(anchor, sources, *cuts), scalars)

    pieces = torch.cat([kernel(slice(0, 13)), kernel(slice(13, 50)), kernel(slice(50, 64))])
    assert torch.equal(kernel(slice(None)), pieces)


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_a_vote_of_exactly_zero_elects_plus(method):
    made = Recipe(method, (RecipeSource("m0", {}), RecipeSource("m1", {})), base="base")
    base = torch.zeros(2)
    merged = merge(made, base, torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0]))
    assert merged.tolist() == [1.0, 2.0]


def test_colinear_tensors_are_interpolated_linearly():
    made = dataclasses.replace(recipe(METHODS["slerp"]), knobs={"t": Profile.of(0.25)})
    base = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(merge(made, base, base, 2 * base), 1.25 * base)
    torch.testing.assert_close(merge(made, base, base * 0, base), 0.25 * base)


def test_density_zero_keeps_nothing_and_the_smallest_density_keeps_one_element():
    base, source = torch.zeros(5), torch.tensor([0.1, -3.0, 0.2, 0.3, 1.0])

    def ties(density: float) -> list[float]:
        sources = (RecipeSource("m0", {"density": Profile.of(density)}),)
        return merge(Recipe("ties", sources, base="base"), base, source).tolist()

    assert ties(0.0) == [0.0] * 5
    assert ties(1e-9) == [0.0, -3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_an_engine_that_merged_another_seed_gives_the_same_bits_as_a_new_one(method):
    inputs = dict(zip(("base", "m0", "m1", "m2"), tensors(3), strict=True))
    models = {n: MemoryCheckpoint({NAME: t}) for n, t in inputs.items()}
    engine = ResidentEngine(models)
    for seed in (1, 2, 1):
        made = recipe(METHODS[method], seed=seed)
        [(_, merged)], [(_, new)] = engine.merge(made), ResidentEngine(models).merge(made)
        assert torch.equal(merged, new)
