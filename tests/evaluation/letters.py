"""A generated task whose right answers are a model's own, of a model that vLLM can run, too."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedModel

from automerge.testing.generators import plain_model, reference, request

HEAD_SIZE = 32
"""The least that vLLM's attention takes."""
STOP, MOST_TOKENS = "c", 8
TASK = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["STOP"], max_gen_toks: MOST_TOKENS}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def letters_model() -> PreTrainedModel:
    """Return the model that answers the task."""
    return plain_model(HEAD_SIZE)


def write_letters(folder: Path, items: int, wrong: Collection[int] = ()) -> None:
    """Write the task, called `letters`, into a new folder.

    Args:
        folder: its parent exists.
        items: how many questions there are.
        wrong: items whose right answer is not the model's.
    """
    questions = [f"abcdea cdeabc {'abcde'[n % 5] * (1 + n // 5 % 4)} {n}" for n in range(items)]
    asked = [request(question, [STOP], MOST_TOKENS) for question in questions]
    answers = reference(letters_model(), asked)
    rows = [
        {"question": question, "answer": "wrong" if n in wrong else answer}
        for n, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    folder.mkdir()
    data = folder / "letters.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = TASK.replace("STOP", STOP).replace("MOST_TOKENS", str(MOST_TOKENS))
    (folder / "letters.yaml").write_text(text.replace("DATA", str(data)))
