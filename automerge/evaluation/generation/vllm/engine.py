"""The process of a vLLM engine, and what it is asked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from automerge.evaluation.generation.asks import Ask
from automerge.evaluation.generation.vllm import serve
from automerge.evaluation.generation.vllm.serve import GRACE_S, Channel
from automerge.evaluation.generation.vllm.weights import SharedWeights

if TYPE_CHECKING:
    from torch import Tensor

LOG = 20_000
"""How many last characters of what vLLM printed go into an error."""

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One process for the engine and its first device, and nothing sent or downloaded."""
NOT_PASSED_ON = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")
"""What would let the other interpreter find this one's packages."""


class EngineFailed(Exception):
    """The engine cannot be started, has ended, or cannot do what it was asked."""


@dataclass(frozen=True)
class Blueprint:
    """What an engine is made from: a configuration, the weights' layout, and how it runs.

    Attributes:
        config: the model's config.json.
        header: see `weights.layout`.
        arguments: keyword arguments of `vllm.LLM`, as JSON.
        environment: variables of its process, in addition to this one's.
    """

    config: str
    header: str
    arguments: str
    environment: tuple[tuple[str, str], ...] = ()


class Engine:
    """A vLLM engine in a process of its own, over weights that are handed to it in shared memory.

    After an EngineFailed it is of no use but to be closed. It also ends when this process does.
    """

    def __init__(self, interpreter: Path, blueprint: Blueprint, tensors: Mapping[str, Tensor]):
        self._weights = SharedWeights(blueprint.header)
        folder = tempfile.mkdtemp(prefix="automerge-vllm-")
        log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        theirs, ours = _pipes()
        try:
            self._weights.write(tensors)
            process = _start(interpreter, blueprint, folder, log, theirs, self._weights.fd)
        except BaseException:
            for end in (*theirs, *ours):
                os.close(end)
            log.close()
            shutil.rmtree(folder, ignore_errors=True)
            self._weights.close()
            raise
        for end in theirs:
            os.close(end)
        self.process, self._log = process, log
        self._channel = Channel(*ours)
        self.close = weakref.finalize(
            self, _end, process, self._channel, self._weights, log, folder
        )
        """End the process, and free all it used; also called when this object or process ends."""
        try:
            self._ask(
                {
                    "config": json.loads(blueprint.config),
                    "arguments": json.loads(blueprint.arguments),
                    "weights": self._weights.fd,
                }
            )
        except BaseException:
            self.close()
            raise

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Hand over other weights; those before, and what was computed with them, are forgotten.

        Raises:
            EngineFailed: it could not load them.
        """
        self._weights.write(tensors)
        self._ask({"reload": True})

    def logprobs(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-probability of every token of each prompt but the first.

        Raises:
            EngineFailed: it failed at this, or has ended.
            torch.OutOfMemoryError: its device runs out of memory.
        """
        found: list[list[float]] = self._ask({"logprobs": list(map(list, prompts))})["logprobs"]
        return found

    def answer(
        self,
        asks: Sequence[Ask],
        ends: Sequence[int],
        penalty: float,
        ended: Callable[[int, list[int]], bool],
    ) -> list[list[int]]:
        """Return the likeliest tokens after each prompt, including the one that ends the answer.

        Args:
            asks: what is asked.
            ends: tokens that end an answer.
            penalty: on repetition, as transformers has it.
            ended: whether an answer, given by its number and its tokens so far, ends with the last
                of them.

        Raises:
            EngineFailed: it failed at this, or has ended.
            torch.OutOfMemoryError: its device runs out of memory.
        """
        answers: list[list[int]] = [[] for _ in asks]
        complete: set[int] = set()
        message = self._ask(
            {
                "asks": [{"prompt": list(ask.prompt), "limit": ask.limit} for ask in asks],
                "ends": list(ends),
                "penalty": penalty,
            }
        )
        while "tokens" in message:
            done = []
            for name, tokens in message["tokens"].items():
                number = int(name)
                for token in tokens:
                    if number not in complete:
                        answers[number].append(token)
                        if ended(number, answers[number]):
                            complete.add(number)
                            done.append(name)
            if done:
                self._say({"end": done})
            message = self._hear()
        return answers

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._say(message)
        return self._hear()

    def _say(self, message: dict[str, Any]) -> None:
        # A process that has ended said why, or its exit status does: `_hear` finds out.
        with contextlib.suppress(BrokenPipeError):
            self._channel.send(message)

    def _hear(self) -> dict[str, Any]:
        message = self._channel.receive()
        if message is None:
            raise EngineFailed(f"vLLM's process ended ({self._status()})\n{self._printed()}")
        if "error" in message:
            if message["memory"]:
                raise torch.OutOfMemoryError(f"vLLM: {message['error']}")
            raise EngineFailed(f"vLLM: {message['error']}\n{self._printed()}")
        return message

    def _status(self) -> str:
        try:
            status = self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"exit status {status}" if status >= 0 else signal.Signals(-status).name

    def _printed(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - LOG))
        return self._log.read().decode("utf-8", "replace")


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the ends of two pipes: the other process's to read and write, and ours."""
    their_source, our_target = os.pipe()
    our_source, their_target = os.pipe()
    return (their_source, their_target), (our_source, our_target)


def _start(
    interpreter: Path,
    blueprint: Blueprint,
    folder: str,
    log: IO[bytes],
    ends: tuple[int, int],
    weights: int,
) -> subprocess.Popen[bytes]:
    """Start the process, in a session of its own: Ctrl-C is for this one."""
    environment = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    source, target = ends
    return subprocess.Popen(
        [
            # Isolated: neither its folder nor variables decide what it imports.
            *(interpreter, "-I", "-u", serve.__file__),
            *(str(source), str(target), str(os.getpid()), folder),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**environment, **SETTINGS, **dict(blueprint.environment), "TMPDIR": folder},
        pass_fds=(source, target, weights),
        start_new_session=True,
    )


def _end(
    process: subprocess.Popen[bytes],
    channel: Channel,
    weights: SharedWeights,
    log: IO[bytes],
    folder: str,
) -> None:
    """Let a process end; kill it, and its children, if it does not."""
    channel.close()
    try:
        process.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    weights.close()
    log.close()
    shutil.rmtree(folder, ignore_errors=True)
