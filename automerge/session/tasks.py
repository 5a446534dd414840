"""Open a study's tasks on the kind of model that it scores, and cut their documents into parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from automerge.checkpoints.kinds import ModelKind, checkpoint_class, headless
from automerge.checkpoints.vocabularies.tokenizers import has_tokenizer
from automerge.errors import Fault, Locate, PreflightError
from automerge.evaluation.base import OpenTasks, TasksRefused
from automerge.evaluation.panel import OpenPanel, Panel
from automerge.evaluation.split import Split, SplitPlan, split_documents
from automerge.evaluation.table import DIVERGENCE
from automerge.session.preflight import Models


@dataclass(frozen=True)
class LiveKind:
    """The name of the class of a study's live models, and what kind of model that is."""

    name: str
    kind: ModelKind


def live_kind(models: Models) -> LiveKind:
    """Return what the live models of a study are; tasks say whether they can be scored on these.

    Raises:
        PreflightError: transformers does not have the model, or it is a language model that was
            saved without its output head or tokenizer.
    """
    base = models.checkpoints[models.base]
    found, kind = checkpoint_class(base)
    head = None if kind is ModelKind.OTHER else headless(base.config, base.tensors)
    if head is not None:
        raise PreflightError(
            f"{base.path} has no {head}, so it gives no log-likelihoods of text: save it with "
            "its language model's class, such as AutoModelForCausalLM, with its output head; "
            "`automerge merge` takes it as it is"
        )
    if kind is not ModelKind.OTHER and not has_tokenizer(base.assets):
        raise PreflightError(
            f"{base.assets} has no tokenizer, so no text can be scored: save the model's there, "
            "with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return LiveKind(found.__name__, kind)


def open_tasks(panel: Panel, run: Path, locate: Locate) -> OpenPanel:
    """Open the tasks from copies in a run folder, which are made if there are none.

    Raises:
        PreflightError: with where each refused task was written.
    """
    with _located(panel, locate):
        return panel.open(run, keep=True)


def tasks_on(live: LiveKind, tasks: OpenPanel, panel: Panel, locate: Locate) -> OpenPanel:
    """Return a panel's tasks as they are on a kind of model.

    Raises:
        PreflightError: with where each task was written that such a model cannot be scored on.
    """
    with _located(panel, locate):
        return tasks.on(live.name, live.kind)


@contextmanager
def _located(panel: Panel, locate: Locate) -> Iterator[None]:
    """Give faults of a panel's tasks the places of their entries."""
    try:
        yield
    except TasksRefused as error:
        faults = []
        for fault in error.task_faults:
            if panel.entries[fault.spec].evaluator == DIVERGENCE:
                where = locate(("properties",))
            else:
                where = locate(("tasks", fault.spec, fault.field)) or locate(("tasks", fault.spec))
            faults.append(Fault(fault.message, where))
        raise PreflightError(faults) from None


def cut(tasks: OpenTasks, plan: SplitPlan, held_out: Collection[str] = ()) -> Split:
    """Assign every document to search, select or test; objectives held out have test items only."""
    return split_documents(tasks.documents(), tasks.members, plan, tasks.parts, held_out)
