"""The configuration: every fault at once and located, options over files, and resuming."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from automerge.config import OPTIONS, StudyConfig, differences, load_config, load_with_options
from automerge.config.recipe_file import write_recipe
from automerge.errors import ConfigError, Location
from automerge.expert_groups import ExpertGroups
from automerge.mixture import Mixture
from automerge.recipe import Profile, Recipe, RecipeSource, Slice
from automerge.samplers import SAMPLERS
from automerge.space import Groups, Knots, PerLayer
from automerge.space.named import space_file
from tests.methods.dataless import DATALESS

STUDY = """\
base: ./base
models: {math: math, code: org/code@rev}
tasks:
  - gsm8k
  - {task: mbpp, metric: "pass_at_1,none", direction: maximize, name: code, num_fewshot: 3}
search:
  methods: [task_arithmetic, ties]
  weight: [0, 1.5]
split: {search: 0.4, select: 0.3, test: 0.3}
evaluation: {batch_size: 8, items_per_candidate: full}
budget: 50
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("base", "math", "other"):
        (tmp_path / "study" / name).mkdir(parents=True)
    (tmp_path / "cwd" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "study"


def load(text: str, folder: Path, **options: object) -> StudyConfig:
    (folder / "my-study.yaml").write_text(text)
    return load_with_options(folder / "my-study.yaml", options)


def faults(text: str, folder: Path, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, folder, **options)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28800),
        ("90min", 5400),
        ("1d12h", 129600),
        ("1.5 h", 5400),
        ("45s", 45),
        ("2h5m", 7500),
    ],
)
def test_times_are_read_in_their_units(folder, text, seconds):
    config = load(STUDY.replace("budget: 50", f"max_time: {text}"), folder)
    assert config.max_seconds == seconds
    assert config.budget == "unlimited"


def test_a_limit_of_time_or_items_beside_a_budget_leaves_the_budget(folder):
    config = load(STUDY + "max_items: 90000\n", folder, max_time="2h")
    assert (config.budget, config.max_items, config.max_seconds) == (50, 90000, 7200)
    only_items = load(
        STUDY.replace("budget: 50", "max_items: 90000"), folder, items_per_candidate=9
    )
    assert (only_items.budget, only_items.expected_budget) == ("unlimited", 5000)


def test_a_study_is_read_with_defaults(folder):
    config = load(STUDY, folder)
    assert config.name == "my-study"
    assert config.references == {
        "base": str(folder / "base"),
        "math": str(folder / "math"),
        "code": "org/code@rev",
    }
    assert [(task.name, task.task, task.metric) for task in config.tasks] == [
        ("gsm8k", "gsm8k", None),
        ("code", "mbpp", "pass_at_1,none"),
    ]
    assert config.out == str(Path.cwd() / "runs" / "my-study")
    assert config.sampler == "auto"
    assert config.evaluation.items_per_candidate == "full"
    settings = config.space_settings()
    assert settings.methods == ("task_arithmetic", "ties")
    assert settings.bounds == {"weight": (0, 1.5)}
    assert settings.depth == Knots(3)
    assert settings.leave_out


def test_slopes_are_followed_or_not(folder):
    assert load(STUDY, folder).slopes == "auto"
    off = load(STUDY, folder, slopes="off")
    assert off.slopes == "off"
    assert off.fingerprint() != load(STUDY, folder).fingerprint()
    refused = r"--slopes: descent follows slopes: remove slopes: off"
    with pytest.raises(ConfigError, match=refused):
        load(STUDY, folder, slopes="off", sampler="descent")
    with pytest.raises(ConfigError, match="--slopes: unknown value"):
        load(STUDY, folder, slopes="on")


def test_settings_know_where_they_were_written(folder):
    config = load(STUDY, folder, seed="3", model=["math=../study/math"])
    source = str(folder / "my-study.yaml")
    assert config.locate(("tasks", 1, "metric")) == Location(source, 5, 26)
    assert config.locate(("tasks", 0, "metric")) == Location(source, 4, 5)
    assert config.locate(("search", "knobs", "weight")) == Location(source, 8, 11)
    assert config.locate(("seed",)) == Location("--seed")
    assert config.locate(("models", "math")) == Location("--model math=../study/math")
    assert StudyConfig.from_plain(config.to_plain()).locate(("seed",)) is None


