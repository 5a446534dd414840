"""Tiny zoos of models that are no decoders: a T5 and two neighbours, a BERT classifier and two."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path

import torch
import transformers as hf

from tests.evaluation.toys import make_encoder_decoder, phrase
from tests.zoo import save, write_tasks

LABELS = ("bad", "fine", "good")
PAGE = Path(__file__).parents[1] / "docs" / "evaluators.md"
(MODULE,) = re.findall(r"```python\n(import torch\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
"""The function that scores a classifier, as documented."""


def make_classifier(labels=LABELS, seed=0):  # type: ignore[no-untyped-def]
    config = hf.BertConfig(
        vocab_size=72,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=0,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hf.BertForSequenceClassification(config).eval()


def neighbour(model, seed):  # type: ignore[no-untyped-def]
    found = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return found


def write_models(folder: Path, model) -> None:  # type: ignore[no-untyped-def]
    save(model, folder / "base")
    for seed, name in enumerate(("left", "right"), start=1):
        save(neighbour(model, seed), folder / name)


STUDY = """\
name: tiny
base: ./base
models: {left: ./left, right: ./right}
search: {methods: [linear, task_arithmetic, ties], depth: {knots: 2}}
budget: 6
starts: 0
evaluation: {batch_size: 16, items_per_candidate: 40}
shortlist: 2
"""


def write_classifiers(folder: Path) -> Path:
    """Write base, sources, items, a module and automerge.yaml; return the configuration's path."""
    write_models(folder, make_classifier())
    rng = random.Random(2)
    rows = [{"text": phrase(rng, 3, 12), "label": rng.choice(LABELS)} for _ in range(160)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_labels.py").write_text(MODULE)
    config = folder / "automerge.yaml"
    task = '{python: "my_labels:accuracy", name: labels, items: ./items.jsonl}'
    config.write_text(f"{STUDY}extensions: [my_labels]\ntasks: [{task}]\n")
    return config


def write_encoder_decoders(folder: Path) -> Path:
    """Write base, sources, tasks and automerge.yaml; return the configuration's path."""
    write_models(folder, make_encoder_decoder("t5"))
    write_tasks(folder / "tasks")
    config = folder / "automerge.yaml"
    tasks = "[choose, {task: say, metric: exact_match}]"
    config.write_text(f"{STUDY}include_path: ./tasks\ntasks: {tasks}\n")
    return config
