"""The same merges by mergekit 0.1.5: tensor by tensor, and whole models from one YAML file.

What we do otherwise on purpose is stated by tests of its own, below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from automerge.checkpoints import MemoryCheckpoint, open_checkpoint, places
from automerge.checkpoints.contents import weights_identity
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import parse_mergekit, to_mergekit
from automerge.mergekit.tables import COUNTERPARTS, PARAMETERS, REQUIRED, SWITCHES
from automerge.merging import InvalidMerge, ResidentEngine, merge_to_folder
from automerge.methods import METHODS
from automerge.methods.shared.uniform import uniform
from automerge.recipe import Profile, Recipe, RecipeSource
from tests.checkpoints.models import llama, save

mergekit_config = pytest.importorskip("mergekit.config")
from mergekit.merge import run_merge  # noqa: E402
from mergekit.merge_methods import registry  # noqa: E402
from mergekit.merge_methods.api import merge_tensors  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

NAMES = ("base", "a", "b", "c")
SUFFICIENT = {"nearswap": 1, "arcee_fusion": 1, "passthrough": 1, "slerp": 1, "nuslerp": 2}
"""How many sources beside the base, where it is not three."""
GRADIENT = [0.2, 1.0, 0.5]
FILTERED = [
    {"filter": "mlp", "value": [0.3, 0.9]},
    {"filter": "norm", "value": 0.1},
    {"value": 0.6},
]
WEIGHTS: Mapping[str, object] = {"a": 0.7, "b": -0.3, "c": 0.9}


def case(method: str, weights=WEIGHTS, base: bool = True, own=None, **parameters) -> dict:
    """A mergekit file of one method, without its base and dtype."""
    own = own or {}
    names = NAMES[1:][: SUFFICIENT.get(method, 3)]
    models = []
    for name in names:
        given = {k: v[name] if isinstance(v, dict) else v for k, v in own.items()}
        if "weight" in PARAMETERS[method][0]:
            given["weight"] = weights[name]
        models.append({"model": name, "parameters": given} if given else {"model": name})
    plain = {"merge_method": method, "models": models}
    if base:
        plain["base_model"] = "base"
    return plain | ({"parameters": parameters} if parameters else {})


TIES_DENSITY = {"density": {"a": 0.5, "b": [0.2, 0.9], "c": FILTERED}}
CASES = {
    "linear": case("linear", base=False),
    "linear of sums": case("linear", base=False, normalize=False),
    "linear with the base": case("linear") | {"parameters": {"weight": 0.25}},
    "linear over depth": case("linear", {"a": GRADIENT, "b": FILTERED, "c": -0.1}, base=False),
    "slerp": case("slerp", t=0.3),
    "slerp over depth": case("slerp", t=[0.0, 1.0, 0.5]),
    "slerp by filters": case("slerp", t=FILTERED),
    "nuslerp": case("nuslerp", base=False),
    "nuslerp over depth": case("nuslerp", {"a": GRADIENT, "b": 0.4}, base=False),
    "nuslerp of task vectors": case("nuslerp"),
    "nuslerp by the last dimension": case("nuslerp", base=False, nuslerp_flatten=False),
    "nuslerp by the first dimension": case(
        "nuslerp", base=False, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "nuslerp of task vectors by the last": case("nuslerp", nuslerp_flatten=False),
    "multislerp": case("multislerp", base=False),
    "multislerp not normalised": case("multislerp", base=False, normalize_weights=False),
    "multislerp of task vectors": case("multislerp", {"a": GRADIENT, "b": FILTERED, "c": 1}),
    "karcher": case("karcher", base=False),
    "karcher with the base, one step": case("karcher", max_iter=1),
    "passthrough": case("passthrough", base=False),
    "passthrough scaled": case("passthrough", base=False, own={"scale": FILTERED}),
    "task arithmetic": case("task_arithmetic"),
    "task arithmetic normalised": case("task_arithmetic", normalize=True, **{"lambda": GRADIENT}),
    "ties": case("ties", own=TIES_DENSITY),
    "ties not normalised": case("ties", own=TIES_DENSITY, normalize=False, **{"lambda": 0.4}),
    "ties of nothing": case("ties", own={"density": 0.0}),
    "ties of all": case("ties", {"a": FILTERED, "b": GRADIENT, "c": -1.0}),
    "dare_linear of all": case("dare_linear", normalize=True),
    "dare_linear of nothing": case("dare_linear", own={"density": 0}),
    "dare_ties of all": case("dare_ties", **{"lambda": 1.5}),
    "dare_ties normalised": case("dare_ties", normalize=True),
    "della of all": case("della"),
    "della of nothing": case("della", own={"density": 0.0}),
    "della_linear of all": case("della_linear", normalize=True, **{"lambda": -0.5}),
    "breadcrumbs": case("breadcrumbs", own={**TIES_DENSITY, "gamma": 0.05}),
    "breadcrumbs of all": case("breadcrumbs", normalize=True),
    "breadcrumbs of dense vectors": case("breadcrumbs", own={"density": 0.97, "gamma": 0.1}),
    "breadcrumbs without outliers": case("breadcrumbs", own={"density": 0.4, "gamma": 0.0}),
    "breadcrumbs_ties": case(
        "breadcrumbs_ties",
        own={"density": 0.6, "gamma": {"a": 0.02, "b": GRADIENT, "c": 0.1}},
        normalize=True,
        **{"lambda": 1.2},
    ),
    "breadcrumbs_ties of all": case("breadcrumbs_ties"),
    "sce": case("sce"),
    "sce of the most varied": case("sce", select_topk=[0.3, 0.8]),
    "sce of nothing": case("sce", select_topk=0.0),
    "model_stock": case("model_stock"),
    "model_stock by rows": case("model_stock", filter_wise=True),
    "ram": case("ram", epsilon=0.03),
    "ramplus_tl": case("ramplus_tl", epsilon=0.03, r=0.3, alpha=[0.1, 0.6]),
    "nearswap": case("nearswap", t=[0.01, 0.05]),
    "arcee_fusion": case("arcee_fusion"),
}
SELECTIVE = (
    *("ties", "ties not normalised", "breadcrumbs", "breadcrumbs of dense vectors"),
    *("breadcrumbs without outliers", "breadcrumbs_ties", "sce of the most varied"),
    "arcee_fusion",
)
"""Merges that compare magnitudes, some of which are equal in bfloat16: see the tests of those."""


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def folders(request, tmp_path_factory) -> Mapping[str, Path]:
    """A base and three models near to it and to each other, on disk."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    model = llama(vocab_size=48, num_hidden_layers=4)
    generator = torch.Generator().manual_seed(2)

    def noise(scale: float) -> dict[str, torch.Tensor]:
        return {n: torch.randn(p.shape, generator=generator) * scale for n, p in named}

    named = [(n, p.detach().clone()) for n, p in model.named_parameters()]
    common, saved = noise(0.05), {}
    for name in NAMES:
        own = noise(0.04)
        shift = {n: 0 * v if name == "base" else v + own[n] for n, v in common.items()}
        model.load_state_dict({n: p + shift[n] for n, p in named})
        saved[name] = save(model.to(request.param), root / name)
        model.float()
    return saved


