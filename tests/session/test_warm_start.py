"""Laws of warm starts: recipes carry over to the same models, whatever those are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from automerge.errors import ConfigError, StateError
from automerge.methods import METHODS, check_recipe
from automerge.recipe import Recipe
from automerge.session.warm import warm_start
from automerge.store.record import Decided, StudyModel
from automerge.store.store import Store
from automerge.trial import BASELINES
from tests.studies import toy_study

DIGESTS = {"base": "0", "a": "1", "b": "2"}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy study that knows the digests of its models."""
    folder = toy_study(tmp_path_factory.mktemp("earlier"), 30)
    models = tuple(
        StudyModel(name, f"../{name}", None, digest, "sample") for name, digest in DIGESTS.items()
    )
    with Store(folder, write=True) as store:
        store.renew(replace(store.study.current, models=models))
    return folder


def front(folder: Path) -> dict[str, Recipe]:
    """The merges on a finished study's front, by the names they get."""
    with Store(folder, write=False) as store:
        trials = {trial.number: trial for trial in store.trials()}
        chosen = [trials[number] for number in store.study.decided.front or ()]
    return {f"warm-{t.name}": t.recipe for t in chosen if t.origin not in BASELINES}


def test_the_front_carries_over_as_it_is_to_the_same_models(earlier: Path) -> None:
    warm = warm_start(earlier, DIGESTS, 100)
    assert warm.recipes == front(earlier) != {}
    (note,) = warm.notes
    assert f"{len(warm.recipes)} of the {len(warm.recipes)} merges on the front" in note


def test_models_are_known_by_their_files_not_their_names(earlier: Path) -> None:
    renamed = warm_start(earlier, {"base": "0", "b": "1", "new": "2"}, 100)
    for name, recipe in front(earlier).items():
        names = [{"a": "b", "b": "new"}[source.name] for source in recipe.sources]
        assert [source.name for source in renamed.recipes[name].sources] == names
        assert renamed.recipes[name].base == recipe.base
    assert len(renamed.notes) == 1


def test_merges_lose_the_sources_that_are_not_here_and_that_is_said(earlier: Path) -> None:
    warm = warm_start(earlier, {"base": "another", "a": "1", "c": "3"}, 100)
    for recipe in warm.recipes.values():
        assert [source.name for source in recipe.sources] == ["a"]
        assert check_recipe(recipe, METHODS) == []
    said = "\n".join(warm.notes)
    assert "merges of b, which this study lacks, carry over without" in said
    assert "the base is another" in said


def test_no_more_than_the_limit_are_taken_from_both_ends_of_the_front(earlier: Path) -> None:
    whole = list(front(earlier))
    for limit in range(1, len(whole)):
        taken = list(warm_start(earlier, DIGESTS, limit).recipes)
        assert len(taken) == limit
        assert taken[0] == whole[0]
        assert limit == 1 or taken[-1] == whole[-1]


def test_a_study_without_a_front_yet_gives_what_is_nondominated_so_far(
    earlier: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in earlier.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    with Store(copy, write=True) as store:
        store.decide(Decided())
    assert warm_start(copy, DIGESTS, 100).recipes


def test_what_cannot_carry_over_is_refused(earlier: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can be made of these models; remove warm_start"):
        warm_start(earlier, {"base": "0", "c": "3"}, 100)
    with pytest.raises(StateError, match="contains no study"):
        warm_start(tmp_path, DIGESTS, 100)
