"""A search with noise, its continuation, and an export rebuilt from its recipe alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from automerge.config import load_config
from automerge.errors import ConfigError
from automerge.store.store import Store
from tests.command_line import surroundings
from tests.forked import automerge
from tests.zoo import write_zoo

NOISE = "noise:rank=2,seed=3,scale=0.05"
ADAPTER = "adapter: ./adapter"


def with_noise(folder: Path, instead: str) -> Path:
    config = write_zoo(folder)
    text = config.read_text().replace("linear, task_arithmetic, ties", "ties")
    config.write_text(text.replace(ADAPTER, instead))
    return config


@pytest.mark.slow
def test_a_search_with_noise_goes_on_and_its_exports_are_rebuilt_bit_for_bit(
    tmp_path: Path,
) -> None:
    with_noise(tmp_path, f'wander: "{NOISE}"')
    environment = surroundings(XDG_CACHE_HOME=str(tmp_path / "cache"))

    def run(*arguments: str) -> str:
        done = automerge(tmp_path, *arguments, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    search = ("search", "automerge.yaml", "--out", "run", "--export", "none")
    run(*search, "--budget", "5")
    run(*search, "--budget", "7")
    with Store(tmp_path / "run", write=False) as store:
        trials = store.trials()
    names = {trial.name for trial in trials}
    assert {"left", "right", "uniform"} < names
    assert "wander" not in names
    proposed = [trial for trial in trials if trial.origin == "sampler"]
    assert all("wander" in trial.recipe.models for trial in proposed)
    assert proposed
    run("export", "run", "--trial", str(proposed[-1].number))
    exported = tmp_path / "run" / "models" / proposed[-1].name
    assert NOISE in (exported / "recipe.yaml").read_text()
    assert "mergekit has no noise" in (exported / "mergekit.yaml").read_text()
    for file in (tmp_path / "cache" / "automerge" / "noise").rglob("*.*"):
        file.unlink()
    run("merge", str(exported / "recipe.yaml"), "--out", "again")
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (exported / weights).read_bytes()


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ('wander: "noise:rank=0"', "a rank from 1 to"),
        (f'wander: "{NOISE}", again: "noise:seed=3,rank=2,scale=0.05"', "list each model once"),
    ],
)
def test_noise_that_is_wrong_is_refused_where_it_was_written(
    instead: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(with_noise(tmp_path, instead))
    assert caught.value.faults[0].location is not None


def test_noise_alone_is_refused(tmp_path: Path) -> None:
    config = with_noise(tmp_path, f'wander: "{NOISE}"')
    config.write_text(config.read_text().replace("left: ./left, right: ./right, ", ""))
    with pytest.raises(ConfigError, match="all sources are noise"):
        load_config(config)
