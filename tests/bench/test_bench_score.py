"""The scoring benchmark runs, and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from automerge.bench.score import Floor, ScoreTime
from automerge.cli import app
from automerge.errors import ConfigError
from automerge.evaluation.loglikelihood.packing import request
from tests.evaluation.toys import make_model


@pytest.fixture(autouse=True)
def _threads_and_cache_of_their_own(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_floor_runs_each_token_of_the_trie_once_and_the_head_where_it_is_read():
    requests = [request([1, 2, 3, n], [choice, 5], 99) for n in range(9) for choice in (6, 7)]
    floor = Floor.of(requests, batch_size=2)
    assert (floor.tokens, floor.scored) == (3 + 9 * 3, 9 * 3)
    model = make_model()
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda *a: seen.append(a[1][0].numel()))
    model.lm_head.register_forward_hook(lambda *a: seen.append(-a[2].shape[1]))
    floor.run(model)
    assert sum(n for n in seen if n > 0) == floor.tokens
    assert -sum(n for n in seen if n < 0) == floor.scored
    assert not model.lm_head._forward_pre_hooks


def test_medians_are_taken_of_each_number_but_differing_items_add_no_doubt():
    times = [ScoreTime(s, 1, 2, 0.5, s, 0.5, d) for s, d in ((9, 0), (3, 4), (6, 0))]
    median = ScoreTime.median(times)
    assert (median.stock, median.forward, median.differing) == (6, 6, 4)
    assert (median.ours, median.to_floor, median.to_stock) == (7, 3.5, 7 / 6)


@pytest.mark.parametrize("fewshot", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_command_prints_json_and_every_item_scores_as_in_stock_lm_eval(fewshot):
    arguments = ["--task", "demo_clock", "--items", "40", "--repeats", "1", "--json"]
    printed = CliRunner().invoke(app, ["bench", "score", *arguments, "--fewshot", str(fewshot)])
    found = json.loads(printed.stdout)
    work, median = found["work"], found["median"]
    assert (work["items"], work["requests"]) == (40, 160)
    assert work["unique_tokens"] <= work["our_tokens"] < 0.5 * work["stock_tokens"]
    assert median["differing"] == 0
    assert 0 < median["stock_forward"] < median["stock"]
    assert median["ours"] < median["stock"]


def test_command_refuses_what_it_does_not_know():
    arguments = ["--shape", "tinny", "--task", "demo_sorting", "--fewshot", "9", "--items", "0"]
    refused = CliRunner().invoke(app, ["bench", "score", *arguments])
    assert isinstance(refused.exception, ConfigError)
    assert len(refused.exception.faults) == 4
