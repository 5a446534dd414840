"""The shipped demo zoo keeps what its README promises."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import datasets
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from automerge import demo
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from experiments.demo_zoo import build, data, score, train

MAX_BYTES = 6_000_000
FULL_SOURCES = [
    name for name, folder in demo.SOURCES.items() if not (folder / "adapter_config.json").is_file()
]
LORA_SOURCES = [name for name in demo.SOURCES if name not in FULL_SOURCES]


def load_items(name: str) -> list[dict[str, object]]:
    lines = (demo.folder() / "tasks" / f"demo_{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def load_model(name: str) -> LlamaForCausalLM:
    if name in LORA_SOURCES:
        model = AutoModelForCausalLM.from_pretrained(demo.BASE, dtype=torch.float32)
        return PeftModel.from_pretrained(model, demo.SOURCES[name]).merge_and_unload()
    folder = demo.BASE if name == "base" else demo.SOURCES[name]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_size() -> None:
    files = [path for path in demo.folder().rglob("*") if path.is_file()]
    shipped = [path for path in files if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in shipped) <= MAX_BYTES


@pytest.mark.parametrize("folder", [demo.BASE, *(demo.SOURCES[name] for name in FULL_SOURCES)])
def test_full_models_load_as_bfloat16(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.dtype == torch.bfloat16
    assert 450_000 <= model.num_parameters() <= 700_000
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == (
        AutoTokenizer.from_pretrained(demo.BASE).get_vocab()
    )


def test_one_source_is_a_lora_adapter_of_the_base() -> None:
    assert len(LORA_SOURCES) == 1
    folder = demo.SOURCES[LORA_SOURCES[0]]
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert (folder / settings["base_model_name_or_path"]).resolve() == demo.BASE
    assert (folder / "adapter_model.safetensors").is_file()


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", demo.SOURCES)
def test_items_are_distinct_and_held_out(name: str) -> None:
    skill = data.SKILLS[name]
    items = load_items(name)
    prompts = {str(item["prompt"]) for item in items}
    assert len(items) == len(prompts) >= 2000
    assert all(data.held_out(skill, prompt) for prompt in prompts)
    base_rows, source_rows = build.BASE_ROWS[name], build.FINE_TUNES[name].rows
    for seed, narrow, count in (
        (build.SEED, True, base_rows),
        (build.SEED + 1, False, source_rows),
        (build.SEED + 2, True, base_rows),
    ):
        trained = islice(data.training_stream(skill, seed, narrow), count)
        assert prompts.isdisjoint(example.prompt for example in trained)


@pytest.mark.parametrize("name", demo.SOURCES)
def test_each_item_has_one_right_answer(name: str) -> None:
    for item in load_items(name):
        choices = item.get("choices")
        if isinstance(choices, list):
            assert choices.count(item["answer"]) == 1
            assert len(set(choices)) == len(choices)


def test_tokens_of_a_prompt_begin_the_tokens_of_its_answer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.BASE)
    for name, skill in data.SKILLS.items():
        for item in load_items(name)[:200]:
            prompt = str(item["prompt"])
            text = f"{prompt}{skill.delimiter}{item['answer']}\n"
            ids = tokenizer(text)["input_ids"]
            head = tokenizer(prompt)["input_ids"]
            assert ids[: len(head)] == head
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids
            assert len(ids) <= train.ROW_TOKENS


@pytest.mark.filterwarnings("default")
def test_lm_eval_builds_requests_from_the_folder_that_holds_the_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    from lm_eval.tasks import TaskManager

    folder = copy_tasks(demo.folder() / "tasks", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    assert set(demo.TASKS) <= set(manager.all_tasks)
    loaded = manager.load(list(demo.TASKS))["tasks"]
    tokenizer = AutoTokenizer.from_pretrained(demo.BASE)
    for name, task in loaded.items():
        task.build_all_requests(limit=20)
        kinds = {request.request_type for request in task.instances}
        wanted = "generate_until" if name == "demo_sorting" else "loglikelihood"
        assert kinds == {wanted}
        for request in task.instances:
            context, continuation = request.args
            if wanted == "loglikelihood":
                head = tokenizer(context)["input_ids"]
                assert tokenizer(context + continuation)["input_ids"][: len(head)] == head


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", demo.SOURCES)
def test_source_beats_base_on_its_own_skill(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.BASE)
    items = [
        data.Example(str(i["prompt"]), str(i["answer"]), tuple(i.get("choices", ())))  # type: ignore[arg-type]
        for i in load_items(name)[:300]
    ]
    own = score.accuracy(load_model(name), tokenizer, data.SKILLS[name], items)
    base = score.accuracy(load_model("base"), tokenizer, data.SKILLS[name], items)
    assert own >= base + 0.10