def test_options_replace_keys_and_have_paths_relative_to_the_working_directory(folder):
    config = load(
        STUDY,
        folder,
        base="./here",
        model=["m=../study/math", "../study/other"],
        task=["arc_easy:acc_norm", "piqa:acc,none:minimize"],
        budget="7",
        items_per_candidate="64",
        out="my-run",
        name=None,
        apply_chat_template=True,
    )
    assert config.references == {
        "base": str(Path.cwd() / "here"),
        "m": str(folder / "math"),
        "other": str(folder / "other"),
    }
    assert [(t.name, t.task, t.metric, t.direction) for t in config.tasks] == [
        ("arc_easy", "arc_easy", "acc_norm", None),
        ("piqa", "piqa", "acc,none", "minimize"),
    ]
    assert (config.budget, config.evaluation.items_per_candidate) == (7, 64)
    assert config.evaluation.batch_size == 8
    assert config.out == str(Path.cwd() / "my-run")
    assert config.apply_chat_template


def test_options_alone_make_a_study():
    config = load_with_options(None, {"base": "org/b", "model": ["org/m"], "task": ["gsm8k"]})
    assert config.references == {"base": "org/b", "m": "org/m"}
    assert config.name == "study"


def test_models_may_be_a_list(folder):
    text = STUDY.replace("{math: math, code: org/code@rev}", "[math, ./other, org/code@rev]")
    config = load(text, folder)
    assert list(config.models) == ["math", "other", "code"]
    assert config.locate(("models", "other")).line == 2


