"""What the papers on data-free merging say of their methods."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge.checkpoints import MemoryCheckpoint
from automerge.merging import InvalidMerge, ResidentEngine
from automerge.methods import METHODS, Operands
from automerge.methods.geometric_median import median
from automerge.methods.shared.matrices import assemble, directions, polar, projected, svd
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.methods.oracles_literature import LITERATURE

NAME = "model.layers.0.mlp.up_proj.weight"
MINE = pytest.mark.parametrize("method", sorted(LITERATURE))
MATRICES = pytest.mark.parametrize("method", ["iso_c", "iso_cts", "tsv_m", "star", "opcm"])


def merged_models(method, models: Mapping[str, Mapping[str, torch.Tensor]], each=(), **knobs):
    """Merge m0, m1, … (with "base", where there is one); `each` holds the knobs of each."""
    names = [name for name in models if name != "base"]
    own = [*each, *({} for _ in names[len(each) :])]
    sources = tuple(
        RecipeSource(name, {k: Profile.of(v) for k, v in given.items()})
        for name, given in zip(names, own, strict=True)
    )
    base = "base" if METHODS[method].anchored else None
    recipe = Recipe(method, sources, base, {k: Profile.of(v) for k, v in knobs.items()})
    engine = ResidentEngine({name: MemoryCheckpoint(model) for name, model in models.items()})
    return dict(engine.merge(recipe))


def merge(method, base, *sources, each=(), **knobs) -> torch.Tensor:
    tensors = {"base": base} | {f"m{i}": source for i, source in enumerate(sources)}
    models = {name: {NAME: tensor} for name, tensor in tensors.items()}
    return merged_models(method, models, each, **knobs)[NAME]


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def many(count: int, *shape: int, dtype=torch.float64) -> list[torch.Tensor]:
    return [normal(*shape, seed=seed, dtype=dtype) for seed in range(1, count + 1)]


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix)


def low_rank(rank: int, rows: int, columns: int, seed: int) -> torch.Tensor:
    return normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 100)


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def clipped(base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """What PCB sees of a small source: its largest change is clipped to the second largest."""
    vector = source - base
    second = vector.abs().reshape(-1).sort().values[-2]
    return base + vector.clamp(-second, second)


# All methods


@pytest.mark.sample(80)
@MINE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 6), (6, 1), (2, 3), (2, 1, 3)], ids=str)
def test_tensors_with_hardly_any_elements_are_merged(method, shape, dtype):
    base, *sources = (normal(*shape, seed=s, dtype=dtype) for s in range(6))
    assert merge(method, base, *sources).isfinite().all()
    assert merge(method, base, *[sources[0]] * 3).isfinite().all()


@MINE
@pytest.mark.parametrize("shape", [(9,), (6, 9), (9, 6), (2, 4, 5)], ids=str)
def test_zero_equal_opposite_and_low_rank_task_vectors_are_merged(method, shape):
    base, one, two = (normal(*shape, seed=s, dtype=torch.float32) for s in range(3))
    thin = torch.zeros(shape)
    thin[..., 0] = one[..., 0]
    for sources in (
        (base, base),
        (base, one, base),
        (one, one, one),
        (one, 2 * base - one),
        (base + thin, base + 2 * thin, base - thin),
        (base + 1e-15, base + 1e15 * two),
    ):
        assert merge(method, base, *sources).isfinite().all()


@MINE
def test_a_single_source_is_merged_with_no_other_model(method):
    base, source = many(2, 6, 9)
    merged = merge(method, base, source)
    if method in ("iso_c", "iso_cts"):
        vector = singular_values(merged - base)
        close(vector, torch.full_like(vector, singular_values(source - base).mean().item()))
    elif method == "star":
        close(singular_values(merged - base).sum(), singular_values(source - base).sum())
    elif method == "pcb":
        changed = merged != base
        assert 0 < changed.sum() < merged.numel() / 5
        close(merged[changed], clipped(base, source)[changed])
    elif method == "consensus":
        close(merge(method, base, source, k=1.0), source)
    else:
        close(merged, source)


@pytest.mark.parametrize("method", sorted(set(LITERATURE) - {"cart", "pcb", "widen"}))
@pytest.mark.parametrize("factor", [1e-3, 8.0])
def test_task_vectors_scale_together(method, factor):
    """The tanh of PCB and the angles of WIDEN know a scale."""
    base, *sources = many(4, 6, 9)
    merged = merge(method, base, *sources) - base
    scaled = merge(method, base, *(base + factor * (s - base) for s in sources)) - base
    close(scaled / factor, merged)


@MATRICES
def test_a_stack_of_matrices_is_merged_as_its_matrices(method):
    base, *sources = many(4, 3, 8, 6)
    whole = merge(method, base, *sources)
    parts = [merge(method, base[i], *(s[i] for s in sources)) for i in range(3)]
    if method == "opcm":  # its norms are those of the stack
        whole, parts = whole - base, [p - b for p, b in zip(parts, base, strict=True)]
        whole = whole / whole.flatten(1).norm(dim=1)[:, None, None]
        parts = [p / p.norm() for p in parts]
    close(whole, torch.stack(parts))


@pytest.mark.parametrize("method", ["iso_c", "iso_cts", "tsv_m", "star"])
def test_vectors_are_averaged(method):
    base, *sources = many(4, 9)
    close(merge(method, base, *sources), sum(sources) / 3)


@MINE
def test_an_infinite_element_of_a_large_tensor_is_found(method):
    base, *sources = many(3, 20_000, dtype=torch.float32)
    sources[0][77] = float("inf")
    with pytest.raises(InvalidMerge):
        merge(method, base, *sources)


# Consensus


def test_consensus_without_a_vote_is_task_arithmetic():
    base, *sources = many(4, 200)
    merged = merge("consensus", base, *sources, k=0.0)
    close(merged, base + sum(s - base for s in sources))


def test_consensus_of_one_keeps_what_any_task_uses_and_of_two_what_tasks_share():
    base = torch.zeros(4)
    one, two = torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 3.0, 2.0, 0.0])
    assert merge("consensus", base, one, two, k=1.0).tolist() == [1.0, 3.0, 4.0, 0.0]
    assert merge("consensus", base, one, two, k=2.0).tolist() == [0.0, 0.0, 4.0, 0.0]
    assert merge("consensus", base, one, two, k=1.5).tolist() == [0.0, 0.0, 4.0, 0.0]
    assert merge("consensus", base, one, two, k=3.0).tolist() == [0.0] * 4


def test_consensus_keeps_less_as_it_asks_for_more_tasks_or_stricter_masks():
    base, *sources = many(5, 2000)

    def kept(k: float, strictness: float) -> set[int]:
        each = [{"mask_lambda": strictness}] * 4
        merged = merge("consensus", base, *sources, each=each, k=k)
        return set((merged != base).nonzero().flatten().tolist())

    sizes = [len(kept(k, 0.4)) for k in range(5)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 5 or sizes[0] == sizes[1]
    assert kept(3, 0.4) <= kept(2, 0.4)
    assert kept(2, 0.6) < kept(2, 0.4)


# MagMax and EMR


def test_magmax_takes_the_largest_change_and_of_equal_ones_the_positive():
    base = torch.zeros(4)
    one, two = torch.tensor([1.0, -5.0, 2.0, -3.0]), torch.tensor([-2.0, 4.0, -2.0, -1.0])
    for pair in ((one, two), (two, one)):
        assert merge("magmax", base, *pair).tolist() == [-2.0, -5.0, 2.0, -3.0]


def test_emr_takes_the_largest_magnitude_of_the_elected_sign():
    base = torch.zeros(4)
    sources = (
        torch.tensor([3.0, -1.0, 1.0, 1.0]),
        torch.tensor([-2.0, -1.5, 2.0, -1.0]),
        torch.tensor([-2.0, 2.0, -4.0, 0.0]),
    )
    assert merge("emr_uni", base, *sources).tolist() == [-2.0, -1.5, -4.0, 1.0]


# Weights from norms


def model(*tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"model.layers.{i}.mlp.up_proj.weight": t for i, t in enumerate(tensors)}


def test_metagpt_weighs_by_the_whole_model_and_varm_by_each_tensor():
    zero, unit = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    other = torch.tensor([0.0, 1.0], dtype=torch.float64)
    models = {"base": model(zero, zero), "m0": model(unit, 3 * unit), "m1": model(other, other)}
    for name, expected in {
        "metagpt": [[10 / 12, 2 / 12], [3 * 10 / 12, 2 / 12]],
        "varm": [[0.5, 0.5], [3 * 0.9, 0.1]],
    }.items():
        for got, wanted in zip(merged_models(name, models).values(), expected, strict=True):
            close(got, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("method", ["metagpt", "varm"])
def test_shares_sum_to_lambda_and_are_those_of_squared_norms(method):
    base = torch.zeros(30, dtype=torch.float64)
    vectors = torch.linalg.qr(normal(30, 3)).Q.T * torch.tensor([[1.0], [2.0], [3.0]])
    merged = merge(method, base, *vectors, **{"lambda": 0.7})
    shares = (vectors @ merged) / vectors.square().sum(1)
    close(shares, 0.7 * torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64) / 14)
    close(shares.sum(), torch.tensor(0.7, dtype=torch.float64))


# Geometric median


def distances(point: torch.Tensor, points: list[torch.Tensor]) -> float:
    return sum(float((p - point).norm()) for p in points)


def test_the_geometric_median_is_where_unit_pulls_cancel():
    base, *sources = many(6, 40)
    merged = merge("geometric_median", base, *sources)
    close(sum((s - merged) / (s - merged).norm() for s in sources), torch.zeros(40).double())
    average = sum(sources) / 5
    assert distances(merged, sources) < distances(average, sources)


def test_one_source_far_away_hardly_moves_the_geometric_median():
    base, *sources = many(6, 40)
    moved = [merge("geometric_median", base, *sources, normal(40) * far) for far in (1e3, 1e6)]
    near = merge("geometric_median", base, *sources)
    assert (moved[0] - near).norm() < (sources[0] - base).norm()
    close(moved[1], moved[0], 1e-2)


def test_on_a_line_it_is_the_weighted_median():
    direction = normal(10)
    base, sources = direction * 0, [direction * at for at in (1.0, 2.0, 7.0, 30.0, 31.0)]
    close(merge("geometric_median", base, *sources), direction * 7)
    heavy = [{"weight": 1.0}] * 4 + [{"weight": 5.0}]
    close(merge("geometric_median", base, *sources, each=heavy), direction * 31)
    negative = [{"weight": -1.0}]
    close(merge("geometric_median", base, sources[1], each=negative), -direction * 2)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_no_source_and_no_neighbour_is_better_than_the_geometric_median(seed, count, dimension):
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, dimension)) * random.uniform(0.1, 2, size=(count, 1))
    counts = random.uniform(0.1, 1, size=count)

    def cost(point):
        return float(counts @ np.linalg.norm(points - point, axis=1))

    shares = median(list(counts), (points @ points.T).tolist())
    assert sum(shares) == pytest.approx(1)
    best = np.array(shares) @ points
    near = [best + step for step in random.normal(size=(20, dimension)) * 1e-3]
    assert all(cost(best) <= cost(other) + 1e-7 for other in (*points, *near))


@pytest.mark.parametrize("dimension", [2, 3, 54])
def test_rounding_of_the_inner_products_does_not_move_the_geometric_median(dimension):
    """Machines differ in the last bits of inner products; a cost would choose by them alone."""
    random = np.random.default_rng(7)
    for _ in range(200):
        count = random.integers(2, 8)
        points = random.normal(size=(count, dimension)) * random.uniform(0.1, 2, size=(count, 1))
        gram, counts = points @ points.T, list(random.uniform(0.1, 1, size=count))
        rounding = random.uniform(-1, 1, size=gram.shape) * np.finfo(float).eps
        other = gram * (1 + (rounding + rounding.T) / 2)
        one, two = (np.array(median(counts, g.tolist())) @ points for g in (gram, other))
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)


def test_of_two_sources_that_count_alike_the_geometric_median_is_the_middle():
    base, *sources = many(3, 40)
    close(merge("geometric_median", base, *sources), (sources[0] + sources[1]) / 2)


# PCB


def test_pcb_gives_equal_sources_their_strongest_elements():
    base, source = many(2, 400)
    merged = merge("pcb", base, source, source, ratio=0.2)
    vector, kept = source - base, merged != base
    assert 60 < kept.sum() <= 80
    close(merged[kept], clipped(base, source)[kept])
    assert vector[kept].abs().min() > vector[~kept].abs().max()


def test_pcb_clips_no_element_away_from_where_all_sources_left_it():
    """Of 20,000 magnitudes the two least are raised to the next, 0 excepted."""
    base, *sources = many(3, 20_000)
    for source in sources:
        source[7] = base[7]
    assert merge("pcb", base, *sources, ratio=1.0)[7] == base[7]


def test_pcb_drops_what_the_sum_of_task_vectors_opposes():
    base = torch.zeros(4, dtype=torch.float64)
    one = torch.tensor([1.0, 3.0, 2.0, 0.5], dtype=torch.float64)
    two = torch.tensor([1.5, -4.0, 2.5, 0.25], dtype=torch.float64)
    merged = merge("pcb", base, one, two, ratio=0.75)
    assert merged[1] == -2.5  # the second largest magnitude, to which the largest is clipped


# WIDEN


def test_widen_gives_far_columns_full_weight_and_near_ones_a_share():
    base = torch.eye(4, dtype=torch.float64)
    far, near = base.clone(), base.clone()
    far[:, 2:] *= 3.0
    far[0, 2:] += 1.0
    near[:, :2] *= 1.1
    near[3, :2] += 0.1
    merged = merge("widen", base, far, near, above_average=1.0, calibration=1.0)
    close(merged[:, 2:], far[:, 2:] + 0 * base[:, 2:])
    close(merged[:, :2], near[:, :2])


def test_widen_takes_the_changes_of_vectors_themselves_and_not_their_ranks():
    """One outlier lifts the mean change above all others, whatever their ranks."""
    base = torch.zeros(4, dtype=torch.float64)
    one = torch.tensor([0.0, 1.0, 2.0, 9.0], dtype=torch.float64)
    two = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    merged = merge("widen", base, one, two, above_average=1.0, calibration=1.5)
    share = np.exp(2.0) / (np.exp(2.0) + 1)
    close(merged, torch.tensor([0.0, 1.0, 2 * share, 1.5 * 9 + 1.5 * 3]).double())


def test_widen_without_calibration_shares_by_softmax_of_ranks():
    base, source = many(2, 5, 8)
    merged = merge("widen", base, source, base + (source - base), above_average=2.0)
    close(merged, source)


# Ext-Sub


def test_ext_sub_takes_from_a_source_nothing_that_it_shares_with_the_expert():
    base, expert, other = many(3, 6, 9)
    merged = merge("ext_sub", base, expert, other)
    ones = [(m - base) / (m - base).norm(dim=1, keepdim=True) for m in (expert, other)]
    assert ((expert - merged).double() * sum(ones)).sum(1).abs().max() < 1e-12
    assert (merged - expert).norm() > 0.1
    close(merge("ext_sub", base, expert, base + 3 * (expert - base)), expert)


def test_ext_sub_subtracts_all_of_what_has_nothing_in_common_with_the_expert():
    base, expert, other = many(3, 6, 9)
    opposite = base - 2 * (expert - base)
    close(merge("ext_sub", base, expert, opposite), expert - (opposite - base))
    expert[0], other[1] = base[0], base[1]
    merged = merge("ext_sub", base, expert, other)
    close(merged[:2], (expert - (other - base))[:2])


# Singular values


def test_svd_is_torchs_and_drops_what_is_rounding_error():
    matrix = normal(7, 5, dtype=torch.float32)
    u, values, vt = svd(matrix)
    close(assemble(u, values, vt), matrix, 1e-5)
    close(values, singular_values(matrix), 1e-6)
    thin = low_rank(2, 200, 90, seed=3).float()
    u, values, vt = svd(thin)
    assert (values > 0).sum() == 2
    assert not u[:, 2:].any()
    assert not vt[2:].any()
    close(assemble(u, values, vt), thin, 1e-4)


def test_svd_of_what_is_not_finite_is_nan():
    matrix = normal(3, 5)
    matrix[1, 2] = float("inf")
    assert all(part.isnan().all() for part in svd(matrix))


def test_polar_is_orthogonal_and_the_nearest_such_matrix():
    for shape in ((9, 4), (4, 9)):
        matrix = normal(*shape)
        nearest = polar(matrix)
        product = nearest.mT @ nearest if shape[0] > shape[1] else nearest @ nearest.mT
        close(product, torch.eye(4, dtype=torch.float64))
        for seed in range(5):
            other = polar(matrix + 0.1 * normal(*shape, seed=seed))
            assert (matrix - nearest).norm() <= (matrix - other).norm()


def test_a_projection_on_directions_is_the_truncated_svd():
    for shape in ((9, 4), (4, 9), (3, 5, 6)):
        matrix = normal(*shape)
        basis, values = directions(matrix)
        assert basis.shape[-2] == min(shape[-2:])
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        close(values, s)
        for kept in (0, 1, 3):
            expected = u[..., :kept] * s[..., None, :kept] @ vt[..., :kept, :]
            close(projected(matrix, basis[..., :kept]), expected)


def test_iso_c_has_equal_singular_values_of_the_same_sum_and_the_same_subspaces():
    base, *sources = many(4, 8, 5)
    total = sum(s - base for s in sources)
    merged = merge("iso_c", base, *sources) - base
    values = singular_values(merged)
    close(values, torch.full((5,), singular_values(total).mean().item(), dtype=torch.float64))
    u, _, vt = torch.linalg.svd(total, full_matrices=False)
    close(u.T @ merged @ vt.T, values.mean() * torch.eye(5, dtype=torch.float64))


def test_iso_c_of_low_rank_task_vectors_stays_in_their_span():
    base = normal(12, 10)
    vectors = [low_rank(1, 12, 10, seed) for seed in (1, 2, 3)]
    values = singular_values(merge("iso_c", base, *(base + v for v in vectors)) - base)
    close(values[:3], singular_values(sum(vectors)).sum().expand(3) / 3)
    close(values[3:], torch.zeros(7, dtype=torch.float64))


def test_iso_cts_with_nothing_but_common_directions_is_iso_c():
    base, *sources = many(4, 8, 6)
    common = merge("iso_cts", base, *sources, common=1.0)
    close(common, merge("iso_c", base, *sources))
    other = merge("iso_cts", base, *sources, common=0.5)
    assert not torch.allclose(common, other)
    values = singular_values(other - base)
    close(values, values.mean().expand(6))


def test_iso_cts_keeps_the_leading_direction_of_every_task():
    """Task 1 dominates the sum; without a share of its own, task 2 would be lost."""
    base = torch.zeros(8, 8, dtype=torch.float64)
    q = torch.linalg.qr(normal(8, 8)).Q
    strong = q[:, :4] @ torch.diag(torch.tensor([9.0, 8.0, 7.0, 6.0]).double()) @ q[:, :4].T
    weak = 0.1 * torch.outer(q[:, 5], q[:, 6])
    merged = merge("iso_cts", base, strong, weak, common=0.5)
    scale = singular_values(merged)[0]
    assert (q[:, 5] @ merged @ q[:, 6]) > 0.99 * scale


def tsv_parts(vectors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    base = torch.zeros_like(vectors[0])
    prepare = METHODS["tsv_m"].prepare
    assert prepare is not None
    return prepare(Operands(base, vectors))


def test_tsv_makes_the_singular_vectors_of_all_tasks_orthogonal():
    u, vt, *values = tsv_parts(many(3, 12, 9))
    assert u.shape == (12, 9)
    close(u.T @ u, torch.eye(9, dtype=torch.float64))
    close(vt @ vt.T, torch.eye(9, dtype=torch.float64))
    assert [len(v) for v in values] == [3, 3, 3]


def test_tsv_adds_tasks_that_do_not_interfere():
    base = normal(12, 9)
    left, right = torch.linalg.qr(normal(12, 12)).Q, torch.linalg.qr(normal(9, 9, seed=5)).Q
    one = left[:, :3] @ torch.diag(torch.tensor([5.0, 3.0, 1.0]).double()) @ right[:, :3].T
    two = left[:, 4:6] @ torch.diag(torch.tensor([4.0, 2.0]).double()) @ right[:, 5:7].T
    weights = [{"weight": 0.5}, {"weight": -2.0}]
    merged = merge("tsv_m", base, base + one, base + two, each=weights)
    close(merged, base + 0.5 * one - 2 * two)


def test_tsv_of_equal_sources_is_their_leading_half():
    base, source = many(2, 9, 8)
    u, s, vt = torch.linalg.svd(source - base, full_matrices=False)
    expected = base + u[:, :4] * s[:4] @ vt[:4]
    close(merge("tsv_m", base, source, source), expected)


def test_star_keeps_the_nuclear_norm_in_fewer_directions():
    base, source = many(2, 10, 7)
    before = singular_values(source - base)
    for eta in (0.2, 0.5, 0.8):
        after = singular_values(merge("star", base, source, each=[{"eta": eta}]) - base)
        rank = int((after > 1e-9).sum())
        assert before[: rank - 1].sum() < eta * before.sum() <= before[:rank].sum()
        close(after.sum(), before.sum())
        close(after[:rank] / after[0], before[:rank] / before[0])


def test_star_with_all_singular_values_is_the_average():
    base, *sources = many(4, 10, 7)
    close(merge("star", base, *sources, each=[{"eta": 1.0}] * 3), sum(sources) / 3)


def test_cart_needs_no_base_and_adds_what_is_leading_in_each_source():
    centre = normal(9, 7)
    wave = low_rank(1, 9, 7, seed=4)
    noise = 1e-3 * low_rank(7, 9, 7, seed=5)
    sources = [centre + wave + noise, centre - wave - noise]
    each = [{"weight": 1.0}, {"weight": 0.0}]
    merged = merge("cart", centre * 0, *sources, each=each, rank=0.15)
    u, s, vt = torch.linalg.svd(wave + noise, full_matrices=False)
    close(merged, centre + s[0] * torch.outer(u[:, 0], vt[0]))
    assert (merged - sources[0]).norm() < 0.01 * wave.norm()


def test_cart_of_full_rank_is_linear_and_without_rank_the_average():
    base, *sources = many(4, 9, 7)
    average = sum(sources) / 3
    each = [{"weight": w} for w in (0.5, 1.5, -1.0)]
    expected = average + sum(
        k["weight"] * (s - average) for k, s in zip(each, sources, strict=True)
    )
    close(merge("cart", base, *sources, each=each, rank=1.0), expected)
    close(merge("cart", base, *sources, each=each, rank=0.0), average)
    almost = merge("cart", base, *sources, each=each, rank=0.9999)
    assert (almost - expected).norm() < (average - expected).norm()


def test_opcm_keeps_the_mean_norm_and_adds_only_what_is_orthogonal():
    base, *sources = many(4, 10, 7)
    vectors = [s - base for s in sources]
    merged = merge("opcm", base, *sources) - base
    close(merged.norm(), sum(v.norm() for v in vectors) / 3)
    two = merge("opcm", base, *sources[:2]) - base
    # The part along the first is what was there: projections of the second are orthogonal to it.
    scale = (two * vectors[0]).sum() / vectors[0].square().sum()
    added = two / scale - vectors[0]
    close((added * vectors[0]).sum(), torch.zeros((), dtype=torch.float64))
    assert added.norm() > 0.5 * vectors[1].norm()


def test_opcm_with_a_higher_threshold_removes_more_of_the_next_source():
    base, first, second = many(3, 10, 7)

    def added(alpha: float) -> float:
        merged = merge("opcm", base, first, second, alpha=alpha) - base
        scale = (merged * (first - base)).sum() / (first - base).square().sum()
        return float((merged / scale - (first - base)).norm())

    norms = [added(alpha) for alpha in (0.0, 0.3, 0.6, 0.9)]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > norms[-1]
