"""mergekit-evolve's files become studies over the same merges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from automerge.checkpoints import open_checkpoint
from automerge.commands.convert import converted
from automerge.config import load_config, load_with_options
from automerge.errors import ConfigError
from automerge.files.yaml_file import parse_yaml
from automerge.mergekit import parse_evolve, parse_mergekit
from automerge.merging import ResidentEngine
from automerge.methods import METHODS
from automerge.space import CategoricalParameter, build_space, deviations
from tests.checkpoints.models import llama, perturb, save

GENOME = """\
genome:
  models: [org/maths, org/code@v1]
  merge_method: ties
  base_model: org/base
  layer_granularity: 1
  filters: [self_attn, "[mlp]"]
  allow_negative_weights: true
tasks:
  - gsm8k
  - {name: mbpp, metric: "pass_at_1,none", weight: 0.5}
  - {name: wikitext, metric: "word_perplexity,none", weight: -0.1}
limit: 100
num_fewshot: 4
"""


def parse(text: str, folder: Path = Path("/nowhere")):
    return parse_evolve(parse_yaml(text, "e.yaml"), folder)


def test_every_key_has_its_counterpart_or_a_note():
    evolution = parse(GENOME)
    assert evolution.plain == {
        "base": "org/base",
        "models": {"maths": "org/maths", "code": "org/code@v1"},
        "tasks": [
            {"task": "gsm8k", "metric": "acc,none", "num_fewshot": 4},
            {"task": "mbpp", "metric": "pass_at_1,none", "num_fewshot": 4},
            {
                "task": "wikitext",
                "metric": "word_perplexity,none",
                "direction": "minimize",
                "num_fewshot": 4,
            },
        ],
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "search": {
            "methods": ["ties"],
            "depth": "per_layer",
            "components": [["*self_attn*"], ["*[[]mlp]*"], "other"],
            "weight": [-1, 1],
            "varying": ["weight", "density"],
            "density": [0, 1],
            "normalize": True,
            "lambda": 1,
            "leave_out": False,
        },
        "evaluation": {"items_per_candidate": 100},
    }
    assert [note for note in evolution.notes if "weights of tasks (1, 0.5, -0.1)" in note]


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("limit: 100", "limit: 2", "limit 2 is raised to 8 items"),
        ("limit: 100\n", "", "scored on 200 fresh items per task, not on all"),
        ("limit: 100", "random_init: true", "random_init has no counterpart"),
        ("  layer", "  tokenizer_source: union\n  layer", "tokenizer_source has no counterpart"),
        ("[org/maths,", "[org/base, org/maths,", "the base is among the models: its weight has no"),
        (
            "granularity: 1",
            "granularity: 1\n  smooth: true",
            "final norm and lm_head take the last",
        ),
    ],
)
def test_what_has_no_counterpart_is_said(old, new, note):
    assert old in GENOME
    notes = parse(GENOME.replace(old, new)).notes
    assert any(note in one for one in notes), notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: ties", "method: tise", ":3:17: unknown merge method 'tise'; did you mean 'ties'"),
        ("  base_model: org/base\n", "", ":2:3: missing key 'base_model'"),
        ("  filters", "  filtres", ":6:3: unknown key 'filtres'; did you mean 'filters'?"),
        ("granularity: 1", "granularity: 2", ":5:22: the number of layers, and thus"),
        ("granularity: 1", "granularity: x", ":5:22: expected a whole number of layers, got"),
        ("org/code@v1", "org/maths", ":2:23: org/maths is listed twice"),
        ("weight: 0.5", "weight: 0", ":10:52: expected a number other than 0, got 0"),
        ("name: mbpp", "nam: mbpp", ":10:5: expected a task or a mapping with `name`"),
        ("limit: 100", "limit: all", ":12:8: expected a whole number, got"),
        ("limit: 100", "limt: 100", ":12:1: unknown key 'limt'; did you mean 'limit'?"),
        ("negative_weights: true", "negative_weights: 1", ":7:27: expected true or false, got 1"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(old, new, message):
    assert old in GENOME
    with pytest.raises(ConfigError) as caught:
        parse(GENOME.replace(old, new))
    assert message in str(caught.value)


def test_a_search_reads_the_file_as_it_is_and_says_where_settings_come_from(tmp_path):
    path = tmp_path / "genome.yml"
    path.write_text(GENOME)
    config = load_with_options(path, {"budget": "50"})
    assert (config.base, config.budget, config.name) == ("org/base", 50, "genome")
    assert config.evaluation.items_per_candidate == 100
    assert any("weights of tasks" in note for note in config.notes)
    assert str(config.locate(("search", "components"))).endswith("genome.yml:6:12")
    path.write_text(GENOME.replace("num_fewshot: 4", "num_fewshot: -4"))
    with pytest.raises(ConfigError, match="must be at least 0"):
        load_config(path)


def test_the_converted_file_is_the_same_study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(GENOME)
    config = load_config(path)
    text = converted(path)
    assert text.startswith("# note: weights of tasks")
    path.write_text(text)
    assert load_config(path) == config


def test_a_converted_merge_is_the_same_recipe(tmp_path):
    path = tmp_path / "merge.yaml"
    path.write_text(
        "merge_method: slerp\nbase_model: org/a\nmodels: [{model: org/b}]\nparameters: {t: 0.3}\n"
    )
    from automerge.config.recipe_file import read_recipe

    recipe = read_recipe(path).recipe
    path.write_text(converted(path))
    assert read_recipe(path).recipe == recipe


def test_slerp_needs_no_base_model():
    text = GENOME.replace("  base_model: org/base\n", "").replace("ties", "slerp")
    evolution = parse(text)
    assert evolution.plain["base"] == "org/maths"
    assert evolution.plain["search"]["t"] == [0, 1]
    assert any("first model is the study's base" in note for note in evolution.notes)


# The merges of the search are those of mergekit-evolve.

N_LAYERS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    model = llama(num_hidden_layers=N_LAYERS)
    return {
        name: save(perturb(model, seed, 0.05), root / name)
        for seed, name in enumerate(("base", "maths", "code"))
    }


@pytest.mark.sample(10)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize("filters", [None, ["mlp", "norm"]], ids=["no filters", "filters"])
@pytest.mark.parametrize(("size", "smooth"), [(0, False), (2, False), (1, False), (1, True)])
def test_the_space_holds_the_merges_of_mergekit_evolve(method, filters, size, smooth, folders):
    genome_module = pytest.importorskip("mergekit.evo.genome")
    genome = {
        "models": [str(folders["maths"]), str(folders["code"])],
        "base_model": str(folders["base"]),
        "merge_method": method,
        "layer_granularity": size,
        "filters": filters,
        "smooth": smooth,
    }
    if method == "linear":  # mergekit asks a weight of a base that is not among the models
        del genome["base_model"]
    definition = genome_module.ModelGenomeDefinition.model_validate(genome)
    theirs = genome_module.ModelGenome(definition)
    shape = theirs.initial_genotype().shape
    genotype = np.random.default_rng(0).uniform(0.1, 0.9, shape).astype(np.float32)
    made = theirs.genotype_merge_config(genotype)
    document = parse_yaml(
        yaml.safe_dump(made.model_dump(mode="json", exclude_none=True) | {"dtype": "float32"}), "m"
    )
    recipe = parse_mergekit(document, Path("/")).recipe

    genome["base_model"] = str(folders["base"])
    config = {"genome": {k: v for k, v in genome.items() if v is not None}, "tasks": ["x"]}
    path = folders["base"].parent / "genome.yml"
    path.write_text(yaml.safe_dump(config))
    settings = load_config(path).space_settings()
    space = build_space(settings, "base", ("maths", "code"), N_LAYERS, METHODS)
    knobs = genome_module.METHOD_PARAM_MAPS[method]
    named = {}
    for j, model in enumerate(("maths", "code")):
        for i, knob in enumerate(knobs):
            values = genotype[:, j, :, i].T.astype(np.float64)  # (filters and the rest, groups)
            parts = [*(f"*{f}*" for f in filters or []), "default"]
            for k, row in enumerate(deviations.coefficients(values).tolist()):
                for g, coefficient in enumerate(row):
                    role = f"{method}.{knob}[{model}]"
                    role += (f".{parts[k]}" if k else "") + (f".depth{g}" if g else "")
                    named[role] = coefficient

    def choose(parameter):
        if isinstance(parameter, CategoricalParameter):
            return parameter.choices[0]
        return named.pop(parameter.name)

    ours = space.recipe(space.walk(choose))
    assert not named
    models = {name: open_checkpoint(folder) for name, folder in folders.items()}
    engine = ResidentEngine(models)
    expected = dict(engine.merge(recipe))
    outer = ("lm_head.weight", "model.norm.weight") if smooth else ()
    for name, tensor in engine.merge(ours):
        close = np.allclose(tensor, expected[name], atol=1e-6)
        assert close or name in outer, name
