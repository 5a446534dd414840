"""Every kind of task and metric: scored item by item as lm-eval does, or refused before the search.

`python -m tests.evaluation.test_conformity` writes what is found into docs/tasks.md.
"""

# ruff: noqa: E501  tables of task files

from __future__ import annotations

import csv
import gzip
import json
import random
import tempfile
from pathlib import Path

import pytest

from automerge.errors import PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.isolation import isolated
from automerge.evaluation.lm_eval.scorer import LmEvalScorer
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from automerge.objective import estimate
from tests.evaluation.stock import stock
from tests.evaluation.toys import WORDS, make_model, make_tokenizer, phrase, write_jsonl

DATA = (
    "dataset_path: json\ndataset_kwargs: {data_files: {test: data/rows.jsonl}}\ntest_split: test\n"
)
CHOICE = (
    f"{DATA}output_type: multiple_choice\ndoc_to_text: 'Q : {{{{question}}}} A :'\n"
    "doc_to_choice: choices\ndoc_to_target: answer\n"
)
GENERATE = (
    f"{DATA}output_type: generate_until\ndoc_to_text: 'Q : {{{{question}}}} A :'\n"
    "doc_to_target: '{{choices[answer]}}'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 6}\n"
)
WORD = (
    f"{DATA}output_type: loglikelihood\ndoc_to_text: question\n"
    "doc_to_target: ' {{choices[0]}}'\n"
)
ROLLING = f"{DATA}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: question\n"


def metric(name):
    return f"metric_list: [{{metric: {name}}}]\n"


REGEX = (
    "filter_list:\n  - {name: first, filter: [{function: take_first}]}\n"
    "  - {name: word, filter: [{function: regex, regex_pattern: '(w[0-9])'},"
    " {function: take_first}]}\n"
)
VOTE = "repeats: 3\nfilter_list:\n  - {name: vote, filter: [{function: majority_vote},"
VOTE += " {function: take_first}]}\n"
KINDS = {
    **{
        f"multiple_choice, {name}": (CHOICE + metric(name), name)
        for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "f1", "mcc",
                     "brier_score", "likelihood", "bypass")
    },
    "multiple_choice, default metrics": (CHOICE, None),
    "multiple_choice, choices as a list": (
        CHOICE.replace("doc_to_choice: choices", "doc_to_choice: [w1, w2, w3, w4]"), "acc"),
    "multiple_choice, choices as a mapping": (
        CHOICE.replace("doc_to_choice: choices", "doc_to_choice: {a: w1, b: w2 w3, c: w4, d: w5}"),
        "acc"),
    "multiple_choice, choices as a template": (
        CHOICE.replace("doc_to_choice: choices", "doc_to_choice: '{{choices[:4]}}'"), "acc_norm"),
    "multiple_choice, a target that is a choice": (
        CHOICE.replace("doc_to_target: answer", "doc_to_target: '{{choices[answer]}}'"), "acc"),
    "multiple_choice, a target that is not a choice": (
        CHOICE.replace("doc_to_target: answer", "doc_to_target: 'nothing'"), "acc"),
    "multiple_choice, several targets": (
        CHOICE.replace("doc_to_target: answer", "doc_to_target: '{{[answer, 0]}}'"), "acc"),
    "multiple_choice, contexts as choices": (
        CHOICE.replace("doc_to_text: 'Q : {{question}} A :'", "doc_to_text: answer")
        .replace("doc_to_target: answer", "doc_to_target: question"), "acc"),
    "multiple_choice, description, examples, gen_prefix": (
        CHOICE + "description: 'w3 w4 . '\ngen_prefix: 'w5'\nnum_fewshot: 2\nfewshot_config: "
        "{sampler: first_n}\n", "acc"),
    **{
        f"generate_until, {name}": (GENERATE + metric(name), name)
        for name in ("exact_match", "bleu", "chrf", "chrf++", "ter", "bypass")
    },
    "generate_until, two filters": (GENERATE + metric("exact_match") + REGEX, "exact_match,word"),
    "generate_until, repeats and a vote": (GENERATE + metric("exact_match") + VOTE, "exact_match"),
    "generate_until, several targets": (
        GENERATE.replace("'{{choices[answer]}}'", "choices") + metric("exact_match"), "exact_match"),
    "generate_until, an empty target": (
        GENERATE.replace("'{{choices[answer]}}'", "''") + metric("exact_match"), "exact_match"),
    "generate_until, options of a metric": (
        GENERATE + "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true,"
        " ignore_case: true, ignore_punctuation: true, regexes_to_ignore: ['w1']}]\n",
        "exact_match"),
    "generate_until, median": (
        GENERATE + "metric_list: [{metric: exact_match, aggregation: median, "
        "higher_is_better: true}]\n", "exact_match"),
    "generate_until, choices": (
        GENERATE.replace("'{{choices[answer]}}'", "answer") + "doc_to_choice: choices\n",
        "exact_match"),
    "loglikelihood, perplexity": (WORD, "perplexity"),
    "loglikelihood, acc": (WORD, "acc"),
    **{
        f"loglikelihood_rolling, {name}": (ROLLING, name)
        for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
    },
    "group, weighted by size": ("GROUP true", "acc"),
    "group, mean of means": ("GROUP false", "acc"),
    "group, perplexities": ("GROUP perplexity", "word_perplexity"),
    "group, a metric that it does not aggregate": ("GROUP none", "acc"),
    "group within a group, weighted by size": ("NESTED true", "acc"),
    "group within a group, mean of means": ("NESTED false", "acc"),
    "tag": ("TAG", "acc"),
    **{
        f"class, {what}": (f"class: !function classes.{name}\n{body}", metric)
        for what, name, body, metric in (
            ("judging multiple_choice itself", "Judging", CHOICE, "margin"),
            ("with requests and metrics of its own", "Asking", GENERATE, "contains"),
            ("with requests of two kinds", "Mixed", GENERATE, "both"),
            ("with an aggregate of its own", "Largest", CHOICE, "margin"),
            ("that takes no configuration", "Alone", CHOICE, "acc"),
        )
    },
}  # fmt: skip

