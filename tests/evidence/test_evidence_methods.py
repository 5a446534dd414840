"""Methods that need evidence against their papers' formulas, naively in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.evidence import MemoryEvidence
from automerge.merging.tensor import merge_tensor
from automerge.merging.workspace import Workspace
from automerge.methods import METHODS
from automerge.methods.transforms.model_tailor import patch
from automerge.recipe import Profile, RecipeSource
from automerge.testing.merges import NAME, count, evidence, merge, recipe, step, tensors
from tests.methods.dataless import EVIDENCED
from tests.methods.oracles_literature import tailored


def fisher(base, sources, weights, knobs, kinds):
    numerator, divisor = np.zeros(base.shape), np.zeros(base.shape)
    for w, x, f in zip(weights, sources, kinds["squared_gradient"], strict=True):
        importance = w * np.maximum(f, knobs["floor"] * f.mean())
        numerator += importance * x
        divisor += importance
    return numerator / divisor


def fisher_mask_nodes(base, sources, weights, knobs, kinds):
    return fisher(
        base, sources, weights, {"floor": 0}, {"squared_gradient": kinds["squared_mask_gradient"]}
    )


def ubgm(base, sources, weights, knobs, kinds):
    prior = sum(kinds["base_squared_gradient"]) / len(sources)
    prior = np.maximum(prior, knobs["floor"] * prior.mean())
    own = kinds["squared_gradient"]
    together = prior + sum(w * h for w, h in zip(weights, own, strict=True))
    merged = base.copy()
    for w, x, h in zip(weights, sources, own, strict=True):
        merged += knobs["lambda"] * w * (prior + h) / together * (x - base)
    return merged


def ewr(base, sources, weights, knobs, kinds):
    """The authors' sum, but of θ₀ ± τ where they have ± τ."""

    def sure(f):
        return np.maximum(f, knobs["floor"] * f.mean())

    total = sure(sum(kinds["base_squared_gradient"]) / len(sources))
    merged = total * base
    for w, x, f in zip(weights, sources, kinds["squared_gradient"], strict=True):
        merged = merged + abs(w) * sure(f) * (base + np.sign(w) * (x - base))
        total = total + abs(w) * sure(f)
    return base + knobs["lambda"] * (merged / total - base)


def tatr(base, sources, weights, knobs, kinds):
    gradients = kinds["base_gradient"]
    omega = np.zeros(base.shape)
    for k, g in enumerate(gradients):
        for i, x in enumerate(sources):
            omega += np.abs(g) * np.abs(x - base) if k != i else 0
    kept = np.ones(base.size, dtype=bool)
    kept[np.argsort(-omega.reshape(-1))[: int(knobs["ratio"] * base.size)]] = False
    summed = sum(w * (x - base) for w, x in zip(weights, sources, strict=True))
    return base + knobs["lambda"] * kept.reshape(base.shape) * summed


def sta(base, sources, weights, knobs, kinds):
    merged = base.copy()
    for w, x, g, share in zip(weights, sources, kinds["gradient"], knobs["density"], strict=True):
        sensitivity = np.abs(x * g).reshape(-1)
        kept = np.zeros(base.size)
        kept[np.argsort(-sensitivity)[: max(1, int(share * base.size))]] = 1
        merged += knobs["lambda"] * w * kept.reshape(base.shape) * (x - base)
    return merged


def model_tailor(base, sources, weights, knobs, kinds):
    grams = kinds["input_gram"] or [None] * len(sources)
    merged = base.copy()
    for w, x, gram, density in zip(weights, sources, grams, knobs["density"], strict=True):
        if gram is None:  # a matrix whose inputs are not known is like any other tensor
            patch = tailored(base.reshape(-1), (x - base).reshape(-1), gram, density, 1)
        else:
            patch = tailored(base, x - base, gram, density, knobs["salience"])
        merged += knobs["lambda"] * w * patch.reshape(base.shape)
    return merged


def regmean(base, sources, weights, knobs, kinds):
    if base.ndim != 2 or not kinds["input_gram"]:
        return sum(w * x for w, x in zip(weights, sources, strict=True)) / sum(weights)
    alpha = knobs["off_diagonal"]
    grams = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in kinds["input_gram"]]
    total = sum(w * g for w, g in zip(weights, grams, strict=True))
    moment = sum(w * x @ g for w, x, g in zip(weights, sources, grams, strict=True))
    return moment @ np.linalg.inv(total)


