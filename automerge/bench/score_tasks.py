"""Four-way choices to time scoring on: the demo's, or made up with given lengths."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from automerge import demo
from automerge.evaluation.lm_eval.task_copy import copy_tasks

TASKS = ("demo_clock", "demo_facts")
"""The demo's tasks with four choices."""
CHOICE_TASKS = (*TASKS, "demo_median")
CHOICES = 4
MAX_SHOTS = 8


@dataclass(frozen=True)
class Lengths:
    """The number of tokens before the choices of an item, and in each choice."""

    context: int
    choice: int


@contextmanager
def task_folder(
    tasks: Sequence[str] | Lengths, fewshot: int, items: int
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with tasks whose items all follow the same examples, and the tasks' names.

    Made-up items are words drawn at random.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = copy_tasks(demo.folder() / "tasks", Path(parent) / "tasks")
        if isinstance(tasks, Lengths):
            documents = folder / "made.jsonl"
            documents.write_text("\n".join(_made(tasks, items + MAX_SHOTS)), encoding="utf-8")
            (folder / "made.yaml").write_text(
                "include: demo_facts.yaml\ntask: made\n"
                f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(documents))}}}}}\n",
                encoding="utf-8",
            )
            tasks = ["made"]
        names = []
        for task in tasks:
            names.append(f"bench_{task}")
            (folder / f"{names[-1]}.yaml").write_text(
                f"include: {task}.yaml\ntask: {names[-1]}\nnum_fewshot: {fewshot}\n"
                "fewshot_split: test\nfewshot_config: {sampler: first_n}\n",
                encoding="utf-8",
            )
        yield folder, names


def _made(lengths: Lengths, count: int) -> Iterator[str]:
    draw = random.Random(0)
    words = one_token_words()

    def text(length: int) -> str:
        return " ".join(draw.choices(words, k=length))

    for _ in range(count):
        choices = [text(lengths.choice) for _ in range(CHOICES)]
        document = {"prompt": text(lengths.context), "choices": choices, "answer": choices[0]}
        yield json.dumps(document)


def one_token_words() -> list[str]:
    """Return words that are one token each to the demo's tokenizer."""
    content = json.loads((demo.BASE / "tokenizer.json").read_text(encoding="utf-8"))
    return [token[1:] for token in content["model"]["vocab"] if token[:1] == " " and token[1:]]
