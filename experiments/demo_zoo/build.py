"""Build the demo zoo from a seed: train the models and write the items.

    OMP_NUM_THREADS=1 python -m experiments.demo_zoo.build

The same seed, number of threads and library versions on the same kind of processor give the
same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from automerge import demo
from experiments.demo_zoo.data import SKILLS, Skill, test_items
from experiments.demo_zoo.train import (
    adamw,
    make_base,
    make_rows,
    make_tokenizer,
    muon_and_adamw,
    shuffled,
    train,
)

SEED = 7
ITEMS_PER_TASK = 2000
VOCABULARY_EXAMPLES = 20_000
BATCH = 96
BASE_ROWS = {"sorting": 4_320, "clock": 22_680, "median": 5_400, "facts": 21_600}
BASE_LEARNING_RATE = 3e-3
REPLAY = 0.5
"""Rows of the base's corpus a fine-tune sees, as a share of its own."""


@dataclass(frozen=True)
class FineTune:
    """How a source is trained from the base; `lora_rank` 0 trains every weight."""

    rows: int
    learning_rate: float
    lora_rank: int = 0


FINE_TUNES = {
    "sorting": FineTune(4_000, 3e-4),
    "clock": FineTune(5_000, 3e-4),
    "median": FineTune(6_000, 1.5e-3, lora_rank=8),
    "facts": FineTune(22_000, 4e-4),
}


def load_rounded(folder: Path) -> LlamaForCausalLM:
    """The shipped bfloat16 weights, held in float32 to train on."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build_base(tokenizer: PreTrainedTokenizerFast, target: Path, seed: int) -> None:
    model = make_base(tokenizer, seed)
    rows, labels = shuffled([make_rows(tokenizer, BASE_ROWS, seed, narrow=True)], seed)
    train(model, rows, labels, muon_and_adamw(model, BASE_LEARNING_RATE), BATCH)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def build_source(
    name: str, tokenizer: PreTrainedTokenizerFast, base: Path, target: Path, seed: int
) -> None:
    """Fine-tune the shipped base on one whole skill, with some of the base's corpus beside it."""
    recipe = FINE_TUNES[name]
    torch.manual_seed(seed)
    model = load_rounded(base)
    replayed = {
        skill: round(REPLAY * recipe.rows * count / sum(BASE_ROWS.values()))
        for skill, count in BASE_ROWS.items()
    }
    rows, labels = shuffled(
        [
            make_rows(tokenizer, {name: recipe.rows}, seed + 1, narrow=False),
            make_rows(tokenizer, replayed, seed + 2, narrow=True),
        ],
        seed,
    )
    if not recipe.lora_rank:
        optimizer = adamw(model.parameters(), recipe.learning_rate)
        train(model, rows, labels, [optimizer], BATCH)
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)
        return
    adapter = get_peft_model(
        model,
        LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=2 * recipe.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trained = [p for p in adapter.parameters() if p.requires_grad]
    train(adapter, rows, labels, [adamw(trained, recipe.learning_rate)], BATCH)
    adapter.peft_config["default"].base_model_name_or_path = "../../base"
    adapter.to(torch.bfloat16).save_pretrained(target)
    (target / "README.md").unlink()


def build_task(skill: Skill, folder: Path, seed: int, count: int = ITEMS_PER_TASK) -> None:
    """Write the items of one skill and the lm-eval task that asks them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"demo_{skill.name}"
    items = test_items(skill, count, seed)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        for item in items:
            record: dict[str, object] = {"prompt": item.prompt, "answer": item.answer}
            if item.choices:
                record["choices"] = item.choices
            lines.write(json.dumps(record, separators=(",", ":")) + "\n")
    settings: dict[str, object] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": skill.delimiter,
    }
    if items[0].choices:
        metric = "acc"
        settings |= {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "{{choices.index(answer)}}",
        }
    else:
        metric = "exact_match"
        settings |= {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
        }
    settings |= {
        "num_fewshot": 0,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(settings, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=demo.folder())
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--fresh", action="store_true", help="train again what is there already")
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed

    started = time.monotonic()
    if arguments.fresh:
        for part in ("base", "sources", "tasks"):
            shutil.rmtree(out / part, ignore_errors=True)
    for skill in SKILLS.values():
        build_task(skill, out / "tasks", seed)
    tokenizer = make_tokenizer(VOCABULARY_EXAMPLES, seed)
    if not (out / "base").is_dir():
        build_base(tokenizer, out / "base", seed)
    for name in FINE_TUNES:
        if not (out / "sources" / name).is_dir():
            print(f"{name} after {time.monotonic() - started:.0f} s", flush=True)
            build_source(name, tokenizer, out / "base", out / "sources" / name, seed)
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