def krylov(residual, total, size):
    """An orthonormal basis of R, RG, RG² …: powers themselves soon differ by rounding only."""
    basis = [residual.reshape(-1) / np.linalg.norm(residual)]
    while len(basis) < size:
        following = (basis[-1].reshape(residual.shape) @ total).reshape(-1)
        length = np.linalg.norm(following)
        for _ in range(2):  # once leaves what rounding adds
            following = following - sum(v * (v @ following) for v in basis)
        if np.linalg.norm(following) <= 1e-10 * length:
            break
        basis.append(following / np.linalg.norm(following))
    return np.stack(basis, axis=1)


def mats(base, sources, weights, knobs, kinds):
    """Conjugate gradients: the error's energy is least in the Krylov space of the residual."""
    average = sum(w * x for w, x in zip(weights, sources, strict=True)) / sum(weights)
    if base.ndim != 2:
        return average
    grams = kinds["input_gram"]
    total = sum(w * g for w, g in zip(weights, grams, strict=True))
    residual = sum(w * x @ g for w, x, g in zip(weights, sources, grams, strict=True))
    residual = residual - average @ total
    basis = krylov(residual, total, int(knobs["iterations"]))
    images = np.stack([(v.reshape(base.shape) @ total).reshape(-1) for v in basis.T], axis=1)
    steps = np.linalg.solve(basis.T @ images, basis.T @ residual.reshape(-1))
    return average + (basis @ steps).reshape(base.shape)


ALL = (fisher, fisher_mask_nodes, ubgm, ewr, tatr, sta, model_tailor, regmean, mats)
FORMULAS = {formula.__name__: formula for formula in ALL}


def positive(made):
    """Weights above 0: a system of Gram matrices is then definite."""
    sources = tuple(
        RecipeSource(s.name, {**s.knobs, "weight": Profile.of(0.3 + 0.2 * i)})
        for i, s in enumerate(made.sources)
    )
    return replace(made, sources=sources)


@pytest.mark.parametrize("name", sorted(EVIDENCED))
@pytest.mark.parametrize("shape", [(7, 5), (64,), (2, 12, 9)], ids=str)
def test_method_agrees_with_its_paper(name, shape):
    method = METHODS[name]
    inputs = tensors(count(method), shape)
    made = positive(recipe(method))
    if name == "tatr":
        made = replace(made, knobs={**made.knobs, "ratio": Profile.of(0.3)})
    weights = [s.knobs["weight"].parts[0][1][0] for s in made.sources]
    knobs = {k: v.parts[0][1][0] for k, v in made.knobs.items()}
    for knob in method.source_knobs:
        knobs[knob.name] = [s.knobs[knob.name].parts[0][1][0] for s in made.sources]
    files = evidence(made, inputs[0])
    kinds = {
        kind: [files[digest].read(NAME).double().numpy() for digest in digests.values()]
        for kind, digests in made.evidence.items()
    }
    base, *sources = (t.double().numpy() for t in inputs)
    expected = FORMULAS[name](base, sources, weights, knobs, kinds)
    np.testing.assert_allclose(merge(method, made, *inputs).numpy(), expected, rtol=1e-4, atol=1e-4)


def by_mats(sources, grams, iterations):
    """The method's merge of two sources with equal weights and Gram matrices in float32."""
    method = METHODS["mats"]
    made = recipe(method)
    made = replace(
        made,
        knobs={"iterations": Profile.of(float(iterations))},
        sources=tuple(RecipeSource(s.name, {"weight": Profile.of(1.0)}) for s in made.sources[:2]),
    )
    files = {
        digest: MemoryEvidence("input_gram", digest, {NAME: torch.from_numpy(gram).float()})
        for digest, gram in zip(made.evidence["input_gram"].values(), grams, strict=False)
    }
    models = {
        s.name: MemoryCheckpoint({NAME: torch.from_numpy(x)})
        for s, x in zip(made.sources, sources, strict=True)
    }
    like = torch.from_numpy(sources[0])
    return merge_tensor(step(method, made, like), Workspace(models, evidence=files)).numpy()


def grams_of(inputs, columns):
    """Two tasks' weights, and Gram matrices of so many inputs, whose columns vary unequally."""
    random = np.random.default_rng(0)
    sources = [random.standard_normal((16, columns)).astype(np.float32) for _ in range(2)]
    drawn = [
        random.standard_normal((inputs, columns)) * np.exp(-random.uniform(0, 2, columns))
        for _ in range(2)
    ]
    return sources, [(x.T @ x / inputs) for x in drawn]