def by_mergekit(config: dict, out: Path) -> dict[str, torch.Tensor]:
    made = mergekit_config.MergeConfiguration.model_validate(config)
    run_merge(
        made, str(out), MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    )
    return {n: t for f in out.glob("*.safetensors") for n, t in load_file(f).items()}


def by_us(recipe: Recipe, folders: Mapping[str, Path], out: Path) -> dict[str, torch.Tensor]:
    checkpoints = {name: open_checkpoint(folder) for name, folder in folders.items()}
    merge_to_folder(recipe, checkpoints, out)
    return load_file(out / "model.safetensors")


def located(config: dict, folders: Mapping[str, Path]) -> dict:
    """The file with folders in place of names."""
    models = [m | {"model": str(folders[m["model"]])} for m in config["models"]]
    base = {"base_model": str(folders["base"])} if "base_model" in config else {}
    return config | {"models": models} | base


def distance(ours: Mapping, theirs: Mapping) -> float:
    """The largest difference of an element, over the standard deviation of its tensor."""
    assert ours.keys() == theirs.keys()
    return max(
        ((ours[n].double() - t.double()).abs().max() / t.double().std()).item()
        for n, t in theirs.items()
    )


@pytest.mark.sample(10)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_mergekit_file_gives_the_same_weights_both_ways(name, folders, tmp_path):
    """float32: the file as it is. bfloat16: what we export for it, rounded once by both."""
    config = located(CASES[name], folders)
    half = "bfloat16" in str(open_checkpoint(folders["a"]).tensors["lm_head.weight"].dtype)
    config["dtype"] = "float32"
    if half:
        config["out_dtype"] = "bfloat16"
    read = parse_mergekit(parse_yaml(yaml.safe_dump(config), "m.yaml"), Path("/"))
    opened = {n: Path(reference) for n, reference in read.models.items()}
    ours = by_us(read.recipe, opened, tmp_path / "ours")
    if half:
        where = tuple(places(open_checkpoint(folders["a"]).tensors).values())
        config = yaml.safe_load(to_mergekit(read.recipe, read.models, where).text)
    theirs = by_mergekit(config, tmp_path / "theirs")
    assert {t.dtype for t in ours.values()} == {t.dtype for t in theirs.values()}
    if not half:
        assert distance(ours, theirs) < 5e-5
        return
    equal = sum((ours[n] == t).sum().item() for n, t in theirs.items())
    assert equal > 0.99 * sum(t.numel() for t in theirs.values())
    for n, t in () if name in SELECTIVE else theirs.items():  # one rounding to the other side
        torch.testing.assert_close(ours[n].float(), t.float(), rtol=2**-7, atol=1e-6)