def test_two_objectives_of_one_task_are_told_apart_by_their_metrics(folder):
    config = load(STUDY, folder, task=["gsm8k:exact_match,strict", "gsm8k:exact_match,flexible"])
    assert [task.name for task in config.tasks] == [
        "gsm8k:exact_match,strict",
        "gsm8k:exact_match,flexible",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("budget: 50", "bugdet: 50", ":11:1: unknown key 'bugdet'; did you mean 'budget'?"),
        ("budget: 50", "bugdet:", ":11:1: unknown key 'bugdet'; did you mean 'budget'?"),
        ("budget: 50", "budget: -1", ":11:9: expected a whole number from 0 to 1000000, or unli"),
        ("budget: 50", "budget: 1000001", "or unlimited, got 1000001"),
        ("budget: 50", "budget: 1e12", "or unlimited, got 1000000000000.0"),
        ("budget: 50", "budget: true", "or unlimited, got true"),
        ("budget: 50", "budget: unlimited", ":11:9: an unlimited budget needs max_time or max_i"),
        ("budget: 50", "max_time: soon", ":11:11: expected a time such as 8h, 90min or 1d12h"),
        ("budget: 50", "max_time: 0h", ":11:11: expected a time such as 8h, 90min or 1d12h"),
        ("budget: 50", "deterministic: true\nmax_time: 8h", "max_time cannot be combined with"),
        (
            "budget: 50",
            "deterministic: true\nexecutor: ray",
            "need a fixed number of workers",
        ),
        ("budget: 50", "align: gitrebasin", ":11:8: unknown alignment 'gitrebasin'; did you mean"),
        (
            "budget: 50",
            "align: {code: x@y}",
            ":11:15: expected git_rebasin, rotation_fusion",
        ),
        (
            "budget: 50",
            "align: {code: activation_matching}",
            ":11:15: activation_matching needs text: set `evidence: {text: FILE}`",
        ),
        ("budget: 50", "align: {maths: git_rebasin}", ":11:9: no source 'maths'; did you mean"),
        ("budget: 50", "align: 3", ":11:8: expected a mapping of keys to values, got 3"),
        ("budget: 50", "max_items: 0", ":11:12: must be at least 1, got 0"),
        ("budget: 50", "resolution: 2", ":11:13: must be at most 1, got 2"),
        (
            "- gsm8k",
            "- {task: gsm8k, goal: false}",
            ":4:5: 'gsm8k' is neither a goal nor",
        ),
        (
            "- gsm8k",
            "- {task: arc_easy, held_out: true, split: {test: validation}}",
            "a held-out task has test items only",
        ),
        ("budget: 50", "constraints: [gsm8k]", ":11:15: expected NAME >= NUMBER, or NAME >= MODE"),
        (
            "budget: 50",
            "constraints: [gsm9k >= 1]",
            ":11:15: there is no objective 'gsm9k'; did yo",
        ),
        (
            "budget: 50",
            "constraints: [code >= bse]",
            "there is no model 'bse'; did you mean 'base'?",
        ),
        ("budget: 50", "sampler: cmaes", ":11:10: unknown sampler 'cmaes'; did you mean 'cma'?"),
        ("budget: 50", "executor: rya", ":11:11: unknown executor 'rya'; did you mean 'ray'?"),
        ("budget: 50", "workers: 4", ":11:10: the local executor has one worker"),
        ("budget: 50", "ray_address: auto", ":11:14: ray_address needs executor: ray"),
        ("budget: 50", "export: all", ":11:9: unknown value \"all\"; choose from 'best'"),
        ("budget: 50", "seed: 1.5", ":11:7: expected a whole number, got 1.5"),
        ("budget: 50", "allow_task_code: no", ':11:18: expected true or false, got "no"; write f'),
        ("budget: 50", "allow_task_code: yes", 'got "yes"; write true'),
        ("budget: 50", "allow_task_code: maybe", 'expected true or false, got "maybe"'),
        ("budget: 50", "fewshot_as_multiturn: true", ":11:23: fewshot_as_multiturn needs apply_"),
        ("budget: 50", "name: a/b", ":11:7: 'a/b' is not a valid name: use letters, digits"),
        ("budget: 50", "include_path: ./tasks", ":11:15: no such folder"),
        ("budget: 50", "recipes: [missing.yaml]", ":11:11: "),
        ("budget: 50", "recipes: missing.yaml", ":11:10: expected a list"),
        ("base: ./base", "base: ./bas", ":1:7: no such folder"),
        ("base: ./base\n", "", ":1:1: missing key 'base'; name the base model"),
        ("base: ./base", "base:", ":1:6: expected text, got null"),
        ("math: math", "math: ./base", ":2:16: base is already the base; list each model once"),
        ("code: org/code@rev", "m2: math", "math is already the model 'math'; list each"),
        ("math: math", "base: math", ":2:10: 'base' is reserved; choose another name"),
        ("math: math", "default: math", ":2:10: 'default' is reserved"),
        ("math: math", "-m: math", ":2:10: '-m' is not a valid name"),
        ("{math: math, code: org/code@rev}", "{}", ":2:9: expected at least one"),
        ("{math: math, code: org/code@rev}", "5", ":2:9: expected a mapping of keys to values"),
        ("- gsm8k", "- 5", ":4:5: expected a mapping of keys to values, got 5"),
        ("- gsm8k", "- a:b:maximize:d", ":4:5: expected TASK[:METRIC[:DIRECTION]]"),
        (
            "- gsm8k",
            "- gsm8k:acc:maximise",
            ":4:5: unknown value \"maximise\"; did you mean 'maximize'?",
        ),
        ("- gsm8k", "- {name: x}", ":4:5: missing key 'task'"),
        ("- gsm8k", "- code", ":5:5: two objectives are named 'code'"),
        ("num_fewshot", "num_fewshots", ":5:77: unknown key 'num_fewshots'; did you mean 'num_f"),
        ("[0, 1.5]", "[1.5, 0]", ":8:11: the lower bound must be below the upper one"),
        ("[0, 1.5]", "[0, 11]", ":8:11: a weight lies in [-10, 10], got [0, 11]"),
        ("[0, 1.5]", "[0, 1, 2]", ":8:11: expected bounds [low, high] or one number"),
        ("[0, 1.5]", "true", ":8:11: expected bounds [low, high] or one number, got true"),
        ("weight:", "wieght:", ":8:3: unknown key 'wieght'; did you mean 'weight'?"),
        ("weight: [0, 1.5]", "t: 0.5", ":8:3: none of the methods task_arithmetic, ties has a 't'"),
        ("weight: [0, 1.5]", "normalize: 1", ":8:14: expected true, false or [false, true]"),
        ("weight: [0, 1.5]", "depth: {knots: 0}", ":8:18: must be at least 1, got 0"),
        ("weight: [0, 1.5]", "depth: {nots: 3}", ":8:11: unknown key 'nots'; did you mean 'knots'"),
        (
            "weight: [0, 1.5]",
            "depth: {knots: 3, groups: 2}",
            ":8:10: use exactly one of {knots: N}",
        ),
        ("weight: [0, 1.5]", "depth: layers", ":8:10: expected {knots: N}, {groups: N} or per_l"),
        ("weight: [0, 1.5]", "components: [mpl]", ":8:16: unknown component 'mpl'"),
        ("weight: [0, 1.5]", "components: [mlp, [mlp]]", ":8:22: component 'mlp' is listed twice"),
        ("weight: [0, 1.5]", "components: attention", ":8:15: expected all or a list"),
        ("weight: [0, 1.5]", "varying: [wait]", ":8:13: unknown knob 'wait'"),
        ("weight: [0, 1.5]", "space: missing.yaml", ":8:10: "),
        ("weight: [0, 1.5]", "space: quik", ":8:10: unknown search space 'quik'; did you mean 'q"),
        ("weight: [0, 1.5]", "space: 3", ":8:10: expected a name or a file, got 3"),
        ("[task_arithmetic, ties]", "[ties, tis]", ":7:19: unknown method 'tis'; did you mean 't"),
        ("[task_arithmetic, ties]", "[ties, ties]", ":7:19: method 'ties' is listed twice"),
        ("[task_arithmetic, ties]", "[]", ":7:12: expected at least one"),
        ("[task_arithmetic, ties]", "{mlp: ties}", ":7:12: no method for the rest: add `other`"),
        (
            "[task_arithmetic, ties]",
            "{mpl: ties, other: ties}",
            ":7:13: unknown component 'mpl' (a pattern of tensor names holds a '*', a zone is",
        ),
        (
            "[task_arithmetic, ties]",
            "{mlp: [ties, tis], other: ties}",
            ":7:25: unknown method 'tis'; did you mean 'ties'?",
        ),
        (
            "[task_arithmetic, ties]\n  weight: [0, 1.5]",
            "{mlp: ties, other: ties}\n  components: [mlp, other]",
            ":7:12: methods by group are values by group too: remove `components`",
        ),
        ("test: 0.3", "test: 0.4", ":9:8: search, select and test must add up to 1"),
        ("test: 0.3", "test: 0", ":9:41: must be more than 0, got 0"),
        ("batch_size: 8", "batch_size: 0", ":10:26: expected auto, or a whole number from 1 to"),
        ("batch_size: 8", "device: mps", ":10:22: Apple's GPUs (mps) are not supported"),
        ("batch_size: 8", "device: gpu", "unknown device \"gpu\"; choose from 'auto', 'cpu'"),
        ("batch_size: 8", "batch_size: true", "or a whole number from 1 to 65536, got true"),
        ("batch_size: 8", "batch_size: auto:4", "lm-eval's auto:N tries sizes N times; here"),
        ("batch_size: 8", "dtype: int8", ":10:21: unknown value \"int8\"; choose from 'auto'"),
        ("full", "all", ":10:50: expected full, or a whole number from 8 to 10000000"),
    ],
)
def test_what_is_wrong_is_located_and_explained(old, new, message, folder):
    assert old in STUDY
    found = faults(STUDY.replace(old, new), folder)
    assert len(found) == 1
    assert message in found[0]


