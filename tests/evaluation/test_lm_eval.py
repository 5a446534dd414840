"""What the evaluation relies on in lm-eval beyond its documented interface.

A release that changes one of these would change scores, or break on the first candidate; here it
says so by name.
"""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from lm_eval import evaluator
from lm_eval import utils as lm_eval_utils
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.models import utils as model_utils
from lm_eval.models.huggingface import HFLM

from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.isolation import FEWSHOT_SEED, NUMPY_SEED, PYTHON_SEED, TORCH_SEED
from automerge.evaluation.lm_eval.task_copy import copy_tasks
from automerge.evaluation.lm_eval.tasks import TaskSpec, load_tasks
from tests.evaluation.toys import make_model, make_tokenizer

USED = {
    HFLM.__init__: ("pretrained", "tokenizer", "batch_size", "max_length", "softmax_dtype"),
    HFLM._encode_pair: ("context", "continuation"),
    HFLM.tok_encode: ("string", "add_special_tokens"),
    HFLM.tok_batch_encode: ("strings", "left_truncate_len"),
    HFLM.generate_until: ("requests", "disable_tqdm"),
    HFLM.apply_chat_template: ("chat_history",),
    Task.build_all_requests: (
        "limit",
        "rank",
        "world_size",
        "system_instruction",
        "apply_chat_template",
        "fewshot_as_multiturn",
        "chat_template",
        "tokenizer_name",
    ),
    Task.set_fewshot_seed: ("seed",),
    Task.set_config: ("key", "value", "update"),
    Task.get_config: ("key",),
    ConfigurableTask.process_results: ("doc", "results"),
    model_utils.normalize_gen_kwargs: ("gen_kwargs", "default_max_gen_toks"),
    lm_eval_utils.get_rolling_token_windows: (
        "token_list",
        "prefix_token",
        "max_seq_len",
        "context_len",
    ),
    lm_eval_utils.make_disjoint_window: ("pair",),
}


@pytest.mark.parametrize("function", USED, ids=lambda function: function.__qualname__)
def test_functions_take_the_arguments_we_give(function):
    missing = set(USED[function]) - set(inspect.signature(function).parameters)
    assert not missing


def test_default_seeds_are_those_we_set():
    parameters = inspect.signature(evaluator.simple_evaluate).parameters
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    ours = (PYTHON_SEED, NUMPY_SEED, TORCH_SEED, FEWSHOT_SEED)
    assert tuple(parameters[name].default for name in seeds) == ours


def test_instances_hold_the_fields_we_fill():
    fields = {field.name for field in dataclasses.fields(Instance)}
    assert {"request_type", "doc", "arguments", "idx", "doc_id", "task_name", "repeats"} <= fields
    assert {"resps", "filtered_resps"} <= fields


@pytest.fixture(scope="module")
def task(task_folder, tmp_path_factory):
    folder = copy_tasks(task_folder, tmp_path_factory.mktemp("run") / "tasks")
    return load_tasks([TaskSpec("choice")], Settings(folder)).tasks["choice"]


def test_tasks_build_instances_in_the_order_of_choices_and_filter_them_in_place(task):
    task.build_all_requests(rank=0, world_size=1)
    own = [instance for instance in task.instances if instance.doc_id == 3]
    document = own[0].doc
    assert [instance.idx for instance in own] == [0, 1, 2, 3]
    assert [i.args[1] for i in own] == [f" {choice}" for choice in document["choices"]]
    (ensemble,) = task._filters
    for instance in own:
        instance.resps = [(-float(instance.idx != 2), False)]
        instance.filtered_resps = {}
    ensemble.apply(own)
    results = [instance.filtered_resps[ensemble.name] for instance in own]
    assert results == [(-1.0, False), (-1.0, False), (0.0, False), (-1.0, False)]
    judged = task.process_results(document, results)
    assert judged["acc"] == float(document["answer"] == 2)


def test_contexts_are_cut_from_the_left_and_pairs_lose_their_last_token():
    lm = HFLM(pretrained=make_model(), tokenizer=make_tokenizer(), max_length=6)
    context, continuation = lm._encode_pair("w1 w2 w3 w4 w5 w6 ", "w7 w8")
    assert make_tokenizer().decode(continuation) == "w7 w8"
    seen = []
    call = lm._model_call
    lm._model_call = lambda inputs, **options: seen.append(inputs) or call(inputs, **options)
    lm._loglikelihood_tokens([(("", ""), context, continuation)], disable_tqdm=True)
    assert seen[0][0].tolist() == [*context, *continuation][-7:][:-1]