SOURCES = {
    "json, one file": "dataset_path: json\ndataset_kwargs: {data_files: data/rows.jsonl}",
    "json, a list": "dataset_path: json\ndataset_kwargs: {data_files: [data/rows.jsonl]}",
    "json, a pattern": "dataset_path: json\ndataset_kwargs: {data_files: 'data/row?.jsonl'}",
    "json, each split": "dataset_path: json\ndataset_kwargs: {data_files: {train: [data/rows.jsonl]}}",
    "json, a field": "dataset_path: json\ndataset_kwargs: {data_files: data/field.json, field: a}",
    "json, compressed": "dataset_path: json\ndataset_kwargs: {data_files: data/rows.jsonl.gz}",
    "csv": "dataset_path: csv\ndataset_kwargs: {data_files: data/rows.csv}",
    "csv, a separator": "dataset_path: csv\ndataset_kwargs: {data_files: data/rows.tsv, sep: \"\\t\"}",
    "parquet": "dataset_path: parquet\ndataset_kwargs: {data_files: data/rows.parquet}",
    "arrow": "dataset_path: arrow\ndataset_kwargs: {data_files: data/rows.arrow}",
    "json, a folder of data": "dataset_path: json\ndataset_kwargs: {data_dir: only}",
    "json, files in a folder of data":
        "dataset_path: json\ndataset_kwargs: {data_dir: data, data_files: rows.jsonl}",
    "a folder": "dataset_path: ./only",
    "a folder of data here": "dataset_path: json\ndataset_kwargs: {data_dir: ., data_files: a.jsonl}",
}  # fmt: skip