@pytest.mark.parametrize("inputs", [200, 6], ids=["full rank", "singular"])
@pytest.mark.parametrize("iterations", [1, 3, 5, 10])
def test_conjugate_gradients_go_as_far_as_the_best_of_their_krylov_space(inputs, iterations):
    sources, grams = grams_of(inputs, 32)
    base, *wide = (x.astype(np.float64) for x in (sources[0], *sources))
    expected = mats(base, wide, [1, 1], {"iterations": iterations}, {"input_gram": grams})
    np.testing.assert_allclose(by_mats(sources, grams, iterations), expected, atol=1e-5)


@pytest.mark.parametrize("iterations", [20, 50, 1000])
def test_steps_past_the_solution_of_a_singular_system_stay_there(iterations):
    """Six inputs per task say nothing of the other columns, which keep the average."""
    sources, grams = grams_of(6, 64)
    x, y = (source.astype(np.float64) for source in sources)
    average = (x + y) / 2
    residual = (x - average) @ grams[0] + (y - average) @ grams[1]
    expected = average + residual @ np.linalg.pinv(sum(grams), rcond=1e-10)
    np.testing.assert_allclose(by_mats(sources, grams, iterations), expected, atol=1e-5)


def test_every_method_that_needs_evidence_has_a_formula():
    assert FORMULAS.keys() == EVIDENCED.keys()


def test_a_source_decides_where_only_it_is_sure_and_nobody_means_the_average():
    method = METHODS["fisher"]
    made = replace(recipe(method), knobs={"floor": Profile.of(0.0)})
    made = replace(made, sources=positive(made).sources[:2])
    tensors = {"m0": torch.tensor([1.0, 2.0, 3.0]), "m1": torch.tensor([5.0, 6.0, 7.0])}
    sure = (torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1e-30, 0.0]))
    files = {
        digest: MemoryEvidence("squared_gradient", digest, {NAME: f})
        for digest, f in zip(made.evidence["squared_gradient"].values(), sure, strict=False)
    }
    models = {name: MemoryCheckpoint({NAME: tensor}) for name, tensor in tensors.items()}
    merged = merge_tensor(step(method, made, sure[0]), Workspace(models, evidence=files))
    average = (0.3 * 3 + 0.5 * 7) / 0.8
    torch.testing.assert_close(merged, torch.tensor([1.0, 6.0, average]))


def merged_numbers(method, base, sources, knobs, kinds):
    """Merge models of one row of numbers, with that evidence; `sources` are (weight, numbers)."""
    method = METHODS[method]
    names = [f"m{i}" for i in range(len(sources))]
    made = replace(
        recipe(method),
        sources=tuple(
            RecipeSource(name, {"weight": Profile.of(w)})
            for name, (w, _) in zip(names, sources, strict=True)
        ),
        knobs={name: Profile.of(value) for name, value in knobs.items()},
        evidence={kind: {n: f"{kind} {n}" for n in names} for kind in method.needs},
    )
    files = {
        f"{kind} {name}": MemoryEvidence(kind, f"{kind} {name}", {NAME: torch.tensor(numbers)})
        for kind in method.needs
        for name, numbers in zip(names, kinds[kind], strict=True)
    }
    models = {"base": base, **{n: x for n, (_, x) in zip(names, sources, strict=True)}}
    stored = {n: MemoryCheckpoint({NAME: torch.tensor(x)}) for n, x in models.items()}
    done = merge_tensor(step(method, made, torch.tensor(base)), Workspace(stored, evidence=files))
    return done.tolist()


def test_an_anti_expert_is_removed_as_far_as_it_is_surer_than_the_base():
    """1 - 0.5 · 6 · 0.5 / (2 + 0.5 · 6) = 0.7; 0 where only the base is sure; τ / 3 without F."""
    kinds = {
        "squared_gradient": [[6.0, 0.0, 0.0]],
        "base_squared_gradient": [[2.0, 2.0, 0.0]],
    }
    sources = [(-0.5, [1.5, 1.5, 1.75])]
    found = merged_numbers("ewr", [1.0, 1.0, 1.0], sources, {"floor": 0.0}, kinds)
    assert found == pytest.approx([0.7, 1.0, 0.75], abs=1e-6)


