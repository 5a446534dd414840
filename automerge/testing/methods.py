"""The laws of merge methods, as tests that anybody can run over their own method.

from automerge.testing import MethodLaws

class TestMine(MethodLaws):
    @pytest.fixture
    def method(self):
        return MY_METHOD
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from automerge.extensions import Table
from automerge.merging.backends.base import TensorMerge
from automerge.merging.slopes import TensorSlopes, moved
from automerge.merging.tensor import InvalidMerge, merge_tensor
from automerge.methods import Method, Operands, admit, check_recipe
from automerge.methods.shared.uniform import uniform
from automerge.recipe import Profile, RecipeSource
from automerge.testing.merges import (
    NAME,
    PLACE,
    count,
    merge,
    neutral,
    recipe,
    scalable,
    step,
    switchable,
    tensors,
    weighted,
    workspace,
)

SHAPES = [(7, 5), (64,), (), (3, 2, 4)]


class MethodLaws:
    """Every law of `automerge.methods.base.Method` that can be tested without its paper.

    The fixture `method` is the `Method`. Knobs get values by name (`automerge.testing.merges`).
    """

    def test_declaration_is_consistent(self, method: Method) -> None:
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
        table = Table("method", {method.name: method}, "automerge.methods", admit)
        assert check_recipe(recipe(method), table) == []

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_shape_and_dtype_are_kept_and_inputs_untouched(
        self, method: Method, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        inputs = tensors(count(method), shape, dtype)
        before = [t.clone() for t in inputs]
        merged = merge(method, recipe(method), *inputs)
        assert merged.shape == shape
        assert merged.dtype == dtype
        assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_neutral_knobs_return_the_base_or_the_first_source_bit_for_bit(
        self, method: Method, dtype: torch.dtype
    ) -> None:
        if not switchable(method):
            pytest.skip("its knobs do not leave one model")
        inputs = tensors(count(method), dtype=dtype)
        made = recipe(method)
        idle = {k.name: neutral(k) for k in method.source_knobs}
        sources = [RecipeSource(s.name, idle) for s in made.sources]
        if not method.anchored:
            sources[0] = RecipeSource(sources[0].name, {})
        knobs = {k.name: neutral(k) for k in method.recipe_knobs if k.kind == "float"}
        made = replace(made, sources=tuple(sources), knobs=knobs)
        assert torch.equal(merge(method, made, *inputs), inputs[0 if method.anchored else 1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_lambda_zero_returns_the_base_bit_for_bit(
        self, method: Method, dtype: torch.dtype
    ) -> None:
        if not scalable(method):
            pytest.skip("it has no lambda")
        inputs = tensors(count(method), dtype=dtype)
        made = recipe(method)
        made = replace(made, knobs={**made.knobs, "lambda": Profile.of(0.0)})
        assert torch.equal(merge(method, made, *inputs), inputs[0])

    def test_the_merged_task_vector_is_proportional_to_lambda(self, method: Method) -> None:
        if not scalable(method):
            pytest.skip("it has no lambda")
        base, *sources = tensors(count(method))
        made = recipe(method)

        def merged(scale: float) -> Tensor:
            knobs = {**made.knobs, "lambda": Profile.of(scale)}
            return merge(method, replace(made, knobs=knobs), base, *sources) - base

        torch.testing.assert_close(merged(-2.0), -2 * merged(1.0), rtol=1e-4, atol=1e-5)

    def test_a_source_of_weight_zero_has_no_influence(self, method: Method) -> None:
        if not weighted(method) or method.compares:
            pytest.skip("sources have no weights, or are compared whatever they are")
        inputs = tensors(count(method))
        made = recipe(method)
        idle = RecipeSource("m1", {**made.sources[1].knobs, "weight": Profile.of(0.0)})
        made = replace(made, sources=(made.sources[0], idle, *made.sources[2:]))
        first = merge(method, made, *inputs)
        inputs[2] = inputs[2].flip(0) * 3 - 1
        torch.testing.assert_close(merge(method, made, *inputs), first, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_sources_equal_to_the_base_change_nothing(
        self, method: Method, dtype: torch.dtype
    ) -> None:
        base = tensors(0, dtype=dtype)[0]
        made = recipe(method)
        if method.max_sources == 1:  # there is no other source to average with
            idle = {k.name: neutral(k) for k in method.source_knobs}
            made = replace(made, sources=(RecipeSource("m0", idle),))
        merged = merge(method, made, base, *[base.clone()] * count(method))
        if method.anchored:
            assert torch.equal(merged, base)
        else:
            torch.testing.assert_close(
                merged, base, rtol=1e-6 if dtype == torch.float32 else 0, atol=0
            )

    def test_source_order_matters_only_where_declared(self, method: Method) -> None:
        inputs = tensors(count(method))
        made = recipe(method)
        backwards = replace(made, sources=made.sources[::-1])
        found = merge(method, made, *inputs)
        # Matrices are rounded relative to their size: elements near 0 are as wrong as the largest.
        near = 1e-5 * float(found.abs().max())
        same = torch.allclose(found, merge(method, backwards, *inputs), rtol=0, atol=near)
        assert same != method.ordered

    def test_same_recipe_gives_the_same_bits_and_another_seed_matters_only_where_declared(
        self, method: Method
    ) -> None:
        inputs = tensors(count(method))
        first = merge(method, recipe(method), *inputs)
        assert torch.equal(first, merge(method, recipe(method), *inputs))
        reseeded = merge(method, recipe(method, seed=9), *inputs)
        assert torch.equal(first, reseeded) != method.seeded

    @pytest.mark.parametrize("switch", [True, False])
    def test_slopes_of_smooth_knobs_are_central_differences(
        self, method: Method, switch: bool
    ) -> None:
        inputs = tensors(count(method), dtype=torch.float64)
        made = recipe(method, switch)
        space, whole = workspace(made, *inputs), step(method, made, inputs[0])
        slopes = TensorSlopes(whole, space)
        if not slopes.knobs:
            pytest.skip("no knob is smooth")
        gradient = torch.randn(
            inputs[0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        # Seeded methods compute with numbers in float32: their differences need a wider step.
        h, tolerance = (2.0**-10, 2.0**-10) if method.seeded else (2.0**-20, 1e-6)
        for knob, found in zip(slopes.knobs, slopes.contract(gradient), strict=True):
            below, above = (
                merge_tensor(replace(whole, values=moved(whole.values, knob, by)), space)
                for by in (-h, h)
            )
            expected = float(((above - below) / (2 * h) * gradient).sum())
            assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), knob

    @pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("where", [0, 1, -1])
    def test_a_poisoned_element_is_never_merged_into_a_finite_model(
        self, method: Method, poison: float, where: int
    ) -> None:
        inputs = tensors(count(method))
        if not method.anchored and where == 0:
            where = 1
        inputs[where][3, 2] = poison
        with pytest.raises(InvalidMerge, match=NAME):
            merge(method, recipe(method), *inputs)

    def test_coefficients_ask_only_for_declared_statistics(self, method: Method) -> None:
        made = recipe(method)
        scalars = method.coefficients(method.values(made, PLACE), Declared(method))
        assert len(scalars.each) == len(made.sources)

    def test_kernel_does_not_depend_on_the_cut_into_blocks(self, method: Method) -> None:
        if method.extent != "element":
            pytest.skip("it needs whole tensors")
        made, inputs = recipe(method), tensors(count(method), (64,))
        whole = TensorMerge(step(method, made, inputs[0]), method, workspace(made, *inputs))
        names = [source.name for source in made.sources]
        uniforms = [uniform(0, NAME, n, 0, 64) for n in names] if method.seeded else []
        ranks = [
            whole.workspace.ranks(whole.step.base, source, 8).cut(0, 64)
            for source in (whole.step.sources if whole.is_ranked else ())
        ]

        def kernel(cut: slice) -> Tensor:
            base, *sources = (t[cut] for t in inputs)
            anchor = base if method.anchored else None
            random, ranked = ([t[cut] for t in kind] for kind in (uniforms, ranks))
            return method.kernel(Operands(anchor, sources, random, ranked), whole.scalars)

        pieces = torch.cat([kernel(slice(0, 13)), kernel(slice(13, 50)), kernel(slice(50, 64))])
        assert torch.equal(kernel(slice(None)), pieces)


class Declared:
    """Statistics of made-up vectors that refuse what a method does not declare."""

    size = model_size = 10

    def __init__(self, method: Method) -> None:
        self._declared = method.statistics
        self.count = count(method)

    def inner(self, i: int, j: int) -> float:
        assert "gram" in self._declared
        return 1.0 if i == j else 0.5

    def model_inner(self, i: int, j: int) -> float:
        assert "model_gram" in self._declared
        return 1.0 if i == j else 0.5

    def magnitude(self, i: int, k: int, whole: bool = False) -> float:
        assert "magnitude" in self._declared
        return 0.1 * (11 - k)

    def competition(
        self, i: int, k: int, limits: Sequence[tuple[float, float, float]], whole: bool
    ) -> float:
        assert "competition" in self._declared
        assert len(limits) == self.count
        return 0.1 * (6 - k)

    @property
    def n_spread(self) -> int:
        assert "spread" in self._declared
        return 9

    def spread(self, k: int) -> float:
        assert "spread" in self._declared
        return 0.1 * (11 - k)

    def spread_energy(self, i: int, k: int) -> float:
        assert "spread" in self._declared
        return 0.1 * k
