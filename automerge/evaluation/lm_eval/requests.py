"""Build lm-eval's requests once and keep them, tokenised, for every candidate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from automerge.errors import AutomergeError, PreflightError
from automerge.evaluation.base import Settings
from automerge.evaluation.lm_eval.chat_template import limited
from automerge.evaluation.lm_eval.isolation import FEWSHOT_SEED, isolated
from automerge.evaluation.lm_eval.task_errors import raised_at
from automerge.evaluation.loglikelihood.packing import Request, encoded_request, request
from automerge.text.error import cause

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM

Item = tuple[str, int]
"""A leaf task and one of its doc ids."""


def build_requests(
    tasks: Mapping[str, Task], settings: Settings, lm: HFLM
) -> dict[Item, tuple[Instance, ...]]:
    """Build every document's requests, in lm-eval's order, with prompts as in a full run.

    lm-eval draws few-shot examples while it walks through all documents, so a run over some of
    them (`--samples`) would have different prompts; these are those of a run over all of them.

    Raises:
        PreflightError: prompts cannot be made, or a chat template exceeds its limits.
    """
    built: dict[Item, list[Instance]] = {}
    template = limited(lm.apply_chat_template) if settings.apply_chat_template else None
    with isolated():
        for name, task in tasks.items():
            task.set_fewshot_seed(FEWSHOT_SEED)
            try:
                task.build_all_requests(
                    limit=None,
                    rank=0,
                    world_size=1,
                    system_instruction=settings.system_instruction,
                    apply_chat_template=settings.apply_chat_template,
                    fewshot_as_multiturn=settings.multiturn,
                    chat_template=template,
                    tokenizer_name=lm.tokenizer_name if settings.apply_chat_template else "",
                )
            except PreflightError as error:
                raise PreflightError(f"task {name!r}{_document(task, error)}: {error}") from error
            except Exception as error:  # whatever a task's own Python may raise
                where = f"{_document(task, error)}{raised_at(error)}"
                raise PreflightError(
                    f"the prompts of task {name!r} cannot be made{where}: {cause(error)}"
                ) from error
            for instance in task.instances:
                built.setdefault((name, instance.doc_id), []).append(instance)
            _remember(task)
    return {
        item: tuple(sorted(instances, key=lambda instance: instance.idx))
        for item, instances in built.items()
    }


def _document(task: Task, error: BaseException) -> str:
    """Say which document was being built, as ", document N"; read from lm-eval's own loop."""
    frame = error.__traceback__
    while frame is not None:
        found = frame.tb_frame.f_locals
        if frame.tb_frame.f_code is type(task).build_all_requests.__code__ and "doc_id" in found:
            return f", document {found['doc_id']}"
        frame = frame.tb_next
    return ""


class Remembered:
    """A function of a document that is called once for each document it knows.

    lm-eval compiles a task's Jinja template whenever it needs a document's target or choices,
    which takes a millisecond each time.
    """

    def __init__(self, function: Callable[..., Any], documents: Iterable[object]) -> None:
        self._function = function
        self._known = {id(document): document for document in documents}
        self._results: dict[int, Any] = {}

    def __call__(self, document: object, *overrides: object) -> Any:
        key = id(document)
        if key not in self._known or any(override is not None for override in overrides):
            return self._function(document, *overrides)
        if key not in self._results:
            self._results[key] = self._function(document)
        return copy.copy(self._results[key])


def _remember(task: Task) -> None:
    documents = [instance.doc for instance in task.instances]
    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        if hasattr(task, name):
            setattr(task, name, Remembered(getattr(task, name), documents))


@dataclass(frozen=True, slots=True)
class TokenisedItem:
    """An item's log-likelihood requests as token ids.

    `spans` holds, for each instance that is not generated, the range of requests whose answers add
    up to its own: several for a rolling window, else one.
    """

    requests: tuple[Request, ...]
    spans: tuple[tuple[Instance, int, int], ...]


class TokenisedRequests:
    """Token ids of log-likelihood requests, encoded on first use, as `HFLM` encodes them."""

    def __init__(self, lm: HFLM) -> None:
        self._lm = lm
        self._request = request if lm.backend == "causal" else encoded_request
        self._known: dict[Item, TokenisedItem] = {}

    def of(self, item: Item, instances: Sequence[Instance]) -> TokenisedItem:
        """Return the token ids of an item's instances.

        Raises:
            AutomergeError: a continuation has no tokens, or more than the model can take.
        """
        if item not in self._known:
            requests: list[Request] = []
            spans = []
            for instance in instances:
                if instance.request_type != "generate_until":
                    start = len(requests)
                    requests += self._requests(instance)
                    spans.append((instance, start, len(requests)))
            self._known[item] = TokenisedItem(tuple(requests), tuple(spans))
        return self._known[item]

    def continued(self, context: str, continuation: str) -> Request | None:
        """Token ids of a continuation; None where it holds no token, or more than a model can
        take."""
        before, after = self._pair(context, continuation)
        longest = self._lm.max_length
        fits = before and 0 < len(after) <= longest
        return self._request(before, after, longest) if fits else None

    def as_generated(self, text: str, delimiter: str) -> str:
        """A text that a model generated as what followed its prompt.

        Some tokenizers' decoders drop the space before the first word: there, what separates a
        task's answers from its prompts is put back.
        """
        if text[:1].isspace() or self._keeps_space:
            return text
        return delimiter + text

    @cached_property
    def _keeps_space(self) -> bool:
        tokens = self._lm.tok_encode(" a", add_special_tokens=False)
        return str(self._lm.tok_decode(tokens))[:1].isspace()

    def _requests(self, instance: Instance) -> Iterator[Request]:
        longest = self._lm.max_length
        pairs = (
            self._windows(instance.args[0])
            if instance.request_type == "loglikelihood_rolling"
            else [self._pair(*instance.args[:2])]
        )
        for context, continuation in pairs:
            if not context or not 0 < len(continuation) <= longest:
                raise AutomergeError(
                    f"item {instance.doc_id} of task {instance.task_name!r} has a continuation of "
                    f"{len(continuation)} tokens after {len(context)}; lm-eval needs 1 to "
                    f"{longest} (the model's length) after at least 1"
                )
            yield self._request(context, continuation, longest)

    def _pair(self, context: str, continuation: str) -> tuple[Sequence[int], Sequence[int]]:
        lm = self._lm
        if context:
            pair: tuple[list[int], list[int]] = lm._encode_pair(context, continuation)
            return pair
        tokens = lm.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [lm.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [lm.prefix_token_id], tokens

    def _windows(self, text: str) -> list[tuple[Sequence[int], Sequence[int]]]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self._lm.tok_encode(text),
            prefix_token=self._lm.prefix_token_id,
            max_seq_len=self._lm.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]