def test_each_method_of_mergekit_has_a_case_and_our_knobs_have_its_defaults():
    assert {c["merge_method"] for c in CASES.values()} == set(PARAMETERS)
    assert {m.spec.name for m in registry.registered_methods()} == set(PARAMETERS)
    for ours, counterpart in COUNTERPARTS.items():
        spec = registry.get(counterpart.method).spec
        theirs = {parameter.name: parameter for parameter in spec.parameters}
        own, whole = PARAMETERS[counterpart.method]
        assert set(theirs) == {*own, *whole}
        for knob in METHODS[ours].knobs:
            if knob.name in theirs and knob.name in REQUIRED:
                assert theirs[knob.name].required
            elif knob.name in theirs and knob.name != "scale":  # none is 1
                assert theirs[knob.name].default == knob.default, (ours, knob.name)
        for name, default in SWITCHES.get(counterpart.method, {}).items():
            assert theirs[name].default == default


def test_mergekit_reads_adapters_as_we_write_them():
    recipe = Recipe("linear", (RecipeSource("lora", {}),))
    models = {"base": "org/base@v1", "lora": "org/lora@v2"}
    where = tuple(places(["model.norm.weight"]).values())
    config = yaml.safe_load(to_mergekit(recipe, models, where, {"lora": "LoRA"}).text)
    (read,) = mergekit_config.MergeConfiguration.model_validate(config).models
    assert str(read.model.model) == "org/base@v1"
    assert str(read.model.lora) == "org/lora@v2"


def vectors(n: int = 3, shape=(6, 40), scale: float = 1.0) -> list[torch.Tensor]:
    """A base and sources whose task vectors are at acute angles."""
    generator = torch.Generator().manual_seed(3)
    base, common, *own = (torch.randn(shape, generator=generator) for _ in range(n + 2))
    return [base, *(base + scale * (common + vector) for vector in own)]


def mergekit(method: str, tensors: list[torch.Tensor], **parameters) -> torch.Tensor:
    """mergekit's merge of a base and sources."""
    return merge_tensors(tensors, method, parameters=parameters, base_index=0)


def ours(method: str, tensors: list[torch.Tensor], each=None, seed: int = 0, **knobs):
    """Our merge of a base and sources; `each` has a tuple for each source knob."""
    names = [f"s{i}" for i in range(len(tensors) - 1)]
    sources = [
        RecipeSource(name, {k: Profile.of(v[i]) for k, v in (each or {}).items()})
        for i, name in enumerate(names)
    ]
    given = {k: v if isinstance(v, bool) else Profile.of(v) for k, v in knobs.items()}
    base = "base" if METHODS[method].anchored else None
    recipe = Recipe(method, tuple(sources), base, given, seed)
    named = zip(("base", *names), tensors, strict=True)
    engine = ResidentEngine({n: MemoryCheckpoint({"w.weight": t}) for n, t in named})
    [(_, merged)] = engine.merge(recipe)
    return merged


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(40,), (6, 40)], ids=str)
@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_random_methods_keep_the_same_elements_and_rescale_otherwise(method, shape, monkeypatch):
    """Ours: each kept element over its probability. mergekit's: by a share of the L1 norm."""
    tensors = vectors(1, shape)
    delta, n = tensors[1] - tensors[0], tensors[0].numel()
    identity = weights_identity(MemoryCheckpoint({"w.weight": tensors[1]}))
    drawn = uniform(5, "w.weight", identity, 0, n).reshape(shape)
    probabilities: list[torch.Tensor] = []

    def bernoulli(p: torch.Tensor) -> torch.Tensor:
        probabilities.append(p.reshape(shape))
        return (drawn.reshape(p.shape) < p).to(p.dtype)

    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    knobs = {"density": 0.6} | ({"epsilon": 0.2} if method == "della_linear" else {})
    plain = mergekit(method, tensors, weight=1.0, rescale=False, **knobs) - tensors[0]
    merged = ours(method, tensors, {k: (v,) for k, v in knobs.items()}, seed=5) - tensors[0]
    assert 0 < plain.count_nonzero() < n
    assert same(merged, plain / probabilities[0])
    rescaled = mergekit(method, tensors, weight=1.0, rescale=True, **knobs) - tensors[0]
    assert same(rescaled, plain * (delta.abs().sum() / plain.abs().sum()))


