"""Let anyone check the test scores with lm-eval's own command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from automerge.evaluation.base import BATCH_SIZE
from automerge.evaluation.lm_eval.isolation import FEWSHOT_SEED, NUMPY_SEED, PYTHON_SEED, TORCH_SEED
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.loglikelihood.batch_size import BatchSize


def reproduce_commands(
    task_set: TaskSet,
    checkpoint: Path,
    tasks_folder: Path | None,
    samples: Path,
    output: Path,
    batch_size: BatchSize,
    dtype: str = "float32",
) -> list[list[str]]:
    """Return the `lm_eval` commands whose item scores are those of the scorer.

    There is one command for each combination of few-shot examples and generation options in the
    study. Commands with examples leave out `--samples`, with which lm-eval would draw different
    examples for every document: they run all documents, and the logged samples include the test
    items.
    """
    settings = task_set.settings
    size = BATCH_SIZE if batch_size == "auto" else batch_size
    groups: dict[tuple[str, str, bool], dict[str, tuple[str, ...]]] = {}
    for spec, objective in zip(task_set.specs, task_set.objectives, strict=True):
        leaves = task_set.scored(objective.name)
        shots = any(task_set.tasks[leaf].get_config("num_fewshot") for leaf in leaves)
        asked = "" if spec.num_fewshot is None else str(spec.num_fewshot)
        options = ",".join(f"{key}={value!r}" for key, value in spec.gen_kwargs.items())
        groups.setdefault((asked, options, shots), {})[spec.task] = leaves
    commands = []
    runs = [(key, names) for key, tasks in groups.items() for names in _disjoint(tasks)]
    for (asked, options, shots), names in runs:
        seeds = (PYTHON_SEED, NUMPY_SEED, TORCH_SEED, FEWSHOT_SEED)
        command = [
            *("lm_eval", "run", "--model", "hf"),
            *("--model_args", f"pretrained={checkpoint},dtype={dtype},softmax_dtype=float32"),
            *("--tasks", ",".join(names)),
            *("--batch_size", str(size), "--seed", ",".join(map(str, seeds))),
        ]
        if tasks_folder is not None:
            command += ["--include_path", str(tasks_folder)]
        if asked:
            command += ["--num_fewshot", asked]
        if options:
            command += ["--gen_kwargs", options]
        if settings.allow_code_eval:
            command = ["env", "HF_ALLOW_CODE_EVAL=1", *command, "--confirm_run_unsafe_code"]
        if settings.apply_chat_template:
            command += ["--apply_chat_template"]
            command += ["--fewshot_as_multiturn", str(settings.multiturn).lower()]
        if settings.system_instruction is not None:
            command += ["--system_instruction", settings.system_instruction]
        if not shots:
            command += ["--samples", str(samples)]
        commands.append([*command, "--log_samples", "--output_path", str(output)])
    return commands


def _disjoint(tasks: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Return names to run together: lm-eval refuses a leaf task that two names of a run lead to.

    Names whose leaf tasks all belong to larger ones are left out.
    """
    runs: list[tuple[list[str], set[str]]] = []
    for name, leaves in sorted(tasks.items(), key=lambda pair: -len(pair[1])):
        if any(covered.issuperset(leaves) for _, covered in runs):
            continue
        free = next((run for run in runs if run[1].isdisjoint(leaves)), None)
        if free is None:
            runs.append(([name], set(leaves)))
        else:
            free[0].append(name)
            free[1].update(leaves)
    return [names for names, _ in runs]