def test_all_faults_come_together_in_the_order_they_were_written(folder):
    text = STUDY.replace("./base", "./bas").replace("gsm8k", "5").replace("[0, 1.5]", "[2, 1]")
    text = text.replace("budget", "bugdet").replace("batch_size: 8", "batch_size: x")
    found = faults(text + "sampler: cmae\nsplit2: 1\n", folder, seed="x")
    assert len(found) == 8
    lines = [fault.split(":")[1] for fault in found if not fault.startswith("--")]
    assert lines == sorted(lines, key=int)
    assert found[0] == '--seed: expected a whole number, got "x"'


def test_a_fault_of_an_option_names_the_option(folder):
    found = faults(STUDY, folder, base="./nope", model=["a=./x", "a=./y"], dtype="int8")
    assert any(fault.startswith("--base: no such folder") for fault in found)
    assert any(fault.startswith("--model a=./y: two models are named 'a'") for fault in found)
    assert any(fault.startswith("--dtype: unknown value") for fault in found)


def test_a_mapping_is_the_yaml_document(folder):
    document = yaml.safe_load(STUDY)
    written = load(STUDY, folder).to_plain()
    paths = {"base": folder / "base", "models": {"math": folder / "math", "code": "org/code@rev"}}
    plain = load_config({**document, **paths}).to_plain()
    same = set(written) - {"name", "out"}
    assert {key: plain[key] for key in same} == {key: written[key] for key in same}
    assert document == yaml.safe_load(STUDY)  # left as it was


