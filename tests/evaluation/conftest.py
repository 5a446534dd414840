from __future__ import annotations

import os
import random

import pytest

from tests.evaluation.toys import WORDS, phrase, write_jsonl

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_datasets_cache(tmp_path_factory):
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    """Tasks of every kind the scorer knows, with data files named relative to the YAML."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data").mkdir()
    rng = random.Random(5)
    choices = [
        {
            "question": phrase(rng, 3, 12),
            "choices": [phrase(rng, 1, 5) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for _ in range(32)
    ]
    write_jsonl(folder / "data" / "choice.jsonl", choices)
    single = [{**row, "choices": list(WORDS[:4])} for row in choices]
    write_jsonl(folder / "data" / "single.jsonl", single)
    write_jsonl(
        folder / "data" / "generate.jsonl",
        [{"question": phrase(rng, 2, 10), "answer": rng.choice(WORDS)} for _ in range(24)],
    )
    write_jsonl(
        folder / "data" / "text.jsonl",
        [{"text": phrase(rng, 20, 300)} for _ in range(9)],
    )
    write_jsonl(
        folder / "data" / "word.jsonl",
        [{"context": phrase(rng, 3, 9), "word": phrase(rng, 1, 2)} for _ in range(32)],
    )

    def dataset(name):
        return (
            f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: data/{name}.jsonl\n"
            "test_split: test\n"
        )

    choice = (
        "output_type: multiple_choice\ndoc_to_text: 'Q : {{question}} A :'\n"
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    (folder / "choice.yaml").write_text(f"task: choice\n{dataset('choice')}{choice}")
    (folder / "single.yaml").write_text(f"task: single\n{dataset('single')}{choice}")
    (folder / "shots.yaml").write_text("include: choice.yaml\ntask: shots\nnum_fewshot: 2\n")
    (folder / "both.yaml").write_text(
        "group: both\ntask: [choice, single]\naggregate_metric_list:\n"
        "  - {metric: acc, aggregation: mean, weight_by_size: true}\n"
    )
    (folder / "generate.yaml").write_text(
        f"task: generate\n{dataset('generate')}output_type: generate_until\n"
        "doc_to_text: 'Q : {{question}} A :'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['.', w7], max_gen_toks: 8}\nmetric_list:\n"
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
        "filter_list:\n"
        "  - {name: first, filter: [{function: take_first}]}\n"
        "  - {name: word, filter: [{function: regex, regex_pattern: '(w[0-9]+)'}, "
        "{function: take_first}]}\n"
    )
    (folder / "rolling.yaml").write_text(
        f"task: rolling\n{dataset('text')}output_type: loglikelihood_rolling\n"
        "doc_to_text: ''\ndoc_to_target: text\nmetric_list:\n"
        "  - metric: word_perplexity\n  - metric: bits_per_byte\n"
    )
    (folder / "word.yaml").write_text(
        f"task: word\n{dataset('word')}output_type: loglikelihood\n"
        "doc_to_text: context\ndoc_to_target: ' {{word}}'\nmetric_list:\n"
        "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    return folder
