"""A whole search whose answers vLLM gives: `continuous`'s scores, and nothing left when killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from automerge.evaluation.generation.vllm import serve
from automerge.evaluation.generation.vllm.environment import TESTED
from automerge.store.store import Store
from automerge.testing.generators import pair_tokenizer
from automerge.trial import GENERATED, PARTS, Measured
from tests.command_line import AUTOMERGE, automerge, surroundings
from tests.evaluation.letters import letters_model, write_letters
from tests.processes import descendants, ended

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vllm")]

ITEMS = 90
CONFIG = """
name: letters
base: ./base
models: {left: ./left, right: ./right}
tasks: [{task: letters, metric: exact_match}, {task: letters, metric: output_tokens}]
include_path: ./tasks
search: {methods: [linear, task_arithmetic]}
sampler: random
executor: local
budget: 6
starts: 0
shortlist: 2
export: none
evaluation: {batch_size: 4, items_per_candidate: 30, generator: GENERATOR}
"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with heads as large as vLLM needs, and a task whose answers are those of the base."""
    folder = tmp_path_factory.mktemp("zoo")
    write_letters(folder / "tasks", ITEMS)
    for seed, name in enumerate(("base", "left", "right")):
        model, noise = letters_model(), torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            shift = torch.randn(parameter.shape, generator=noise)
            parameter.add_(shift, alpha=0.004 * bool(seed))
        model.save_pretrained(folder / name)
        pair_tokenizer().save_pretrained(folder / name)
    for name in ("continuous", "vllm"):
        (folder / f"{name}.yaml").write_text(CONFIG.replace("GENERATOR", name))
    return folder


@pytest.fixture(scope="module")
def environment(vllm: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return surroundings(HF_HOME=str(tmp_path_factory.mktemp("cache")))


def content(folder: Path) -> tuple[object, ...]:
    """What searches with unlike generators share: trials, item scores, shortlist and front."""
    with Store(folder, write=False) as store:
        decided = store.study.decided
        trials = store.trials()
    return trials, scores(folder), decided.shortlist, decided.front


def scores(folder: Path) -> dict[object, object]:
    return {key: outcome.scores for key, outcome in measured(folder).items()}


def generators(folder: Path) -> set[str]:
    """How answers were generated, as the notes of measurements say."""
    notes = {note for outcome in measured(folder).values() for note in outcome.notes}
    return {note.removeprefix(GENERATED) for note in notes if note.startswith(GENERATED)}


def measured(folder: Path) -> dict[object, Measured]:
    """Every measurement, none of which has failed, by its part and what it is of."""
    with Store(folder, write=False) as store:
        found = {(part, key): o for part in PARTS for key, o in store.outcomes(part).items()}
    assert all(isinstance(outcome, Measured) for outcome in found.values()), found
    return found


def kill(zoo: Path, environment: Mapping[str, str], name: str, after: int) -> None:
    """Start a search, kill it once it has shown so many measurements, and wait for its children."""
    child = subprocess.Popen(
        [*AUTOMERGE, "search", f"{name}.yaml", "--out", name],
        cwd=zoo,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        after -= line.startswith(("searching", "selecting", "testing"))
        if not after:
            break
    else:
        pytest.fail(f"the search ended by itself: exit status {child.wait()}")
    os.kill(child.pid, signal.SIGSTOP)
    below = descendants(child.pid)
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in below]
    os.kill(child.pid, signal.SIGKILL)
    child.stdout.close()
    child.wait()
    assert any(serve.__file__ in command for command in commands), commands
    assert all(map(ended, below))


def finish(zoo: Path, environment: Mapping[str, str], name: str) -> Path:
    """Run a search to its end, and return its run folder."""
    done = automerge(zoo, "search", f"{name}.yaml", "--out", name, environment=environment)
    assert done.returncode == 0, done.stderr
    return zoo / name


def test_a_search_by_vllm_that_is_killed_and_resumed_measures_what_continuous_does(
    zoo: Path, environment: dict[str, str]
) -> None:
    expected = finish(zoo, environment, "continuous")
    kill(zoo, environment, "vllm", after=5)
    before = scores(zoo / "vllm")
    assert 4 <= len(before) < len(scores(expected))
    found = finish(zoo, environment, "vllm")
    assert generators(expected) == {"continuous"}
    assert generators(found) == {f"vllm {TESTED}"}
    assert content(found) == content(expected)
    assert before.items() <= scores(found).items()
    right = [s["letters:exact_match"].values for s in scores(found).values()]
    assert sum(0 < sum(values) < len(values) for values in right) > len(right) // 2