CLASSES = """
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask


class Configured(ConfigurableTask):
    def __init__(self, config):
        super().__init__(config={k: v for k, v in config.items() if k != "class"})


class Judging(Configured):
    def process_results(self, doc, results):
        scores = sorted((score for score, _ in results), reverse=True)
        return {"margin": scores[0] - scores[1], "first": float(doc["answer"] == 0)}

    def aggregation(self):
        return {"margin": mean, "first": mean}

    def higher_is_better(self):
        return {"margin": True, "first": True}


class Largest(Judging):
    def aggregation(self):
        return {"margin": max, "first": mean}


class Asking(Configured):
    def construct_requests(self, doc, ctx, **kwargs):
        kwargs.pop("apply_chat_template", None), kwargs.pop("chat_template", None)
        options = {"until": ["w1"], "max_gen_toks": 4}
        return Instance("generate_until", doc, (ctx + " w2", options), 0, **kwargs)

    def process_results(self, doc, results):
        return {"contains": float("w" in results[0]) + len(results[0]) / 100}

    def aggregation(self):
        return {"contains": np.mean}

    def higher_is_better(self):
        return {"contains": True}


class Mixed(Asking):
    def construct_requests(self, doc, ctx, **kwargs):
        kwargs.pop("apply_chat_template", None), kwargs.pop("chat_template", None)
        options = {"until": ["."], "max_gen_toks": 3}
        return [
            Instance("generate_until", doc, (ctx, options), 0, **kwargs),
            Instance("loglikelihood", doc, (ctx, " " + doc["choices"][0]), 1, **kwargs),
        ]

    def process_results(self, doc, results):
        return {"both": len(results[0]) + results[1][0]}

    def aggregation(self):
        return {"both": mean}

    def higher_is_better(self):
        return {"both": True}


class Alone(ConfigurableTask):
    def __init__(self):
        super().__init__(config={
            "task": "alone", "dataset_path": "json", "test_split": "train",
            "dataset_kwargs": {"data_files": "DATA/rows.jsonl"},
            "output_type": "multiple_choice", "doc_to_text": "{{question}}",
            "doc_to_choice": "choices", "doc_to_target": "answer",
        })
"""
PARTS = {"a": ("a.jsonl", 12), "b": ("b.jsonl", 4), "c": ("c.jsonl", 1)}
"""Tasks of the groups: their data and how many rows of them."""


def write(folder):
    import datasets

    rng = random.Random(7)
    rows = [
        {
            "question": phrase(rng, 3, 12),
            "choices": [*rng.sample(WORDS, 3), phrase(rng, 1, 3)],
            "answer": rng.randrange(4),
        }
        for _ in range(16)
    ]
    data = folder / "data"
    for name in (data, folder / "only"):
        name.mkdir(parents=True)
    for path in (data / "rows.jsonl", folder / "only" / "x.jsonl", folder / "a.jsonl"):
        write_jsonl(path, rows)
    (data / "field.json").write_text(json.dumps({"a": rows}))
    with gzip.open(data / "rows.jsonl.gz", "wb") as stream:
        stream.write((data / "rows.jsonl").read_bytes())
    flat = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    for name, separator in (("rows.csv", ","), ("rows.tsv", "\t")):
        with (data / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["question", "answer"], delimiter=separator)
            writer.writeheader()
            writer.writerows(flat)
    made = datasets.Dataset.from_list(flat)
    made.to_parquet(data / "rows.parquet")
    made.save_to_disk(folder / "saved")
    (next((folder / "saved").glob("*.arrow"))).rename(data / "rows.arrow")
    for path in (folder / "saved").iterdir():
        path.unlink()
    (folder / "classes.py").write_text(CLASSES.replace("DATA", str(data)))
    for part, (name, size) in enumerate(PARTS.values()):
        write_jsonl(data / name, rows[part : part + size])
    for i, (body, _) in enumerate(KINDS.values()):
        name, text = f"kind{i}", f"task: kind{i}\n{body}"
        if not body.startswith(("GROUP", "NESTED", "TAG")):
            (folder / f"{name}.yaml").write_text(text)
            continue
        kind, _, more = body.partition(" ")
        leaf = ROLLING if more == "perplexity" else CHOICE + metric("acc")
        for part, (part_rows, _) in PARTS.items():
            tag = f"tag: [{name}]\n" if kind == "TAG" else ""
            own = leaf.replace("rows.jsonl", part_rows)
            (folder / f"{name}{part}.yaml").write_text(f"task: {name}{part}\n{tag}{own}")
        inner = f"[{name}a, {name}b, {name}c]"
        if kind == "NESTED":
            inner = (
                f"[{name}a, {{group: {name}inner, task: [{name}b, {name}c], "
                f"aggregate_metric_list: [{{metric: acc, weight_by_size: true}}]}}]"
            )
        if kind != "TAG":
            weight = more if more in ("true", "false") else "true"
            listed = "word_perplexity" if more == "perplexity" else "acc"
            aggregated = f"  - {{metric: {listed}, aggregation: mean, weight_by_size: {weight}}}\n"
            aggregated = f"aggregate_metric_list:\n{aggregated}" if more != "none" else ""
            (folder / f"{name}.yaml").write_text(f"group: {name}\ntask: {inner}\n{aggregated}")
    for i, source in enumerate(SOURCES.values()):
        (folder / f"source{i}.yaml").write_text(
            f"task: source{i}\n{source}\ntest_split: train\noutput_type: multiple_choice\n"
            "doc_to_text: 'Q : {{question}} A :'\ndoc_to_choice: [w1, w2, w3, w4]\n"
            f"doc_to_target: answer\n{metric('acc_norm')}"
        )
    return folder


