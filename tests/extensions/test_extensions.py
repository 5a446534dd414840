"""Tables that others add to: what is loaded, what never is, and a search with a user's module."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from automerge.checkpoints import MemoryCheckpoint
from automerge.config import load_config
from automerge.config.recipe_file import read_recipe
from automerge.errors import ConfigError
from automerge.evaluation.base import Live
from automerge.evaluation.generation.table import GENERATORS
from automerge.evaluation.table import EVALUATORS
from automerge.executors import EXECUTORS
from automerge.extensions import Table, install, load_extensions, modules, read_extension
from automerge.merging import ResidentEngine
from automerge.methods import METHODS, Method
from automerge.methods import admit as admit_method
from automerge.recipe import Profile, Recipe, RecipeSource
from automerge.samplers import SAMPLERS
from automerge.session.panel import study_panel
from automerge.store.store import Store
from automerge.testing import GeneratorLaws
from automerge.testing.generators import plain_model
from automerge.trial import Measured
from tests.command_line import REPOSITORY, automerge, surroundings
from tests.evaluation.toys import make_model, make_tokenizer, phrase
from tests.zoo import write_zoo

SOURCE = '''
"""A user's own method and sampler."""

from automerge.methods import Coefficients, Knob, Method
from automerge.samplers import SAMPLERS

print("imported")


def coefficients(values, statistics):
    return Coefficients(each=tuple((w,) for w in values.each["weight"]))


def kernel(operands, scalars):
    merged = operands.base
    for (weight,), vector in zip(scalars.each, operands.task_vectors):
        merged = merged + 2.0 * weight * vector
    return merged


DOUBLED = Method(
    name="doubled",
    paper="none",
    knobs=(Knob("weight", "source", "float", 1.0, 0.0, (-10.0, 10.0), (0.0, 0.5)),),
    coefficients=coefficients,
    kernel=kernel,
    anchored=True,
)


def chance(space, n_objectives, seed, budget):
    return SAMPLERS["random"](space, n_objectives, seed + 1, budget)