def test_experts_are_averaged_with_the_base_as_by_fisher_merging():
    own, of_base = [[6.0, 1.0], [1.0, 3.0]], [2.0, 5.0]
    base, one, other = [1.0, 2.0], [1.5, -1.0], [0.0, 4.0]
    floor = {"floor": 1e-6}
    found = merged_numbers(
        "ewr", base, [(0.5, one), (2.0, other)], floor,
        {"squared_gradient": own, "base_squared_gradient": [of_base, of_base]},
    )  # fmt: skip
    averaged = merged_numbers(
        "fisher", base, [(1.0, base), (0.5, one), (2.0, other)], floor,
        {"squared_gradient": [of_base, *own]},
    )  # fmt: skip
    assert found == pytest.approx(averaged, rel=1e-6)


def mode_of_product(posteriors):
    """The mode of a product of Gaussians, each (power, mean, precision), of one number each."""
    precision = sum(np.multiply(power, p) for power, _, p in posteriors)
    return sum(np.multiply(power, p) * np.array(m) for power, m, p in posteriors) / precision


def test_previews_of_task_weights_are_modes_of_products_of_posteriors():
    """Monzón Maldonado et al. 2024: p₀ Π (pᵢ / p₀)^αᵢ with Gaussians pᵢ, and without p₀."""
    base, one, other, powers = [1.0, 2.0], [1.5, -1.0], [0.0, 4.0], (0.7, 0.5)
    own, prior = [[6.0, 1.0], [1.0, 3.0]], [2.0, 5.0]
    sources = list(zip(powers, (one, other), strict=True))
    equal = mode_of_product([(a, x, [1.0, 1.0]) for a, x in sources])
    assert merged_numbers("linear", base, sources, {}, {}) == pytest.approx(equal, rel=1e-6)
    kinds = {"squared_gradient": own, "base_squared_gradient": [prior, prior]}
    diagonal = mode_of_product([(a, x, h) for (a, x), h in zip(sources, own, strict=True)])
    assert merged_numbers("fisher", base, sources, {"floor": 0.0}, kinds) == pytest.approx(
        diagonal, rel=1e-6
    )
    with_prior = mode_of_product(
        [(1 - sum(powers), base, prior)]
        + [(a, x, np.add(prior, h)) for (a, x), h in zip(sources, own, strict=True)]
    )
    assert merged_numbers("ubgm", base, sources, {"floor": 1e-9}, kinds) == pytest.approx(
        with_prior, rel=1e-6
    )


def test_a_patch_makes_up_for_what_returns_to_the_base():
    """By hand: the first weight returns, by 1; the second gains ½ / 1.01 to put out what it can.

    With inputs whose Gram matrix is [[1, ½], [½, 1]], least squares of the output move the second
    by G₀₁ / G₁₁; 1 % of the mean of the diagonal is added to it.
    """
    gram = [[1.0, 0.5], [0.5, 1.0]]
    base, tuned = [[0.0, 0.0]], [[1.0, 10.0]]
    method = METHODS["model_tailor"]
    made = replace(recipe(method), sources=recipe(method).sources[:1])
    knobs = {"weight": Profile.of(1.0), "density": Profile.of(0.5)}
    made = replace(made, sources=(RecipeSource("m0", knobs),), knobs={"salience": Profile.of(1.0)})
    made = replace(made, evidence={"input_gram": {"m0": "gram"}})
    files = {"gram": MemoryEvidence("input_gram", "gram", {NAME: torch.tensor(gram)})}
    models = {"base": base, "m0": tuned}
    stored = {name: MemoryCheckpoint({NAME: torch.tensor(x)}) for name, x in models.items()}
    merged = merge_tensor(step(method, made, torch.tensor(base)), Workspace(stored, evidence=files))
    torch.testing.assert_close(merged, torch.tensor([[0.0, 10.0 + 0.5 / 1.01]]))


@pytest.mark.parametrize("columns", [40, 128, 200])
def test_a_compensated_patch_is_nearer_to_the_fine_tune_in_what_it_puts_out(columns):
    generator = torch.Generator().manual_seed(5)
    base, vector = (torch.randn((30, columns), generator=generator) for _ in range(2))
    features, noise = (torch.randn((500, n), generator=generator) for n in (8, columns))
    inputs = features @ torch.randn((8, columns), generator=generator) + noise
    gram = inputs.T @ inputs / len(inputs)
    found = patch(base, vector, gram, 0.2, 0.8)
    n_kept = sum(max(1, int(0.2 * 30 * min(128, columns - i))) for i in range(0, columns, 128))
    assert (found != 0).sum() == n_kept

    def error(made):
        return ((made - vector) @ inputs.T).square().sum().item()

    assert error(found) < 0.8 * error(vector * (found != 0))
