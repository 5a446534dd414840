"""Tell for which objectives lm-eval draws few-shot examples from the items that are scored."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automerge.evaluation.lm_eval.isolation import FEWSHOT_SEED, isolated
from automerge.evaluation.lm_eval.tasks import TaskSet
from automerge.evaluation.split import document_hash

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def fewshot_warnings(task_set: TaskSet) -> list[str]:
    """Warn, one line each, of objectives whose examples are among their items.

    Without `fewshot_split`, lm-eval takes examples from the training split, else from the
    validation split, else from the test split; it leaves the item itself out only if examples come
    from the same split that is scored. Prompts are stock lm-eval's nevertheless, so that it can
    check the test scores.
    """
    found: list[str] = []
    if not any(task.get_config("num_fewshot") for task in task_set.tasks.values()):
        return found
    documents = task_set.documents()
    with isolated():
        for objective in task_set.objectives:
            leaves = task_set.scored(objective.name)
            items = sum(len(documents[leaf]) for leaf in leaves)
            drawn = [_drawn(task_set.tasks[leaf], documents[leaf]) for leaf in leaves]
            examples = sum(examples for examples, _ in drawn)
            shown = sum(shown for _, shown in drawn)
            if examples:
                own = f", {shown} of them for themselves, with the answer" if shown else ""
                found.append(
                    f"objective {objective.name!r}: lm-eval draws its few-shot examples from the "
                    f"items it is scored on ({examples} of {items} may be examples{own}); give the "
                    "task a fewshot_split that is not scored"
                )
    return found


def _drawn(task: Task, documents: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Count the documents that may be examples, and those that are examples of themselves."""
    shots = task.get_config("num_fewshot") or 0
    if not shots or not hasattr(task, "sampler"):
        return 0, 0
    sampler = copy.copy(task.sampler).set_rnd(FEWSHOT_SEED)
    first = getattr(task.fewshot_cfg, "sampler", "") == "first_n"
    donors = sampler.fewshot_docs()
    known = {document_hash(donor) for donor in (donors[: shots + 1] if first else donors)}
    examples = sum(document_hash(document) in known for document in documents)
    if not examples or task.fewshot_cfg.split == task.get_config("test_split"):
        return examples, 0
    shown = sum(document in sampler.sample(shots) for document in documents)
    return examples, shown