def test_a_mapping_has_the_faults_of_the_document_named_by_their_keys(folder):
    document: dict[str, object] = {
        "base": "org/b",
        "model": ["org/m"],
        "tasks": ["gsm8k", {"task": "arc", "metrik": "acc"}],
        "split": {"max_test": "many"},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(document)
    found = [str(fault) for fault in caught.value.faults]
    assert any(f.startswith("model: unknown key 'model'; did you mean 'models'?") for f in found)
    assert any(f.startswith("the mapping given: missing key 'models'") for f in found)
    assert any(f.startswith("tasks[1].metrik: unknown key 'metrik'") for f in found)
    assert any(f.startswith("split.max_test: ") for f in found)


def test_a_mapping_takes_the_values_of_programs_and_refuses_what_no_file_could_hold(folder):
    document: dict[Any, object] = {
        "base": folder / "base",
        "models": {"math": folder / "math"},
        "tasks": ("gsm8k",),
        "seed": np.int64(3),
    }
    config = load_config(document)
    assert (config.base, config.seed) == (str(folder / "base"), 3)
    strange = {"budget": math.nan, "name": object(), "out": {3: None}}
    with pytest.raises(ConfigError) as caught:
        load_config({**document, **strange})
    assert sorted(str(f).split(":")[0] for f in caught.value.faults) == ["budget", "name", "out"]
    own: dict[str, object] = {}
    own["base"] = own
    with pytest.raises(ConfigError, match="nested more than"):
        load_config(own)


def test_a_mapping_for_mergekit_evolve_is_the_study_it_asks_for(folder):
    genome = {"models": ["org/a", "org/b"], "merge_method": "ties", "base_model": "org/base"}
    config = load_config({"genome": genome, "tasks": [{"name": "gsm8k"}]})
    assert (config.base, list(config.search.methods)) == ("org/base", ["ties"])


def test_without_a_file_what_is_missing_is_asked_for():
    with pytest.raises(ConfigError) as caught:
        load_with_options(None, {})
    assert [fault.message.split(";")[0] for fault in caught.value.faults] == [
        "missing key 'base'",
        "missing key 'models'",
        "missing key 'tasks'",
    ]


def test_the_number_of_models_is_bounded(folder):
    names = ", ".join(f"m{i}: org/m{i}" for i in range(65))
    text = STUDY.replace("math: math, code: org/code@rev", names)
    assert len(faults(text, folder)) == 1


def test_a_space_file_is_read_and_overruled_by_the_study(folder):
    (folder / "space.yaml").write_text("depth: {groups: 4}\nweight: [0, 1]\nlambda: 1\n")
    config = load(STUDY.replace("weight:", "space: space.yaml\n  weight:"), folder)
    settings = config.space_settings()
    assert settings.depth == Groups(4)
    assert settings.bounds == {"weight": (0, 1.5)}
    assert settings.fixed == {"lambda": 1}
    (folder / "space.yaml").write_text("weight: [1, 0]\ndpth: 3\n")
    found = faults(STUDY.replace("weight: [0, 1.5]", "space: space.yaml"), folder)
    assert [fault.split(": ")[0] for fault in found] == ["space.yaml:1:9", "space.yaml:2:1"]


BEFORE_SEARCH = STUDY.partition("search:")[0]


def test_a_named_space_is_read_from_the_package_and_overruled_by_the_study(folder):
    text = space_file("smaller").read_text().replace("drop: 4", "drop: 2")
    (folder / "same.yaml").write_text(text)
    named = load(BEFORE_SEARCH + "search: {space: smaller, layers: {drop: 2}}\n", folder)
    assert named.search.layers.drop == 2
    assert named.search == load(BEFORE_SEARCH + "search: same.yaml\n", folder).search
    (folder / "quick").write_text("weight: [0, 0.1]\n")
    quick = load(BEFORE_SEARCH + "search: quick\n", folder).search
    assert quick == load(BEFORE_SEARCH + f"search: {space_file('quick')}\n", folder).search
    assert quick.knobs == {"weight": (0, 1.5)}
    assert load(BEFORE_SEARCH + "search: ./quick\n", folder).search.knobs == {"weight": (0, 0.1)}


def test_an_unknown_space_is_refused_where_it_is_written(folder):
    [fault] = faults(BEFORE_SEARCH + "search: depht\n", folder)
    line = BEFORE_SEARCH.count("\n") + 1
    assert f":{line}:9: unknown search space 'depht'; did you mean 'depth'?" in fault


def test_the_option_for_a_space_replaces_the_whole_section(folder):
    assert load(STUDY, folder, space="quick").search == (
        load(BEFORE_SEARCH + "search: quick\n", folder).search
    )
    with pytest.raises(ConfigError, match="--space: unknown search space 'quik'; did you mean"):
        load(STUDY, folder, space="quik")


def test_methods_by_group_become_those_of_the_space(folder):
    written = "{attention: [linear, ties], depth<0.5: task_arithmetic, other: [ties]}"
    config = load(STUDY.replace("[task_arithmetic, ties]", written), folder)
    settings = config.space_settings()
    assert settings.by_group == {
        "attention": ("linear", "ties"),
        "depth<0.5": ("task_arithmetic",),
        "default": ("ties",),
    }
    assert settings.methods == ("linear", "ties", "task_arithmetic")
    assert StudyConfig.from_plain(config.to_plain()).space_settings() == settings
    alone = load(STUDY.replace("[task_arithmetic, ties]", "{other: [ties, linear]}"), folder)
    assert alone.space_settings().by_group == {}
    assert alone.space_settings().methods == ("ties", "linear")


def test_depth_and_components_become_those_of_the_space(folder):
    config = load(
        STUDY.replace(
            "weight: [0, 1.5]", "depth: per_layer\n  components: [attention, [mlp, '*norm*']]"
        ),
        folder,
    )
    settings = config.space_settings()
    assert settings.depth == PerLayer()
    assert settings.components == (("attention",), ("mlp", "*norm*"), ("default",))
    config = load(STUDY.replace("weight: [0, 1.5]", "components: [mlp, other]"), folder)
    assert config.space_settings().components == (("mlp",), ("default",))


def test_switches_are_fixed_or_searched(folder):
    config = load(STUDY.replace("weight: [0, 1.5]", "normalize: [false, true]"), folder)
    assert config.space_settings().switches == ("normalize",)
    config = load(STUDY.replace("weight: [0, 1.5]", "normalize: false"), folder)
    assert config.space_settings().fixed == {"normalize": False}


def test_one_alignment_is_that_of_all_sources_but_noise(folder):
    noise = STUDY.replace("org/code@rev", "org/code@rev, some: 'noise:rank=2'")
    expected = dict.fromkeys(("math", "code"), "git_rebasin")
    assert load(noise + "align: git_rebasin\n", folder).align == expected
    one = load(STUDY + "align: {code: rotation_fusion}\n", folder)
    assert one.align == {"code": "rotation_fusion"}


def test_recipes_are_kept_in_the_names_of_the_study(folder):
    recipe = Recipe("linear", (RecipeSource("x", {"weight": Profile.of([0.2, 0.4])}),))
    write_recipe(recipe, {"x": str(folder / "math")}, folder / "first.yaml")
    config = load(STUDY + "recipes: [first.yaml]\n", folder)
    (named,) = config.recipes
    assert named.name == "first"
    assert named.recipe == Recipe("linear", (RecipeSource("math", recipe.sources[0].knobs),))
    write_recipe(recipe, {"x": str(folder / "other")}, folder / "first.yaml")
    (found,) = faults(STUDY + "recipes: [first.yaml]\n", folder)
    assert found.startswith("first.yaml:2:9: the recipe's model 'x'")


def test_mixtures_are_refused_where_vllm_generates_and_fewer_experts_are_not(folder):
    names = ("base", "math")
    digests = {"routing": dict.fromkeys(names, "0" * 32)}
    sources = tuple(RecipeSource(name, {"weight": Profile.of(1.0)}) for name in names)
    mixed = Recipe("linear", sources, mixture=Mixture(names, 1, "random"))
    fewer = Recipe("linear", sources, evidence=digests, experts=ExpertGroups(2, "outputs"))
    plain = Recipe("linear", sources)
    for name, recipe in (("plain", plain), ("mixed", mixed), ("fewer", fewer)):
        write_recipe(recipe, {}, folder / f"{name}.yaml")
    text = STUDY + "recipes: [plain.yaml, mixed.yaml, fewer.yaml]\n"
    assert len(load(text, folder).recipes) == 3
    found = faults(text.replace("batch_size: 8", "generator: vllm"), folder)
    assert [fault.partition(": ")[0] for fault in found] == ["my-study.yaml:12:23"]
    assert "vLLM cannot be handed a mixture of dense models, as 'mixed' is one" in found[0]


def test_recipes_that_no_adapter_can_hold_are_refused_where_adapters_are_exported(folder):
    names = ("base", "math")
    digests = {"routing": dict.fromkeys(names, "0" * 32)}
    sources = tuple(RecipeSource(name, {"weight": Profile.of(1.0)}) for name in names)
    recipes = {
        "plain": Recipe("linear", sources),
        "mixed": Recipe("linear", sources, mixture=Mixture(names, 1, "random")),
        "fewer": Recipe("linear", sources, evidence=digests, experts=ExpertGroups(2, "outputs")),
        "stacked": Recipe("linear", sources, slices=(Slice(dict.fromkeys(names, (0, 1))),)),
    }
    for name, recipe in recipes.items():
        write_recipe(recipe, {}, folder / f"{name}.yaml")
    text = STUDY + f"recipes: [{', '.join(f'{name}.yaml' for name in recipes)}]\n"
    assert len(load(text, folder).recipes) == 4
    found = faults(text + "export: adapter\n", folder)
    assert [fault.partition(": ")[0] for fault in found] == [
        f"my-study.yaml:12:{column}" for column in (23, 35, 47)
    ]
    for fault, name, other in zip(
        found,
        ("mixed", "fewer", "stacked"),
        ("a `mixture`", "fewer `experts`", "`slices`"),
        strict=True,
    ):
        assert f"{name!r} has {other}, which no adapter can hold: remove the recipe" in fault


def test_no_two_trials_have_one_name(folder):
    recipe = Recipe("linear", (RecipeSource("math", {"weight": Profile.of(0.2)}),))
    (folder / "more").mkdir()
    paths = [folder / f"{name}.yaml" for name in ("trial-5", "trial-x", "math", "base", "uniform")]
    for path in (*paths, folder / "more" / "trial-x.yaml"):
        write_recipe(recipe, {}, path)
    listed = ", ".join([*(path.name for path in paths), "more/trial-x.yaml"])
    found = faults(STUDY + f"recipes: [{listed}]\n", folder)
    wrong = ["trial-5", "math", "base", "uniform", "trial-x"]
    assert len(found) == len(wrong)
    for name, fault in zip(wrong, found, strict=True):
        assert f"another trial is named {name!r}; rename the recipe's file" in fault
    (found,) = faults(STUDY.replace("math:", "trial-5:"), folder)
    assert "'trial-5' is reserved; choose another name" in found


def test_plain_settings_are_json_and_read_back(folder):
    recipe = Recipe("linear", (RecipeSource("math", {"weight": Profile.of(0.2)}),))
    write_recipe(recipe, {}, folder / "r.yaml")
    config = load(STUDY + "recipes: [r.yaml]\n", folder)
    plain = json.loads(json.dumps(config.to_plain()))
    again = StudyConfig.from_plain(plain)
    assert again == config
    assert again.to_plain() == plain
    assert again.fingerprint() == config.fingerprint()
    assert pickle.loads(pickle.dumps(again)) == config
    assert again.recipes[0].recipe == recipe


def test_settings_are_frozen(folder):
    config = load(STUDY, folder)
    with pytest.raises(ValueError, match="frozen"):
        config.budget = 3


def leaf_fields(model: type[BaseModel]):
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaf_fields(info.annotation)
        else:
            yield model, name, info


@pytest.mark.parametrize(("model", "name", "info"), leaf_fields(StudyConfig))
def test_every_field_says_whether_a_resumed_study_may_change_it(model, name, info):
    assert (info.json_schema_extra or {}).get("resume") in ("safe", "unsafe"), f"{model}.{name}"


CHANGES = {
    "name": ("name: other", True),
    "budget": ("budget: 400", True),
    "executor": ("executor: ray", True),
    "out": ("out: elsewhere", True),
    "export": ("export: knee", True),
    "allow_task_code": ("allow_task_code: true", True),
    "shortlist": ("shortlist: 3", True),
    "seed": ("seed: 1", False),
    "align": ("align: git_rebasin", False),
    "sampler": ("sampler: tpe", False),
    "base": ("base: ./other", False),
    "models": ("models: {math: math}", False),
    "tasks": ("tasks: [gsm8k]", False),
    "apply_chat_template": ("apply_chat_template: true", False),
    "system_instruction": ("system_instruction: Think.", False),
    "evaluation.batch_size": ("evaluation: {batch_size: 4, items_per_candidate: full}", False),
    "evaluation.dtype": (
        "evaluation: {batch_size: 8, items_per_candidate: full, dtype: float32}",
        False,
    ),
    "split.max_test": ("split: {search: 0.4, select: 0.3, test: 0.3, max_test: 99}", False),
    "search.knobs": ("search: {methods: [task_arithmetic, ties], weight: [0, 1]}", False),
    "search.depth.groups": (
        "search: {methods: [task_arithmetic, ties], weight: [0, 1.5], depth: {groups: 2}}",
        False,
    ),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_is_found_and_known_to_be_safe_or_not(field, folder):
    old = load(STUDY, folder)
    text, safe = CHANGES[field]
    lines = yaml.safe_load(STUDY) | yaml.safe_load(text)
    new = load(yaml.safe_dump(lines, sort_keys=False), folder)
    found = {difference.field: difference for difference in differences(old.to_plain(), new)}
    assert field in found
    assert all(difference.safe == safe for difference in found.values())
    assert (old.fingerprint() == new.fingerprint()) == safe


def test_settings_a_study_was_stored_without_have_their_defaults(folder):
    config = load(STUDY, folder)
    plain = config.to_plain()
    del plain["shortlist"], plain["evaluation"]["max_length"]
    assert differences(plain, config) == []
    (difference,) = differences(plain, load(STUDY + "shortlist: 5\n", folder))
    assert (difference.field, difference.old, difference.new) == ("shortlist", "auto", 5)


def test_names_are_those_of_the_tables(folder):
    for sampler in SAMPLERS:
        assert load(STUDY, folder, sampler=sampler).sampler == sampler
    text = STUDY.replace("[task_arithmetic, ties]", json.dumps(list(DATALESS)))
    assert load(text, folder).search.methods == tuple(DATALESS)


def test_every_option_names_a_setting(folder):
    plain = load(STUDY, folder).to_plain()
    for path in OPTIONS.values():
        value = plain
        for key in path:
            value = value[key]


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(StudyConfig.model_fields)), junk, st.booleans())
def test_any_value_of_any_key_is_accepted_or_explained(folder, key, value, nested):
    document = yaml.safe_load(STUDY)
    if nested and isinstance(document.get(key), dict):
        document[key][next(iter(document[key]))] = value
    else:
        document[key] = value
    try:
        config = load(json.dumps(document), folder)
    except ConfigError as error:
        unlocated = [fault for fault in error.faults if fault.location is None]
    else:
        unlocated = []
        assert StudyConfig.from_plain(config.to_plain()) == config
    assert unlocated == []


