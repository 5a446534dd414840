"""Our methods keep the laws of every method, and agree with their papers."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from automerge import methods
from automerge.checkpoints import MemoryCheckpoint
from automerge.checkpoints.contents import weights_identity
from automerge.merging import ResidentEngine
from automerge.methods import METHODS
from automerge.methods.shared.uniform import uniform
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.testing import MethodLaws
from automerge.testing.merges import NAME, count, merge, recipe, scalable, tensors
from tests.methods.dataless import DATALESS
from tests.methods.oracles import ORACLES


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestOwn(MethodLaws):
    """All laws, for every method of the table."""


class TestDocumented(MethodLaws):
    """The example of docs/extensions.md, which is in no table."""

    @pytest.fixture
    def method(self):
        page = Path(__file__).parents[2] / "docs/extensions.md"
        code = re.search(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)[1]
        names = {}
        exec(code, names)
        return names["CLIPPED"]


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        ("poisoned", lambda o, s: o.anchor + (o.sources[0] - o.anchor).nan_to_num() * s.each[0][0]),
        ("weight_zero", lambda o, s: sum(o.sources) / len(o.sources)),
        ("neutral", lambda o, s: o.sources[0] * 1.01),
        ("cut", lambda o, s: o.anchor + o.task_vectors[0].cumsum(0)),
    ],
)
def test_a_method_that_breaks_a_law_is_caught(law, broken):
    method = replace(METHODS["task_arithmetic"], kernel=broken)
    [name] = [name for name in vars(MethodLaws) if name.startswith("test") and law in name]
    given = {"dtype": torch.float32, "poison": float("nan"), "where": 1}
    wanted = inspect.signature(getattr(MethodLaws, name)).parameters
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(MethodLaws(), name)(method, **{k: given[k] for k in given if k in wanted})


def test_methods_import_without_torch():
    code = "import sys, automerge.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_method_imports_another():
    folder = Path(methods.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "check"}
    for path in [folder / f"{name}.py" for name in modules] + list(folder.glob("shared/*.py")):
        imported = re.findall(r"automerge\.methods(?:\.| import )(\w+)", path.read_text("utf-8"))
        assert not modules.intersection(imported), path.name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_own_name_and_a_paper_and_lambda_if_it_has_a_base(name):
    assert METHODS[name].name == name
    assert METHODS[name].paper
    assert scalable(METHODS[name]) == METHODS[name].anchored


@pytest.mark.sample(82)
@pytest.mark.parametrize("method", DATALESS.values(), ids=DATALESS)
@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (66_001,), (2, 12, 9)], ids=str)
def test_method_agrees_with_the_paper_in_float64(method, switch, shape):
    inputs = tensors(count(method), shape)
    made = recipe(method, switch)
    n = inputs[0].numel()
    uniforms = [
        uniform(0, NAME, weights_identity(MemoryCheckpoint({NAME: x})), 0, n)
        .reshape(shape)
        .double()
        .numpy()
        for x in inputs[1:]
    ]
    each = [{k: p.parts[0][1][0] for k, p in s.knobs.items()} for s in made.sources]
    knobs = {k: v.parts[0][1][0] if isinstance(v, Profile) else v for k, v in made.knobs.items()}
    base, *sources = (t.double().numpy() for t in inputs)
    expected = ORACLES[method.name](base, sources, each, knobs, uniforms)
    np.testing.assert_allclose(
        merge(METHODS[made.method], made, *inputs).numpy(), expected, rtol=2e-5, atol=2e-5
    )


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_a_vote_of_exactly_zero_elects_plus(method):
    made = Recipe(method, (RecipeSource("m0", {}), RecipeSource("m1", {})), base="base")
    base = torch.zeros(2)
    merged = merge(
        METHODS[made.method], made, base, torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])
    )
    assert merged.tolist() == [1.0, 2.0]


def test_colinear_tensors_are_interpolated_linearly():
    made = replace(recipe(METHODS["slerp"]), knobs={"t": Profile.of(0.25)})
    base = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(merge(METHODS[made.method], made, base, base, 2 * base), 1.25 * base)
    torch.testing.assert_close(merge(METHODS[made.method], made, base, base * 0, base), 0.25 * base)


def test_density_zero_keeps_nothing_and_the_smallest_density_keeps_one_element():
    base, source = torch.zeros(5), torch.tensor([0.1, -3.0, 0.2, 0.3, 1.0])

    def ties(density: float) -> list[float]:
        sources = (RecipeSource("m0", {"density": Profile.of(density)}),)
        return merge(METHODS["ties"], Recipe("ties", sources, base="base"), base, source).tolist()

    assert ties(0.0) == [0.0] * 5
    assert ties(1e-9) == [0.0, -3.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", [m.name for m in DATALESS.values() if m.seeded])
def test_what_sources_are_called_changes_no_number(method):
    inputs = tensors(count(METHODS[method]))
    made = recipe(METHODS[method])
    called = {source.name: f"another {source.name}" for source in made.sources} | {"base": "root"}
    sources = tuple(replace(source, name=called[source.name]) for source in made.sources)
    renamed = replace(made, sources=sources, base="root")
    models = {n: MemoryCheckpoint({NAME: t}) for n, t in zip(called, inputs[1:], strict=False)}
    models["base"] = MemoryCheckpoint({NAME: inputs[0]})
    [(_, first)] = ResidentEngine(models).merge(made)
    [(_, second)] = ResidentEngine({called[n]: m for n, m in models.items()}).merge(renamed)
    assert torch.equal(first, second)
    other = dict(models, m0=MemoryCheckpoint({NAME: inputs[1] + 1e-6}))
    [(_, third)] = ResidentEngine(other).merge(made)
    assert (third - first).abs().max() > 0.1  # other weights, other masks


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_an_engine_that_merged_another_seed_gives_the_same_bits_as_a_new_one(method):
    inputs = dict(zip(("base", "m0", "m1", "m2"), tensors(3), strict=True))
    models = {n: MemoryCheckpoint({NAME: t}) for n, t in inputs.items()}
    engine = ResidentEngine(models)
    for seed in (1, 2, 1):
        made = recipe(METHODS[method], seed=seed)
        [(_, merged)], [(_, new)] = engine.merge(made), ResidentEngine(models).merge(made)
        assert torch.equal(merged, new)
