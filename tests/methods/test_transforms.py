"""Transforms of task vectors, in pairs that papers name and before any other method."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.checkpoints.contents import weights_identity
from automerge.errors import ConfigError
from automerge.mergekit import to_mergekit
from automerge.methods import METHODS, check_recipe
from automerge.methods.shared.measured import Measured, ranks
from automerge.methods.shared.uniform import uniform
from automerge.methods.transforms import TRANSFORMS
from automerge.recipe import Recipe, RecipeSource
from automerge.space import build_space
from automerge.testing import MethodLaws
from automerge.testing.merges import (
    NAME,
    PLACE,
    SWITCHES,
    count,
    evidence,
    merge,
    recipe,
    step,
    tensors,
    workspace,
)
from automerge.testing.spaces import plain_settings
from tests.methods.oracles_literature import tailored

CHAINS = [
    name
    for transform in TRANSFORMS
    for method in METHODS
    if (name := f"{transform}+{method}") and METHODS.problem(name) is None
]
FEW = [
    "consensus+ties",
    "dare+ties",
    "della+geometric_median",
    "star+iso_c",
    "trim+star+emr_uni",
    "sta+ties",
    "model_tailor+ties",
    "trim+ewr",
]

DIGESTS = {
    ("ties", True): "0f43632b51e2d785",
    ("ties", False): "72971293b833376e",
    ("dare_linear", True): "cf1ff21f71b72f30",
    ("dare_linear", False): "acea025e236867b9",
    ("dare_ties", True): "4040655bd4468cb8",
    ("dare_ties", False): "44f07a845c2ad8f7",
    ("della", True): "45cfd50e8dcaba9b",
    ("della", False): "fe69c8a0c2d7db4c",
    ("della_linear", True): "37f205692eb71f31",
    ("della_linear", False): "960de07d9062d466",
    ("breadcrumbs", True): "e2abc3b243e54e78",
    ("breadcrumbs", False): "581d50cc6d356f89",
    ("breadcrumbs_ties", True): "53a85150ad15ccec",
    ("breadcrumbs_ties", False): "02f7efaac33b063e",
    ("consensus", True): "bac47cbf2b460fa9",
    ("consensus", False): "bac47cbf2b460fa9",
}
"""SHA-256 of merges, from when each of these was a kernel of its own, by name and normalisation."""


@pytest.mark.parametrize("method", [METHODS[name] for name in FEW], ids=FEW)
class TestFew(MethodLaws):
    """All laws, for a few chains."""


@pytest.mark.slow
@pytest.mark.parametrize("method", [METHODS[name] for name in CHAINS], ids=CHAINS)
class TestAll(MethodLaws):
    """All laws, for every method after every transform."""


def whole_numbers(count: int) -> list[torch.Tensor]:
    """Exact numbers in float32, the same on every machine."""
    numbers = torch.arange(33 * 20)
    return [
        (((numbers + 7) * step) % 1009 - 504).reshape(33, 20).float() / 256
        for step in (1, 613, 387, 241)[: count + 1]
    ]


@pytest.mark.parametrize(("name", "switch"), DIGESTS)
def test_pairs_of_other_tools_keep_their_bits(name, switch):
    made = recipe(METHODS[name], switch)
    merged = merge(METHODS[name], made, *whole_numbers(3))
    digest = hashlib.sha256(merged.numpy().tobytes()).hexdigest()[:16]
    assert digest == DIGESTS[name, switch]


def trimmed(vectors, each, knobs):
    found = []
    for vector, own in zip(vectors, each, strict=True):
        flat = vector.reshape(-1).copy()
        kept = max(1, int(own["density"] * flat.size))
        flat[np.argsort(-np.abs(flat), kind="stable")[kept:]] = 0
        found.append(flat.reshape(vector.shape))
    return found


def without_both_ends(vectors, each, knobs):
    found = []
    for vector, own in zip(vectors, each, strict=True):
        flat = vector.reshape(-1).copy()
        kept = max(1, int(own["density"] * flat.size))
        largest = min(int(own["gamma"] * flat.size), flat.size - kept)
        order = np.argsort(-np.abs(flat), kind="stable")
        flat[order[:largest]] = flat[order[largest + kept :]] = 0
        found.append(flat.reshape(vector.shape))
    return found


def agreed(vectors, each, knobs):
    weighted = [own["weight"] * vector for own, vector in zip(each, vectors, strict=True)]
    total = sum(weighted)
    found = [vector.copy() for vector in vectors]
    for i in np.ndindex(total.shape):
        votes = sum(
            abs(one[i]) > own["mask_lambda"] * abs(total[i] - one[i])
            for one, own in zip(weighted, each, strict=True)
        )
        for vector in found:
            vector[i] *= votes >= knobs["k"]
    return found


def truncated(vectors, each, knobs):
    found = []
    for vector, own in zip(vectors, each, strict=True):
        u, s, vt = np.linalg.svd(vector, full_matrices=False)
        kept = 1 + int(np.argmax(np.cumsum(s) >= own["eta"] * s.sum()))
        scale = s.sum() / s[:kept].sum()
        found.append(u[:, :kept] * s[:kept] * scale @ vt[:kept])
    return found


def dropped(vectors, each, knobs):
    return [
        np.where(u < own["density"], vector / own["density"], 0.0)
        for vector, own, u in zip(vectors, each, knobs["uniforms"], strict=True)
    ]


def dropped_by_rank(vectors, each, knobs):
    found = []
    for vector, own, u in zip(vectors, each, knobs["uniforms"], strict=True):
        half = min(own["epsilon"], own["density"], 1 - own["density"])
        order = np.argsort(np.argsort(np.abs(vector), axis=-1, kind="stable"), axis=-1)
        p = own["density"] - half + 2 * half * order / (vector.shape[-1] - 1)
        found.append(np.where(u < p, vector / p, 0.0))
    return found


def sensitive(vectors, each, knobs):
    found = []
    for vector, own, x, g in zip(vectors, each, knobs["sources"], knobs["gradient"], strict=True):
        flat = vector.reshape(-1).copy()
        order = np.argsort(-np.abs(x * g).reshape(-1), kind="stable")
        flat[order[max(1, int(own["density"] * flat.size)) :]] = 0
        found.append(flat.reshape(vector.shape))
    return found


def patched(vectors, each, knobs):
    return [
        tailored(knobs["base"], vector, gram, own["density"], knobs["salience"])
        for vector, own, gram in zip(vectors, each, knobs["input_gram"], strict=True)
    ]


NAIVE = {
    "trim": trimmed,
    "breadcrumbs": without_both_ends,
    "consensus": agreed,
    "star": truncated,
    "dare": dropped,
    "della": dropped_by_rank,
    "sta": sensitive,
    "model_tailor": patched,
}
AFTER = ("task_arithmetic", "ties", "sce", "geometric_median", "pcb", "model_stock", "iso_c")


@pytest.mark.sample(14)
@pytest.mark.parametrize("method", AFTER)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_chain_is_the_method_over_sources_that_a_naive_formula_transformed(transform, method):
    chain = METHODS[f"{transform}+{method}"]
    base, *sources = tensors(count(chain), (9, 6), torch.float64)
    made = recipe(chain)
    values = chain.values(made, PLACE)
    own = {
        name: f"{transform}_{name}" if f"{transform}_{name}" in values.each else name
        for name in (*(knob.name for knob in TRANSFORMS[transform].knobs), "weight")
    }
    each = [
        {name: values.each[key][i] if key in values.each else 1.0 for name, key in own.items()}
        for i in range(len(sources))
    ]
    identities = [weights_identity(MemoryCheckpoint({NAME: source})) for source in sources]
    uniforms = [uniform(0, NAME, one, 0, base.numel()).reshape(9, 6) for one in identities]
    files = evidence(made, base)
    kinds = {
        kind: [files[digest].read(NAME).double().numpy() for digest in digests.values()]
        for kind, digests in made.evidence.items()
    }
    knobs = {
        **values.number,
        "uniforms": [u.double().numpy() for u in uniforms],
        "sources": [source.numpy() for source in sources],
        "base": base.numpy(),
        **kinds,
    }
    vectors = [(source - base).numpy() for source in sources]
    changed = NAIVE[transform](vectors, each, knobs)

    plain = METHODS[method]
    switches = {
        name: False if name in SWITCHES else value
        for name, value in made.knobs.items()
        if isinstance(value, bool)
    } | ({"whole_model": False} if any(k.name == "whole_model" for k in plain.knobs) else {})
    numbers = {k.name: made.knobs[k.name] for k in plain.recipe_knobs if k.kind == "float"}
    alone = Recipe(
        method,
        tuple(
            RecipeSource(s.name, {k.name: s.knobs[k.name] for k in plain.source_knobs})
            for s in made.sources
        ),
        "base",
        {**numbers, **switches},
    )
    expected = merge(plain, alone, base, *(base + torch.from_numpy(v) for v in changed))
    found = merge(chain, made, base, *sources)
    # Masks of random numbers, and the factors on them, are in float32.
    tolerance = 2e-6 if TRANSFORMS[transform].seeded else 1e-9
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert not torch.allclose(found, merge(plain, alone, base, *sources), rtol=1e-6)


def test_what_is_measured_of_tensors_is_what_is_measured_of_stored_models():
    method = replace(METHODS["sce"], statistics=("gram", "magnitude", "spread", "ranks"))
    made = recipe(method)
    inputs = tensors(3, (12, 7), torch.float64)
    space = workspace(made, *inputs)
    whole = step(method, made, inputs[0])
    stored = space.statistics(whole.base, whole.sources)
    ours = Measured([source - inputs[0] for source in inputs[1:]])
    assert (ours.count, ours.size, ours.n_spread) == (stored.count, stored.size, stored.n_spread)
    for i in range(3):
        assert ours.inner(i, 0) == pytest.approx(stored.inner(i, 0), rel=1e-12)
        for k in (1, 5, 84):
            assert ours.magnitude(i, k) == pytest.approx(stored.magnitude(i, k), rel=1e-12)
            assert ours.spread(k) == pytest.approx(stored.spread(k), rel=1e-12)
            assert ours.spread_energy(i, k) == pytest.approx(stored.spread_energy(i, k), rel=1e-12)
        found = space.ranks(whole.base, whole.sources[i], 7).cut(0, 84)
        assert torch.equal(ranks(ours.vectors[i]).reshape(-1), found)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("conensus+ties", "unknown transform 'conensus'; did you mean 'consensus'?"),
        ("consensus+tis", "unknown method 'consensus+tis'"),
        ("dare+linear", "linear does not merge task vectors: nothing to transform"),
        ("dare+della", "dare and della both draw random masks; use one of them"),
        ("trim+trim+ties", "trim is listed twice; a transform can be applied once"),
        ("dare+metagpt", "metagpt needs sums over the whole model, before any transform"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_with_its_reason(name, problem):
    made = Recipe(name, (RecipeSource("a", {}), RecipeSource("b", {})), "base")
    [found] = check_recipe(made, METHODS)
    assert problem in found


def test_knobs_that_two_parts_share_are_told_apart_by_the_transforms_name():
    names = [knob.name for knob in METHODS["dare+ties"].knobs]
    assert names == ["dare_density", "weight", "density", "lambda", "normalize"]
    names = [knob.name for knob in METHODS["consensus+ties"].knobs]
    assert names == ["mask_lambda", "k", "weight", "density", "lambda", "normalize"]


def test_a_search_chooses_among_chains_and_each_has_its_own_knobs():
    methods = ("ties", "consensus+ties", "dare+ties")
    settings = plain_settings(*methods)
    space = build_space(settings, "base", ("a", "b", "c"), 4, METHODS)
    assert list(space.methods) == list(methods)
    own = {
        name: {knob.knob for knob in (*part.recipe_knobs, *part.knobs["a"])}
        for name, part in space.methods.items()
    }
    assert own["consensus+ties"] - own["ties"] == {"mask_lambda", "k"}
    assert own["dare+ties"] - own["ties"] == {"dare_density"}


def test_mergekit_has_no_chains():
    made = recipe(METHODS["consensus+ties"])
    with pytest.raises(ConfigError, match="consensus\\+ties"):
        to_mergekit(made, {n: n for n in ("base", "m0", "m1", "m2")}, [PLACE])