def test_a_task_may_name_dataset_splits_for_its_parts(folder):
    text = STUDY.replace("- gsm8k", "- {task: gsm8k, split: {search: train, test: test}}")
    config = load(text, folder)
    assert [task.split for task in config.tasks] == [{"search": "train", "test": "test"}, {}]
    assert StudyConfig.from_plain(config.to_plain()) == config
    wrong = text.replace("search: train", "serch: train")
    assert any("unknown part 'serch'; did you mean 'search'" in f for f in faults(wrong, folder))


def test_a_study_from_before_dataset_splits_is_resumed(folder):
    config = load(STUDY, folder)
    assert all("split" not in task for task in config.to_plain()["tasks"])
    text = STUDY.replace("- gsm8k", "- {task: gsm8k, split: {search: train}}")
    (change,) = differences(config.to_plain(), load(text, folder))
    assert (change.field, change.safe) == ("tasks", False)


def test_damage_is_measured_on_prompts_or_on_a_text(folder):
    (folder / "plain.txt").write_text("some text")
    bare = load(STUDY + "properties: [parameters, kl_to_base]\n", folder)
    assert (bare.properties, bare.item_files) == (("parameters", "kl_to_base"), {})
    text = load(STUDY + "properties: [{kl_to_base: plain.txt}]\n", folder)
    assert text.properties == ("kl_to_base",)
    assert text.item_files == {"kl_to_base": str(folder / "plain.txt")}
    assert StudyConfig.from_plain(text.to_plain()) == text


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ("[{kl_to_base: gone.txt}]", "12:27: no such file or folder: gone.txt"),
        ("[{kl_to_base: 3}]", "12:14: expected a name or {kl_to_base: FILE}, got"),
        ("[{kl: text.txt}]", "12:14: expected a name or {kl_to_base: FILE}, got"),
        ("[kl_to_bas]", "12:14: unknown property 'kl_to_bas'; did you mean 'kl_to_base'?"),
    ],
)
def test_a_text_that_is_not_there_is_located(folder, properties, expected):
    found = faults(STUDY + f"properties: {properties}\n", folder)
    assert any(f":{expected}" in fault for fault in found), found


