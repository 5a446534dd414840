"""lm-eval tasks made of documents: the code length of each, and the right continuation of four."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

CONTINUATION_BYTES = 40
"""About how long a choice is."""
CHOICES = 4


def write_rolling(name: str, texts: Sequence[str], folder: Path) -> None:
    """Bits per byte of whole documents."""
    settings = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {
                "metric": "bits_per_byte",
                "aggregation": "bits_per_byte",
                "higher_is_better": False,
            }
        ],
    }
    _write(name, [{"text": text} for text in texts], settings, folder)


def write_choice(name: str, texts: Sequence[str], seed: int, folder: Path) -> None:
    """Which of four pieces of this domain goes on where a document was cut."""
    cut = [pair for text in texts if (pair := _halves(text)) is not None]
    draw = random.Random(seed)
    records = []
    for index, (start, end) in enumerate(cut):
        choices = [end]
        while len(choices) < CHOICES:
            other = cut[draw.randrange(len(cut))][1]
            if other not in choices:
                choices.append(other)
        draw.shuffle(choices)
        records.append({"prompt": start, "choices": choices, "answer": choices.index(end)})
        assert cut[index][1] == choices[records[-1]["answer"]]
    settings = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    _write(name, records, settings, folder)


def _halves(text: str) -> tuple[str, str] | None:
    """A document cut before a space near its middle, and about CONTINUATION_BYTES after it."""
    place = _before_word(text, len(text) // 2)
    end = _before_word(text, place + CONTINUATION_BYTES)
    if place < 0 or end < 0 or "\n" in text[place:end].strip("\n")[:8]:
        return None
    return text[:place], text[place:end]


def _before_word(text: str, start: int) -> int:
    """The first place from here on with a word before it, and one space and a word after it."""
    for place in range(start, len(text) - 1):
        if text[place] == " " and not text[place - 1].isspace() and not text[place + 1].isspace():
            return place
    return -1


def _write(
    name: str,
    records: Sequence[Mapping[str, object]],
    settings: Mapping[str, object],
    folder: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **settings,
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(whole, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