def test_elements_of_equal_magnitude_stay_together():
    base, source = torch.zeros(6), torch.tensor([1.0, -1.0, 1.0, 0.5, 0.5, 2.0])
    own = {"density": (0.5,)}
    assert (mergekit("ties", [base, source], weight=1.0, density=0.5) != 0).sum() == 3
    assert ours("ties", [base, source], own).tolist() == [1.0, -1.0, 1.0, 0.0, 0.0, 2.0]
    assert (mergekit("breadcrumbs", [base, source], weight=1.0, density=0.5) != 0).sum() == 3
    assert ours("breadcrumbs", [base, source], own).count_nonzero() == 4
    two = [base, source, -source]
    assert mergekit("sce", two, select_topk=0.34).count_nonzero() <= 2
    assert ours("sce", two, select_topk=0.34).count_nonzero() == 4


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_a_density_above_zero_keeps_at_least_one_element(method):
    tensors = [torch.zeros(2), torch.tensor([1.0, -3.0])]
    assert ours(method, tensors, {"density": (0.1,)}).tolist() == [0.0, -3.0]
    kept = mergekit(method, tensors, weight=1.0, density=0.1).count_nonzero()
    assert kept == (1 if method == "ties" else 0)


@pytest.mark.parametrize("method", ["nuslerp", "slerp"])
def test_a_zero_tensor_is_interpolated_linearly(method):
    zero, one = torch.zeros(8), torch.arange(1.0, 9)
    if method == "slerp":
        theirs = mergekit("slerp", [zero, one], t=0.25)
        merged = ours("slerp", [zero, zero, one], t=0.25)
    else:
        theirs = merge_tensors([zero, one], "nuslerp", parameters={"weight": [3.0, 1.0]})
        merged = ours("nuslerp", [zero, zero, one], {"weight": (3.0, 1.0)})
    assert same(theirs, math.sin(math.pi / 8) * one)
    assert same(merged, 0.25 * one)


def test_two_weights_of_zero_add_nothing():
    tensors = vectors(2)
    assert torch.equal(ours("task_nuslerp", tensors, {"weight": (0.0, 0.0)}), tensors[0])
    half = ours("task_nuslerp", tensors, {"weight": (1.0, 1.0)})
    assert same(mergekit("nuslerp", tensors, weight=[0.0, 0.0]), half)
    assert torch.equal(ours("task_multislerp", tensors, {"weight": (0.0, 0.0)}), tensors[0])
    assert mergekit("multislerp", tensors, weight=[0.0, 0.0]).isnan().all()


def test_directions_that_cancel_are_summed():
    x = torch.tensor([1.0, 0.0])
    three = [x, torch.tensor([-0.5, math.sqrt(0.75)]), torch.tensor([-0.5, -math.sqrt(0.75)])]
    with pytest.raises(ValueError, match="weighted sum of the input tensors is zero"):
        merge_tensors(three, "multislerp", parameters={"weight": 1.0, "eps": 1e-6})
    merged = ours("multislerp", [x, *three], {"weight": (1.0,) * 3}, eps=1e-6)
    torch.testing.assert_close(merged, torch.zeros(2), rtol=0, atol=1e-6)