def test_damage_on_prompts_needs_tasks_that_have_some(folder):
    (folder / "mine.py").write_text(
        "def mine(model, tokenizer, items): return [0.0 for _ in items]"
    )
    (folder / "items.jsonl").write_text("{}\n")
    study = (
        "base: ./base\nmodels: [./math]\nextensions: [./mine.py]\n"
        "tasks: [{python: 'mine:mine', items: items.jsonl}]\nproperties: [kl_to_base]\n"
    )
    [fault] = faults(study, folder)
    assert "5:14: no task is lm-eval's, so there are no prompts: {kl_to_base: FILE}" in fault


def test_layers_are_spread_over_gpus_only(folder):
    config = load(STUDY + "gpus_per_worker: 4\n", folder)
    assert config.gpus_per_worker == 4
    assert config.fingerprint() == load(STUDY, folder).fingerprint()
    study = STUDY.replace("evaluation: {", "evaluation: {device: cpu, ")
    [fault] = faults(study + "gpus_per_worker: 2\n", folder)
    assert "12:18: layers are spread over GPUs only: remove it, or evaluation.device: cpu" in fault


def test_cheap_objectives_come_first_where_asked_for(folder):
    assert not load(STUDY, folder).search.cheap_first
    on = load(STUDY.replace("search:\n", "search:\n  cheap_first: true\n"), folder)
    assert on.search.cheap_first
    assert on.fingerprint() != load(STUDY, folder).fingerprint()
    [fault] = faults(STUDY.replace("search:\n", "search:\n  cheap_first: 7\n"), folder)
    assert "7:16: " in fault


def test_a_held_out_task_is_neither_a_goal_nor_in_a_constraint(folder):
    held = STUDY.replace("- gsm8k", "- {task: gsm8k, held_out: true}")
    load(held, folder)
    bound = held + "constraints: [gsm8k >= 0.5]\n"
    assert any("'gsm8k' is held out, so no constraint" in fault for fault in faults(bound, folder))
    alone = held.replace("name: code,", "name: code, held_out: true,")
    assert any("no task is a goal" in fault for fault in faults(alone, folder))