def evaluated(lm, manager, folder, name):
    from lm_eval import simple_evaluate

    with stock(folder):
        return simple_evaluate(model=lm, tasks=[name], task_manager=manager, bootstrap_iters=0)


EQUAL = "those of lm-eval"


def outcome(model, lm, manager, folder, name, wanted):
    """What becomes of one kind: what the table says, else why it is refused otherwise."""
    try:
        settings = Settings(folder, allow_task_code=True)
        task_set = load_tasks([TaskSpec(name, wanted, direction="maximize")], settings)
        scorer = LmEvalScorer(model, make_tokenizer(), task_set, batch_size=8)
    except PreflightError as error:
        return "refused by name" if name in str(error) else str(error)
    items = {task: tuple(range(len(docs))) for task, docs in task_set.documents().items()}
    (objective,) = task_set.objectives
    results = evaluated(lm, manager, folder, name)
    got = scorer.score(items).scores[objective.name]
    expected = {
        (task, row["doc_id"]): row[objective.metric]
        for task, rows in results["samples"].items()
        for row in rows
        if row["filter"] == objective.filter
    }
    assert set(got.items) == set(expected)
    for place, item in enumerate(got.items):
        value = expected[item]
        value = value[0] if isinstance(value, tuple) else value
        assert got.values[place] == pytest.approx(value, abs=1e-4 * (1 + abs(value) / 50)), item
    whole = results.get("groups", {}).get(name, results["results"].get(name, {}))
    stated = whole.get(f"{objective.metric},{objective.filter}")
    if stated is None:
        return "those of lm-eval, which gives no value of all items"
    assert estimate(got, objective.aggregation).value == pytest.approx(stated, rel=1e-4)
    return EQUAL


def make(folder):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    copied = copy_tasks(write(folder / "mine"), folder / "run" / "tasks")
    model = make_model()
    with isolated():
        lm = HFLM(pretrained=model, tokenizer=make_tokenizer(), batch_size=8,
                  softmax_dtype="float32")  # fmt: skip
        manager = TaskManager(include_path=str(copied), include_defaults=False)
    return model, lm, manager, copied


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


ALL = {kind: (f"kind{i}", wanted) for i, (kind, (_, wanted)) in enumerate(KINDS.items())}
ALL |= {f"data: {source}": (f"source{i}", "acc_norm") for i, source in enumerate(SOURCES)}
MARKS = ("<!-- kinds -->\n", "\n<!-- end -->")
DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"


def documented():
    """What the document's table says of each kind."""
    rows = DOCUMENT.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].splitlines()[2:]
    return dict(row.strip("| ").split(" | ") for row in rows)


@pytest.mark.sample(8)
@pytest.mark.parametrize("kind", ALL)
def test_each_kind_is_scored_as_lm_eval_scores_it_or_refused_by_name(kind, made):
    assert outcome(*made, *ALL[kind]) == documented()[kind]


def test_the_documents_table_has_every_kind_and_no_other():
    assert list(documented()) == list(ALL)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made_here:
        scene = make(Path(made_here))
        found = {kind: outcome(*scene, *ALL[kind]) for kind in ALL}
    rows = ["| kind | item scores |", "|---|---|", *(f"| {k} | {v} |" for k, v in found.items())]
    before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    DOCUMENT.write_text(before + MARKS[0] + "\n".join(rows) + MARKS[1] + after)