'''
LINES = '{evaluator: "my_lines:Lines", task: text, name: fluency, items: ./text.txt}'


@pytest.fixture(autouse=True)
def nothing_installed() -> Iterator[None]:
    yield
    for name in tuple(modules._installed):
        modules._remove(name)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "my_merges.py").write_text(SOURCE)
    return tmp_path


def test_a_users_method_merges_as_its_formula_says_under_the_name_it_was_asked_by(
    mine: Path,
) -> None:
    load_extensions(["my_merges"], mine)
    method = METHODS["my_merges:DOUBLED"]
    assert isinstance(method, Method)
    assert method.name == "my_merges:DOUBLED"
    tensors = {name: torch.randn(3, 4) for name in ("base", "a")}
    recipe = Recipe(method.name, (RecipeSource("a", {"weight": Profile.of(0.3)}),), "base")
    engine = ResidentEngine({n: MemoryCheckpoint({"w": t}) for n, t in tensors.items()})
    [(_, merged)] = engine.merge(recipe)
    expected = tensors["base"].double() + 0.6 * (tensors["a"] - tensors["base"]).double()
    torch.testing.assert_close(merged.double(), expected, rtol=0, atol=4 * 2**-23)


def test_a_name_is_never_imported_unless_its_module_was_listed(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(mine))
    for name in ("a", "b"):
        (mine / name).mkdir()
    recipe = mine / "recipe.yaml"
    recipe.write_text(
        "recipe: 1\nmethod: my_merges:DOUBLED\nbase: base\nmodels: {base: ./b, a: ./a}\n"
        "sources: {a: {weight: 0.3}}\n"
    )
    with pytest.raises(ConfigError, match="'my_merges' is not loaded; list it under `extensions:`"):
        read_recipe(recipe)
    assert "os:system" not in METHODS
    assert "my_merges" not in sys.modules
    assert capsys.readouterr().out == ""


def test_a_thing_of_another_kind_and_a_name_that_is_not_there_are_refused(mine: Path) -> None:
    load_extensions(["./my_merges.py"], mine)
    assert "expected an automerge.methods.Method, got function" in str(
        METHODS.problem("my_merges:kernel")
    )
    assert METHODS.problem("my_merges:TRIPLED") == (
        "method 'my_merges:TRIPLED': my_merges has no 'TRIPLED'"
    )
    assert SAMPLERS.problem("my_merges:chance") is None
    assert "expected a class or function" in str(SAMPLERS.problem("my_merges:DOUBLED"))


@pytest.mark.parametrize(
    ("files", "reference", "expected"),
    [
        ({}, "my_merges", "no Python module 'my_merges'"),
        ({}, "lib/my_merges.py", "no such file"),
        ({}, "my merges", "is not a module"),
        ({"my-merges.py": ""}, "./my-merges.py", "'my-merges' is not a valid module name"),
        ({"my_merges.py": "x = (\n"}, "my_merges", "my_merges.py:1: the extension cannot"),
        ({"my_merges.py": "\nx = y\n"}, "my_merges", "my_merges.py:2: the extension .* 'y'"),
        ({"my_merges.py": "raise SystemExit(0)"}, "my_merges", "my_merges.py:1: .*SystemExit"),
        ({"my_merges.py": "#" * 2_000_001}, "my_merges", "more than 2,000,000 bytes"),
        ({"p/__init__.py": "from p.q import y"}, "p", "p/__init__.py:1: .*No module named 'p.q'"),
        ({"automerge.py": ""}, "./automerge.py", "cannot be named 'automerge'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence_with_its_place(
    tmp_path: Path, files: dict[str, str], reference: str, expected: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=expected):
        load_extensions([reference], tmp_path)


def test_a_package_travels_whole_and_is_imported_where_no_file_of_it_is(tmp_path: Path) -> None:
    package = tmp_path / "here" / "my_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from my_package.inner.merge import DOUBLED\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "merge.py").write_text(SOURCE)
    extension = read_extension("my_package", package.parent)
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps(extension))
    code = (
        "import pickle, sys; from automerge.extensions import install; "
        "from automerge.methods import METHODS; "
        f"install([pickle.loads(open({str(sent)!r}, 'rb').read())]); "
        "print(METHODS['my_package:DOUBLED'].anchored)"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["imported", "True"], done.stderr


def test_a_changed_file_is_read_again_and_has_another_digest(mine: Path) -> None:
    [before] = load_extensions(["my_merges"], mine)
    old = METHODS["my_merges:DOUBLED"]
    (mine / "my_merges.py").write_text(SOURCE.replace("2.0 *", "3.0 *"))
    [after] = load_extensions(["my_merges"], mine)
    assert before.digest != after.digest
    assert METHODS["my_merges:DOUBLED"].kernel is not old.kernel
    install([after])
    assert METHODS["my_merges:DOUBLED"] is METHODS["my_merges:DOUBLED"]


def test_an_installed_package_adds_to_a_table_by_its_entry_point(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = mine / "my_merges-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-merges\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[automerge.methods]\ndoubled = my_merges:DOUBLED\nbroken = my_merges:NOTHING\n"
    )
    monkeypatch.syspath_prepend(str(mine))
    table = Table("method", METHODS.own, "automerge.methods", admit_method)
    assert table["doubled"].name == "doubled"
    assert tuple(table)[-2:] == ("doubled", "broken")
    assert "method 'broken' cannot be loaded" in str(table.problem("broken"))
    sys.modules.pop("my_merges", None)


TABLES: Mapping[str, Table[Any]] = {
    "methods": METHODS,
    "samplers": SAMPLERS.factories,
    "evaluators": EVALUATORS,
    "executors": EXECUTORS,
    "generators": GENERATORS,
}


@pytest.mark.parametrize("group", TABLES)
def test_every_table_takes_entry_points_of_its_group(
    group: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / "my_package.py").write_text(
        "from my_merges import DOUBLED as methods, chance as samplers\n"
        "from automerge.evaluation.properties import Properties as evaluators\n"
        "from automerge.executors import Launcher\n"
        "executors = Launcher(lambda start: None, in_driver=True)\n"
        "from automerge.evaluation.generation.static import StaticGenerator as generators\n"
        "nothing = 1\n"
    )
    info = mine / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[automerge.{group}]\nadded = my_package:{group}\nwrong = my_package:nothing\n"
    )
    monkeypatch.syspath_prepend(str(mine))
    table = copy.copy(TABLES[group])
    vars(table).pop("_points", None)  # what was installed when the table was first read
    assert {"added", "wrong"} <= set(table)
    assert table.problem("added") is None
    assert "expected a" in str(table.problem("wrong"))
    for name in ("my_merges", "my_package"):
        sys.modules.pop(name, None)


def test_faults_of_extensions_have_their_place_beside_those_of_the_file(mine: Path) -> None:
    config = mine / "automerge.yaml"
    config.write_text(
        "base: ./base\nmodels: {a: ./a}\ntasks: [t]\nextensions: [my_merges, my_merge]\n"
        "search: {methods: ['my_merges:DOUBLED', 'my_merges:kernel']}\nbudgt: 3\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_config(config)
    text = str(refused.value)
    assert f"{config}:4:25: no Python module 'my_merge'" in text
    assert f"{config}:5:41: method 'my_merges:kernel': expected an automerge.methods.Method" in text
    assert "unknown key 'budgt'" in text


def shown(page: str, beginning: str) -> str:
    """The Python that a page of the documentation shows, by how it begins."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (found,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if beginning in b)
    return str(found)


def test_a_generator_from_outside_keeps_the_laws_and_answers_a_study(tmp_path: Path) -> None:
    config = write_zoo(tmp_path)
    (tmp_path / "my_generator.py").write_text(shown("extensions.md", "class Plain"))
    text = config.read_text().replace(
        "evaluation: {", "evaluation: {generator: 'my_generator:Plain', "
    )
    config.write_text(text.replace("tasks: [choose, ", "tasks: [") + "extensions: [my_generator]\n")
    try:
        loaded = load_config(config)
        assert loaded.evaluation.generator == "my_generator:Plain"
        GeneratorLaws().test_texts_are_those_of_lm_eval(
            GENERATORS["my_generator:Plain"], plain_model(), False
        )
        panel = study_panel(loaded)
        live = Live(make_model("llama"), make_tokenizer(), lambda: 0.0, nullcontext)
        scored = [
            replace(panel, settings=replace(panel.settings, generator=name))
            .open(tmp_path / "run", keep=True)
            .attach(live)
            .score({"say": tuple(range(20))})
            for name in (panel.settings.generator, "continuous")
        ]
    finally:
        sys.modules.pop("my_generator", None)
    assert scored[0].scores == scored[1].scores
    assert "generated/my_generator:Plain" in scored[0].notes
    assert "generated/continuous" in scored[1].notes


def test_a_generator_that_is_not_there_is_refused_at_its_place(mine: Path) -> None:
    config = mine / "automerge.yaml"
    config.write_text(
        "base: ./base\nmodels: {a: ./a}\ntasks: [t]\nextensions: [my_merges]\n"
        "evaluation: {generator: continous}\n"
    )
    with pytest.raises(ConfigError, match=r"unknown generator 'continous'.*'continuous'"):
        load_config(config)
    config.write_text(config.read_text().replace("continous", "'my_merges:DOUBLED'"))
    with pytest.raises(
        ConfigError, match=r":5:25: generator 'my_merges:DOUBLED': expected a class"
    ):
        load_config(config)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["my_executor:WRITTEN", "ray"])
def test_a_search_with_everything_from_outside_is_resumed_only_with_the_same_modules(
    tmp_path: Path, executor: str
) -> None:
    config = write_zoo(tmp_path)
    lines = shown("evaluators.md", "class Lines")
    (tmp_path / "my_merges.py").write_text(SOURCE)
    (tmp_path / "my_lines.py").write_text(lines)
    (tmp_path / "my_executor.py").write_text(shown("extensions.md", "class Written"))
    rng = random.Random(4)
    (tmp_path / "text.txt").write_text("\n".join(phrase(rng, 3, 8) for _ in range(80)))
    text = config.read_text()
    for old, new in (
        ("[linear, task_arithmetic, ties]", "['my_merges:DOUBLED']"),
        ("{task: say, metric: exact_match}", LINES),
        ("sampler: random", "sampler: my_merges:chance"),
    ):
        assert old in text
        text = text.replace(old, new)
    text += f"extensions: [my_merges, my_lines, my_executor]\nexecutor: {executor}\n"
    config.write_text(text + ("workers: 1\n" if executor == "ray" else ""))
    done = automerge(tmp_path, "search")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "tiny"
    with Store(run, write=False) as store:
        proposed = [t for t in store.trials() if t.origin == "sampler"]
        assert {t.recipe.method for t in proposed} == {"my_merges:DOUBLED"}
        measured = store.outcomes("search").values()
        front = store.study.decided.front or ()
    assert all(isinstance(outcome, Measured) for outcome in measured)
    fluency = [o.scores["fluency"] for o in measured if isinstance(o, Measured)]
    assert len(fluency) == 9
    assert len({sum(scores.values) / len(scores.values) for scores in fluency}) == 9
    members = json.loads((run / "front.json").read_text())["members"]
    assert all(set(member["scores"]) == {"choose", "fluency"} for member in members)
    if executor != "ray":
        recipes = [line.split()[1] for line in (tmp_path / "jobs.txt").read_text().splitlines()]
        assert {t.recipe.id for t in proposed} <= set(recipes)
    first, second = sorted({t.number for t in proposed} - set(front))[:2]
    export = ("export", "runs/tiny", "--trial")
    refused = automerge(tmp_path, *export, str(first))
    assert refused.returncode == 3
    assert "pass --extension my_merges" in refused.stderr
    done = automerge(tmp_path, *export, str(first), "--extension", "my_merges")
    assert done.returncode == 0, done.stderr
    (tmp_path / "my_lines.py").write_text(lines.replace("own.mean()", "own.sum()"))
    refused = automerge(tmp_path, "search", "--budget", "12")
    assert refused.returncode == 2
    assert "extensions" in refused.stderr
    (tmp_path / "my_merges.py").write_text(SOURCE.replace("2.0 *", "3.0 *"))
    refused = automerge(tmp_path, *export, str(second), "--extension", "my_merges")
    assert refused.returncode == 3
    assert "has changed since the study began" in refused.stderr