def test_a_step_of_multislerp_along_the_tangent_space_has_no_length():
    tensors = vectors(3, scale=3.0)[1:]
    weights = torch.tensor([0.7, 0.5, 1.3]) / 2.5
    units = [t / t.norm() for t in tensors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    length = sum(w * t.norm() for w, t in zip(weights, tensors, strict=True))
    theirs = merge_tensors(tensors, "multislerp", parameters={"weight": weights.tolist()})
    assert same(theirs, mean / mean.norm() * length)


def test_tensors_too_short_for_a_direction_are_averaged():
    tensors = [torch.zeros(2), torch.tensor([1e-6, 0.0]), torch.tensor([0.0, 1e-6])]
    assert merge_tensors(tensors[1:], "karcher").tolist() == [0.0, 0.0]
    torch.testing.assert_close(ours("karcher", tensors), torch.tensor([5e-7, 5e-7]))


def test_model_stock_stays_at_the_base_where_sources_disagree():
    base, *sources = vectors(2)
    opposed = [base, sources[0], 2 * base - sources[0] + 0.5 * sources[1]]
    for ours_name, rows in (("model_stock", False), ("model_stock_rows", True)):
        assert torch.equal(ours(ours_name, opposed), base)
        assert not same(mergekit("model_stock", opposed, filter_wise=rows), base)


def test_model_stock_does_not_depend_on_the_length_of_task_vectors():
    base, *sources = vectors(2)
    base, deltas = torch.zeros_like(base), [source - base for source in sources]
    long, short = ([base, *(scale * delta for delta in deltas)] for scale in (1.0, 1e-5))
    assert same(mergekit("model_stock", long), ours("model_stock", long))
    assert same(ours("model_stock", short) * 1e5, ours("model_stock", long))
    assert not same(mergekit("model_stock", short) * 1e5, ours("model_stock", long))


def test_sce_weights_short_task_vectors_by_their_squares_too():
    tensors = vectors(2)
    deltas = [tensors[1] - tensors[0], 3 * (tensors[2] - tensors[0])]
    base = torch.zeros_like(tensors[0])
    long, short = ([base, *(scale * delta for delta in deltas)] for scale in (1.0, 1e-4))
    assert same(mergekit("sce", long), ours("sce", long))
    assert same(ours("sce", short) * 1e4, ours("sce", long))
    assert not same(mergekit("sce", short) * 1e4, ours("sce", long))


def test_della_narrows_probabilities_that_leave_zero_to_one():
    tensors = vectors(1, (50, 40))
    with pytest.raises(ValueError, match="Epsilon must be chosen"):
        mergekit("della_linear", tensors, weight=1.0, density=0.9, epsilon=0.15)
    delta = tensors[1] - tensors[0]
    own = {"density": (0.9,), "epsilon": (0.15,)}
    merged = ours("della_linear", tensors, own) - tensors[0]
    kept = merged.abs() > delta.abs() / 2
    assert abs(kept.double().mean() - 0.9) < 4 * math.sqrt(0.09 / delta.numel())
    ratio = (merged / delta)[kept]
    assert ratio.min() > 0.999
    assert ratio.max() < 1.251  # 1 / (0.9 - 0.1)


def test_arcee_fusion_takes_the_same_elements_where_mergekit_computes_in_float64():
    tensors = [t.double() for t in vectors(1, (30, 50), scale=1e-4)]
    theirs = mergekit("arcee_fusion", tensors)
    assert torch.allclose(ours("arcee_fusion", tensors), theirs, rtol=1e-12)
    single = mergekit("arcee_fusion", [t.float() for t in tensors])
    assert not torch.allclose(single.double(), theirs, rtol=0, atol=1e-5)


def test_weights_that_cancel_are_invalid_where_models_are_averaged():
    tensors = vectors(2)
    assert not merge_tensors(tensors, "linear", parameters={"weight": [0, 1, -1]}).isfinite().all()
    for method in ("linear", "multislerp"):
        with pytest.raises(InvalidMerge):
            ours(method, tensors, {"weight": (1.0, -1.0)})


def test_one_source_of_multislerp_has_its_weight():
    tensors = vectors(1)
    alone = {"weight": 0.5, "normalize_weights": False}
    assert torch.equal(mergekit("multislerp", tensors, **alone), tensors[1])
    merged = ours("task_multislerp", tensors, {"weight": (0.5,)}, normalize_weights=False)
    assert same(merged, (tensors[0] + tensors[1]) / 2)


def test_karcher_may_weight_models():
    tensors = vectors(3)
    equal = ours("karcher", tensors, {"weight": (2.0,) * 3})
    assert same(equal, merge_tensors(tensors[1:], "karcher", parameters={"max_iter": 50}))
    weighted = ours("karcher", tensors, {"weight": (1.0, 0.0, 3.0)})
    half = ours("karcher", [tensors[0], tensors[1], tensors[3]], {"weight": (1.0, 3.0)})
    assert torch.equal(weighted, half)
