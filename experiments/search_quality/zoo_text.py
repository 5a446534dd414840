"""Build the zoo of real text: a base, one fine-tune a domain, and two tasks a domain.

    OMP_NUM_THREADS=1 python -m experiments.search_quality.zoo_text FOLDER

The same seed, packages, number of threads and kind of processor give the same files. Writes
FOLDER/base, sources/, tasks/, the configurations config.yaml (bits per byte), choice.yaml
(accuracy), text/ (documents of each domain for evidence: of the training set, in no task) and
scores.json (bits per byte of every model on every domain).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedTokenizerFast

from experiments.demo_zoo.train import adamw, muon_and_adamw, train
from experiments.search_quality.corpus import DOMAINS, Domain, read_domain
from experiments.search_quality.model import (
    BATCH,
    bits_per_byte,
    load,
    make_base,
    make_rows,
    make_tokenizer,
)
from experiments.search_quality.tasks import write_choice, write_rolling

SEED = 11
ITEMS = 1600
"""Held-out documents of a task."""
BASE_ROWS = 4_000
"""Documents of each domain that the base is trained on."""
BASE_RATE = 4e-3
SOURCE_ROWS = 2_000
SOURCE_RATE = 8e-4
TEXT = 64
"""Documents of each domain for evidence."""
SHOWN = 300
"""Held-out documents behind a figure of scores.json."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    seed: int = arguments.seed

    started = time.monotonic()
    for part in ("base", "sources", "tasks"):
        shutil.rmtree(folder / part, ignore_errors=True)
    domains = {name: read_domain(parts, seed) for name, parts in DOMAINS.items()}
    for name, domain in domains.items():
        print(f"{name}: {len(domain.train)} documents, {len(domain.held_out)} held out", flush=True)
        write_rolling(f"{name}_bpb", domain.held_out[:ITEMS], folder / "tasks")
        write_choice(f"{name}_choice", domain.held_out[:ITEMS], seed, folder / "tasks")
    write_text(domains, folder / "text")
    tokenizer = make_tokenizer(_mixed(domains, 0, BASE_ROWS, seed))
    build_base(domains, tokenizer, folder / "base", seed)
    for name, domain in domains.items():
        print(f"{name} after {time.monotonic() - started:.0f} s", flush=True)
        build_source(domain, tokenizer, folder / "base", folder / "sources" / name, seed)
    write_config(folder, "config", tuple(domains), [f"{name}_bpb" for name in domains])
    write_config(folder, "choice", tuple(domains), [f"{name}_choice" for name in domains])
    shown = scores(folder, tokenizer, domains)
    (folder / "scores.json").write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    for name, row in shown.items():
        print(f"{name:10}", *(f"{value:.3f}" for value in row.values()), f"{sum(row.values()):.3f}")
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)


def build_base(
    domains: Mapping[str, Domain], tokenizer: PreTrainedTokenizerFast, target: Path, seed: int
) -> None:
    """Train the base on the first documents of all domains."""
    model = make_base(tokenizer, seed)
    rows, labels = make_rows(tokenizer, _mixed(domains, 0, BASE_ROWS, seed))
    train(model, rows, labels, muon_and_adamw(model, BASE_RATE), BATCH)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def build_source(
    domain: Domain, tokenizer: PreTrainedTokenizerFast, base: Path, target: Path, seed: int
) -> None:
    """Fine-tune the stored base on documents of one domain, new ones first."""
    torch.manual_seed(seed)
    model = load(base)
    texts = (domain.train[BASE_ROWS:] + domain.train)[:SOURCE_ROWS]
    rows, labels = make_rows(tokenizer, texts)
    train(model, rows, labels, [adamw(model.parameters(), SOURCE_RATE)], BATCH)
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def write_text(domains: Mapping[str, Domain], target: Path) -> None:
    """Write plain text of each domain, documents apart by blank lines."""
    target.mkdir(parents=True, exist_ok=True)
    for name, domain in domains.items():
        text = "\n\n".join(domain.train[:TEXT])
        (target / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def write_config(folder: Path, name: str, sources: Sequence[str], tasks: Sequence[str]) -> None:
    """A configuration that `automerge search` takes as it is."""
    settings = {
        "name": folder.name,
        "base": "./base",
        "models": {source: f"./sources/{source}" for source in sources},
        "include_path": "./tasks",
        "tasks": list(tasks),
        "search": {
            "methods": ["task_arithmetic", "dare_ties"],
            "depth": {"knots": 2},
            "components": ["attention", "mlp", "other"],
            "weight": [-0.5, 1.5],
            "density": [0.1, 1],
            "shared": ["density"],
        },
        "evaluation": {"batch_size": 64, "items_per_candidate": 50},
        "split": {"max_select": 150, "max_test": 300},
    }
    text = yaml.safe_dump(settings, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def scores(
    folder: Path, tokenizer: PreTrainedTokenizerFast, domains: Mapping[str, Domain]
) -> dict[str, dict[str, float]]:
    """Bits per byte of the base, the sources and their plain average on every domain."""
    held_out = {name: domain.held_out[:SHOWN] for name, domain in domains.items()}
    models = {"base": load(folder / "base")}
    models |= {name: load(folder / "sources" / name) for name in domains}
    average = load(folder / "base")
    states = [models[name].state_dict() for name in domains]
    average.load_state_dict(
        {key: torch.stack([s[key] for s in states]).mean(dim=0) for key in states[0]}
    )
    models["average"] = average
    return {
        name: {d: round(bits_per_byte(model, tokenizer, t), 4) for d, t in held_out.items()}
        for name, model in models.items()
    }


def _mixed(domains: Mapping[str, Domain], start: int, end: int, seed: int) -> list[str]:
    """The same share of every domain, in one random order."""
    texts = [text for domain in domains.values() for text in domain.train[start:end]]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    return [texts[i] for i in order]


if __name__ == "__main__":
    main()
