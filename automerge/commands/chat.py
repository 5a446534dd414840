"""`automerge chat`: talk to merges of a study and to a parent, side by side."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from automerge.commands.export import open_models
from automerge.commands.model_folder import write_model
from automerge.commands.search import trial_numbers
from automerge.errors import ConfigError, PreflightError
from automerge.evidence import EVIDENCE
from automerge.report.study import Study, load_study
from automerge.report.summary import Summary
from automerge.store.result import MODELS
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOBODY = "none"
BEST_PARENT = "best_parent"


@dataclass(frozen=True)
class Chat:
    """Who talks, and for how long.

    Attributes:
        run: the study's folder.
        trials: numbers, names, "best" or "knee"; none is "best".
        beside: a source's name, "base", "best_parent" or "none".
        max_tokens: of a reply.
        models: where the study's models are, if they are not where the study says.
    """

    run: Path
    trials: Sequence[str] = ()
    beside: str = BEST_PARENT
    max_tokens: int = 200
    models: Mapping[str, Path] = field(default_factory=dict)


def chat(wanted: Chat, console: Console, lines: Iterator[str] | None = None) -> None:
    """Answer each line with every model, greedily, until the lines end.

    With a chat template, a model sees the conversation so far; without, it continues the line.

    Args:
        wanted: who talks.
        console: where replies go.
        lines: what is asked; standard input, with a prompt on a terminal, by default.

    Raises:
        ConfigError: there is no such trial or model.
        PreflightError: a model is not there.
    """
    study = load_study(wanted.run)
    names = _talkers(study, wanted)
    with tempfile.TemporaryDirectory(prefix="automerge-chat-") as scratch:
        folders = _folders(study, names, Path(scratch), wanted.models, console)
        speakers = [_Speaker(name, folders[name], wanted.max_tokens) for name in names]
        if not all(speaker.has_template for speaker in speakers):
            say(console, "There is no chat template: each model continues your text.")
        for line in lines if lines is not None else _asked(console):
            for speaker in speakers:
                say(console, f"{speaker.name}: {speaker.reply(line)}")


def _talkers(study: Study, wanted: Chat) -> list[str]:
    """Return the names of the trials that talk: those chosen, then the model beside them."""
    result = study.result
    numbers = trial_numbers(study, wanted.trials or ["best"])
    chosen = [result.by_number[number].trial.name for number in numbers]
    beside = wanted.beside
    if beside == BEST_PARENT:
        beside = _best_parent(study.summary) or NOBODY
    special = [*result.parents, *([] if result.base is None else [result.base])]
    known = {result.by_number[n].trial.name for n in special if n in result.by_number}
    if beside != NOBODY and beside not in known:
        raise ConfigError(
            f"--beside {beside}: expected {BEST_PARENT}, {NOBODY} or one of "
            f"{', '.join(sorted(known))}"
        )
    return list(dict.fromkeys([*chosen, *([] if beside == NOBODY else [beside])]))


def _best_parent(summary: Summary) -> str | None:
    """Return the best parent on the mean, else that of the first objective; None before that."""
    if summary.means is not None:
        return summary.means.best_parent
    return next(iter(summary.best_parent.values()), None)


def _folders(
    study: Study,
    names: Sequence[str],
    scratch: Path,
    given: Mapping[str, Path],
    console: Console,
) -> dict[str, Path]:
    """Return a folder for each trial: the exported one, or a merge in a temporary folder."""
    folders = {name: study.run / MODELS / name for name in names}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if not missing:
        return folders
    checkpoints, references, watch = open_models(study.run, given)
    for name in missing:
        folders[name] = scratch / name
        recipe = study.result.named(name).trial.recipe
        evidence = [study.run / EVIDENCE]
        write_model(
            recipe, checkpoints, references, folders[name], watch, console, evidence=evidence
        )
    return folders


class _Speaker:
    """One model and, if it has a chat template, its conversation."""

    def __init__(self, name: str, folder: Path, max_tokens: int) -> None:
        import transformers

        from automerge.checkpoints.kinds import ModelKind, kind_of
        from automerge.worker.worker import choose_device, load_model

        transformers.utils.logging.disable_progress_bar()
        self.name = name
        self._max_tokens = max_tokens
        self._device = choose_device("auto")
        self._model: PreTrainedModel = load_model(folder, folder, "auto")
        kind = kind_of(type(self._model), self._model.config)
        self._encoder = kind is ModelKind.ENCODER_DECODER
        if kind is ModelKind.OTHER:
            what = type(self._model).__name__
            raise PreflightError(f"{name} is a {what}, which does not write text")
        self._model.to(self._device).eval()
        self._tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._said: list[dict[str, str]] = []

    @property
    def has_template(self) -> bool:
        """Whether it can hold a conversation."""
        return bool(self._tokenizer.chat_template)

    def reply(self, text: str) -> str:
        """Return the most likely reply, token by token."""
        import torch

        from automerge.evaluation.loglikelihood.forward import longest_input

        if self.has_template:
            self._said.append({"role": "user", "content": text})
            prompt = str(
                self._tokenizer.apply_chat_template(
                    self._said, tokenize=False, add_generation_prompt=True
                )
            )
        else:
            prompt = text
        asked = self._tokenizer(
            prompt, return_tensors="pt", add_special_tokens=not self.has_template
        )
        length = longest_input(self._model)
        most = self._max_tokens if length is None else min(self._max_tokens, length // 2)
        room = None if length is None else length - most
        # What does not fit is the oldest.
        ids = asked["input_ids"][:, -room if room else None :].to(self._device)
        with torch.no_grad():
            made = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=most,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            )
        read = 0 if self._encoder else ids.shape[1]
        found = str(self._tokenizer.decode(made[0, read:], skip_special_tokens=True))
        if self.has_template:
            self._said.append({"role": "assistant", "content": found})
        return found.strip()


def _asked(console: Console) -> Iterator[str]:
    """Yield the lines of standard input that are not empty; ask for them on a terminal."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    say(console, "Write to all of them; an empty line ends the chat.")
    try:
        yield from iter(lambda: input("> ").strip(), "")
    except (EOFError, KeyboardInterrupt):
        return
