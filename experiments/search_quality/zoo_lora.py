"""Build the pool of ten LoRA adapters of one base, on finer kinds of text than the base's.

    OMP_NUM_THREADS=1 python -m experiments.search_quality.zoo_lora FOLDER --base TEXT_ZOO/base

Writes FOLDER/base (a copy), sources/, tasks/ (two for each kind), text/ (training documents of each
kind) and config.yaml, which asks for three of the ten kinds: the search has to find out which
adapters help, and that most do not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from experiments.demo_zoo.train import adamw, train
from experiments.search_quality.corpus import SUBDOMAINS, Domain, read_domain
from experiments.search_quality.model import BATCH, bits_per_byte, load, make_rows
from experiments.search_quality.tasks import write_choice, write_rolling
from experiments.search_quality.zoo_text import write_config, write_text

SEED = 13
RANK = 8
ITEMS = 1000
ROWS = 1_200
RATE = 4e-3
SHOWN = 60
"""Held-out documents of a kind behind a figure of scores.json."""
ASKED = ("stdlib", "torch_manual", "arrow_headers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="the base of the zoo of real text")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    seed: int = arguments.seed

    started = time.monotonic()
    for part in ("base", "sources", "tasks"):
        shutil.rmtree(folder / part, ignore_errors=True)
    shutil.copytree(arguments.base, folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    held_out = {}
    for name, parts in SUBDOMAINS.items():
        domain = read_domain(parts, seed)
        held_out[name] = domain.held_out[:SHOWN]
        write_text({name: domain}, folder / "text")
        write_rolling(f"{name}_bpb", domain.held_out[:ITEMS], folder / "tasks")
        write_choice(f"{name}_choice", domain.held_out[:ITEMS], seed, folder / "tasks")
        build_adapter(domain, tokenizer, folder / "base", folder / "sources" / name, seed)
        print(f"{name} after {time.monotonic() - started:.0f} s", flush=True)
    write_config(folder, "config", tuple(SUBDOMAINS), [f"{name}_bpb" for name in ASKED])
    write_config(folder, "choice", tuple(SUBDOMAINS), [f"{name}_choice" for name in ASKED])
    shown = scores(folder, tokenizer, held_out)
    (folder / "scores.json").write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    for name, row in shown.items():
        print(f"{name:14}", *(f"{value:.3f}" for value in row.values()))
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


def build_adapter(
    domain: Domain, tokenizer: PreTrainedTokenizerFast, base: Path, target: Path, seed: int
) -> None:
    """Train one adapter on documents of its kind."""
    torch.manual_seed(seed)
    adapter = get_peft_model(
        load(base),
        LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    rows, labels = make_rows(tokenizer, domain.train[:ROWS])
    trained = [p for p in adapter.parameters() if p.requires_grad]
    train(adapter, rows, labels, [adamw(trained, RATE)], BATCH)
    adapter.peft_config["default"].base_model_name_or_path = "../../base"
    adapter.to(torch.bfloat16).save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)


def scores(
    folder: Path, tokenizer: PreTrainedTokenizerFast, held_out: Mapping[str, tuple[str, ...]]
) -> dict[str, dict[str, float]]:
    """Bits per byte of the base and every adapter on every kind of text."""
    models = {"base": load(folder / "base")} | {
        name: PeftModel.from_pretrained(load(folder / "base"), folder / "sources" / name)
        for name in held_out
    }
    return {
        name: {kind: round(bits_per_byte(model, tokenizer, t), 4) for kind, t in held_out.items()}
        for name, model in models.items()
    }


if __name__ == "__main__":
    main()
