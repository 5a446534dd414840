"""Each search space that ships is searched on the demo, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import automerge
from automerge import cli, demo
from automerge.config import load_config
from automerge.space.named import NAMED
from automerge.store.store import Store
from automerge.trial import Measured

PAIRS = ("slerp_pair", "swap", "crossover")
"""Spaces for two sources."""


def study_of(name: str, out: Path) -> dict[str, Any]:
    """A study of the demo's models and one of its tasks, as small as it can be."""
    sources = list(demo.SOURCES.items())
    return {
        "base": demo.BASE,
        "models": dict(sources[:2] if name in PAIRS else sources),
        "include_path": demo.folder() / "tasks",
        "tasks": [demo.TASKS[0]],
        "search": name,
        "sampler": "random",
        "slopes": "off",
        "starts": 0,
        "budget": 6 if name in PAIRS else 8,
        "evaluation": {"items_per_candidate": 8, "batch_size": 64},
        "split": {"max_select": 16, "max_test": 16},
        "shortlist": 1,
        "export": "none",
        "out": out,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_each_is_searched_on_the_demo(name: str, tmp_path: Path) -> None:
    study = study_of(name, tmp_path / "run")
    automerge.search(study)
    with Store(tmp_path / "run", write=False) as store:
        known, outcomes = store.duplicates(), store.outcomes("search")
        proposed = [
            trial
            for trial in store.trials()
            if trial.origin == "sampler" and trial.number not in known
        ]
    assert len(proposed) == 2
    assert all(isinstance(outcomes[trial.number], Measured) for trial in proposed)
    searched = set(load_config(study).search.methods)
    assert {m for trial in proposed for m in trial.recipe.all_methods} <= searched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "starts"),
    [
        ("layers", ["start-deeper", "start-shallower"]),
        ("swap", ["start-swap-1", "start-swap-2"]),
        ("mixture", ["start-all-experts", "start-top-1", "start-top-2"]),
        ("dataflow", ["start-upscaled", "start-spliced", "start-swapped-1", "start-swapped-2"]),
    ],
)
def test_a_search_of_layers_begins_with_the_usual_ones_and_learns_from_them(
    name: str, starts: list[str], tmp_path: Path
) -> None:
    study = study_of(name, tmp_path / "run") | {"starts": 8, "budget": 14}
    automerge.search(study)
    with Store(tmp_path / "run", write=False) as store:
        found = {trial.name: trial for trial in store.trials()}
        outcomes = store.outcomes("search")
    for start in starts:
        assert isinstance(outcomes[found[start].number], Measured)
        assert found[start].params is not None


@pytest.mark.slow
def test_paths_through_the_models_of_a_first_front_are_searched(tmp_path: Path) -> None:
    """As docs/configuration.md says of HM3: weights first, then the layers of what was found."""
    automerge.search(study_of("components", tmp_path / "first"))
    with Store(tmp_path / "first", write=False) as store:
        made = [trial.name for trial in store.trials() if trial.origin == "sampler"][:2]
    for name in made:
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", str(tmp_path / "first"), "--trial", name])
        assert ended.value.code == 0
    folders = (tmp_path / "first/models" / name for name in made)
    winners = dict(zip(("one", "other"), folders, strict=True))
    study = study_of("dataflow", tmp_path / "second") | {"models": winners}
    automerge.search(study)
    with Store(tmp_path / "second", write=False) as store:
        outcomes = store.outcomes("search")
        proposed = [trial for trial in store.trials() if trial.recipe.slices]
    assert proposed
    assert all(isinstance(outcomes[trial.number], Measured) for trial in proposed)
