"""A tiny zoo on disk: a random Llama, two neighbours, an adapter, and two tasks of 160 items."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from tests.evaluation.toys import WORDS, make_model, make_tokenizer, phrase

ITEMS = 160


def write_zoo(folder: Path) -> Path:
    """Write base, sources, tasks and automerge.yaml; return the configuration's path."""
    save(make_model("llama", 0), folder / "base")
    for seed, name in enumerate(("left", "right"), start=1):
        save(neighbour(seed), folder / name)
    write_adapter(folder / "adapter")
    write_tasks(folder / "tasks")
    config = folder / "automerge.yaml"
    config.write_text(
        "name: tiny\n"
        "base: ./base\n"
        "models: {left: ./left, right: ./right, adapter: ./adapter}\n"
        "tasks: [choose, {task: say, metric: exact_match}]\n"
        "include_path: ./tasks\n"
        "search: {methods: [linear, task_arithmetic, ties], depth: {knots: 2}}\n"
        "sampler: random\n"
        "budget: 9\nstarts: 0\n"
        "evaluation: {batch_size: 16, items_per_candidate: 40}\n"
        "shortlist: 3\n"
    )
    return config


def neighbour(seed: int):  # type: ignore[no-untyped-def]
    model = make_model("llama", 0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def save(model, folder: Path) -> None:  # type: ignore[no-untyped-def]
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def write_adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    adapted = get_peft_model(make_model("llama", 0), settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
    adapted.save_pretrained(folder)


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(3)
    choose = [
        {
            "question": phrase(rng, 3, 8),
            "choices": [phrase(rng, 1, 3) for _ in range(3)],
            "answer": rng.randrange(3),
        }
        for _ in range(ITEMS)
    ]
    say = [{"question": phrase(rng, 3, 8), "answer": rng.choice(WORDS)} for _ in range(ITEMS)]
    for name, rows in (("choose", choose), ("say", say)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    for name, body in (
        (
            "choose",
            "output_type: multiple_choice\ndoc_to_text: 'Q : {{question}} A :'\n"
            "doc_to_choice: choices\ndoc_to_target: answer\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        ),
        (
            "say",
            "output_type: generate_until\ndoc_to_text: 'Q : {{question}} A :'\n"
            "doc_to_target: answer\n"
            "generation_kwargs: {until: ['.'], max_gen_toks: 3}\n"
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
        ),
    ):
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs:\n"
            f"  data_files: {{test: {name}.jsonl}}\ntest_split: test\n{body}"
        )
