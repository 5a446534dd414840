"""`automerge inspect --collapse`: how much units vary in an average of models and in the models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from automerge import cli
from automerge.inspection.collapse import collapse
from tests.evaluation.toys import WORDS, make_model
from tests.zoo import save


def deviations(model, ids):
    """Of each linear layer's units, from what transformers computes."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers" in name:

            def note(_, inputs, output, name=name):
                found[name] = output[0].double().numpy().std(axis=0)

            handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return found


def by_formula(whole, own):
    """Ratios of all linear layers by name, and their mean in each layer, by loops."""
    ratios, layers = {}, {}
    for name in own:
        squares = [sum(float(s) ** 2 for s in found[name]) for found in (whole, own)]
        ratios[name] = (squares[0] / squares[1]) ** 0.5
        layers.setdefault(int(name.split("layers.")[1].split(".")[0]), []).append(ratios[name])
    return ratios, [sum(layers[i]) / len(layers[i]) for i in sorted(layers)]


@pytest.fixture
def zoo(tmp_path):
    """Two models that share nothing, a copy of one, and a text for each."""
    save(make_model("llama", 0), tmp_path / "base")
    for name, seed in (("one", 5), ("copy", 5), ("other", 6)):
        save(make_model("llama", seed), tmp_path / name)
    for name in ("one", "other"):
        words = np.random.default_rng(len(name)).choice(WORDS, 60)
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    return tmp_path


def inspected(zoo, sources, texts, capsys, *more):
    models = [str(zoo / name) for name in ("base", *sources)]
    options = [part for text in texts for part in ("--collapse", text)]
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect", *models, *options, *more])
    return ended.value.code, capsys.readouterr()


def test_ratios_are_those_of_models_that_transformers_runs(zoo, capsys):
    texts = [f"one={zoo / 'one.txt'}", f"other={zoo / 'other.txt'}"]
    page = zoo / "page.html"
    code, said = inspected(zoo, ("one", "other"), texts, capsys, "--json", "--html", str(page))
    assert code == 0
    found = {row["source"]: row for row in json.loads(said.out)["collapses"]}
    models = {n: AutoModelForCausalLM.from_pretrained(zoo / n).eval() for n in ("one", "other")}
    tokenizer = AutoTokenizer.from_pretrained(zoo / "base")
    average = make_model("llama", 0).eval()
    states = [model.state_dict() for model in models.values()]
    average.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    for name, model in models.items():
        ids = tokenizer((zoo / f"{name}.txt").read_text())["input_ids"]
        assert 40 < len(ids) < 512
        ratios, layers = by_formula(deviations(average, ids), deviations(model, ids))
        assert found[name]["layers"] == pytest.approx(layers, rel=1e-4)
        lowest = min(ratios, key=lambda layer: ratios[layer])
        assert found[name]["lowest"] == f"{lowest}.weight"
        assert found[name]["ratio"] == pytest.approx(ratios[lowest], rel=1e-4)
        assert found[name]["ratio"] < 0.8
    assert "Variance" in page.read_text()


def test_an_average_of_copies_has_not_collapsed(zoo, capsys):
    code, said = inspected(zoo, ("one", "copy"), [str(zoo / "one.txt")], capsys)
    assert code == 0
    words = " ".join(said.out.split())
    assert "no collapse" in words
    assert "calibrate: repair" not in words
    far = " ".join(inspected(zoo, ("one", "other"), [str(zoo / "one.txt")], capsys)[1].out.split())
    assert "less than 80%: try `calibrate: repair`" in far


def test_units_that_never_vary_say_nothing():
    quiet, loud = torch.zeros(2, 3), torch.tensor([[9.0, 9.0, 9.0], [1.0, 2.0, 2.0]])
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)]
    found = collapse("s", dict.fromkeys(names, loud / 2), {names[0]: quiet, names[1]: loud})
    assert np.isnan(found.layers[0])
    assert found.layers[1] == found.ratio == pytest.approx(0.5)
    assert found.lowest == names[1]


@pytest.mark.parametrize(
    ("sources", "texts", "said"),
    [
        (("one", "other"), ["oen=one.txt"], "no source 'oen'"),
        (("one", "other"), ["one=one.txt"], "no text for other"),
        (("one",), ["one.txt"], "two sources or more"),
        (("one", "other"), ["none.txt"], "no such file"),
    ],
)
def test_texts_that_do_not_fit_are_refused(zoo, capsys, monkeypatch, sources, texts, said):
    monkeypatch.chdir(zoo)
    code, printed = inspected(zoo, sources, texts, capsys)
    assert code == 2
    assert said in " ".join(printed.err.split())
