"""Serve one vLLM engine to the process that started this one, over two pipes.

Run by its path, under an interpreter that has vLLM and need not have automerge. A message is JSON
after its length. The first one from the starter describes the engine; then one at a time asks for
something, and `end` names answers under way that are long enough. When the starter closes its pipe
or dies, this process and its children end.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("<Q")
LOOK_S = 0.5
"""How often to look whether the starter is alive, should others hold its end of the pipe open."""
GRACE_S = 10.0
"""How long the engine may take to shut down once the starter is gone."""


class Channel:
    """Messages over two file descriptors."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = os.fdopen(source, "rb"), os.fdopen(target, "wb")

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            BrokenPipeError: the other end is closed.
        """
        data = json.dumps(message).encode()
        self._target.write(LENGTH.pack(len(data)) + data)
        self._target.flush()

    def receive(self) -> dict[str, Any] | None:
        """Return the next message; None once the other end is closed."""
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        size: int = LENGTH.unpack(head)[0]
        data = self._source.read(size)
        if len(data) < size:
            return None
        message: dict[str, Any] = json.loads(data)
        return message

    def close(self) -> None:
        """Close both ends that this process holds."""
        for end in (self._target, self._source):
            with contextlib.suppress(OSError):
                end.close()


class Starter:
    """What the starter says, read as it comes; None forever once it is gone."""

    def __init__(self, channel: Channel, pid: int) -> None:
        self._channel, self._pid = channel, pid
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._gone = False

    def watch(self, last: Callable[[], None]) -> None:
        """Begin to read; some time after the starter is gone, call `last`."""
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._look, args=(last,), daemon=True).start()

    def next(self) -> dict[str, Any] | None:
        """Wait for a message."""
        if not self._gone:
            message = self._said.get()
            self._gone = message is None
            return message
        return None

    def waiting(self) -> list[dict[str, Any] | None]:
        """Return the messages that are there."""
        found = []
        while not self._gone and not self._said.empty():
            found.append(self.next())
        return found

    def _read(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._said.put(message)
        self._closed.set()
        self._said.put(None)

    def _look(self, last: Callable[[], None]) -> None:
        while not self._closed.wait(LOOK_S) and os.getppid() == self._pid:
            pass
        self._said.put(None)
        time.sleep(GRACE_S)
        last()


class Served:
    """A vLLM engine whose weights are read again, in place, from the file it began with."""

    def __init__(self, folder: Path, arguments: dict[str, Any]) -> None:
        from vllm import LLM
        from vllm.platforms import current_platform

        self._llm = LLM(str(folder), **arguments)
        self._engine = self._llm.llm_engine
        self._packs = current_platform.is_cpu()

    def reload(self) -> None:
        """Read the weights again, and forget what was computed with those before.

        vLLM loads them as it loaded the first: it splits, fuses and packs them layer by layer.
        """
        self._llm.collective_rpc("reload_weights")
        if self._packs:
            self._llm.apply_model(pack_heads)
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset")

    def logprobs(self, prompts: list[list[int]]) -> list[list[float]]:
        """Return the log-probability of every token of each prompt but the first."""
        from vllm import SamplingParams

        read = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(given, read, use_tqdm=False)
        return [
            [
                float(likely[token].logprob)
                for token, likely in zip(
                    output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True
                )
            ]
            for output in outputs
        ]

    def answer(
        self,
        asks: list[dict[str, Any]],
        ends: list[int],
        penalty: float,
        starter: Starter,
        said: Callable[[dict[str, Any]], None],
    ) -> bool:
        """Answer greedily, and say the new tokens after every step.

        Returns whether all answers are complete; not if the starter is gone.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for number, ask in enumerate(asks):
            settings = SamplingParams(
                temperature=0,
                max_tokens=ask["limit"],
                repetition_penalty=penalty,
                stop_token_ids=ends,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            prompt = {"prompt_token_ids": ask["prompt"]}
            self._engine.add_request(str(number), prompt, settings)
        while self._engine.has_unfinished_requests():
            for message in starter.waiting():
                if message is None:
                    return False
                self._engine.abort_request(message["end"])
            new = {
                output.request_id: list(output.outputs[0].token_ids)
                for output in self._engine.step()
                if output.outputs[0].token_ids
            }
            if new:
                said({"tokens": new})
        return True

    def close(self) -> None:
        """Shut down the engine, and the processes of its other devices."""
        self._engine.engine_core.shutdown()


def pack_heads(model: Any) -> None:
    """Pack a model's output head again, as a processor wants it.

    A head that is tied to the embedding shares its tensor, which is reloaded; vLLM 0.32 packs a
    layer only where the checkpoint names it, and would compute with what it packed before.
    """
    for layer in model.modules():
        # Others have no weights left once they are packed.
        if hasattr(layer, "cpu_linear") and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)


def serve(channel: Channel, starter: Starter, folder: Path) -> None:
    """Do what the starter asks, until it is gone."""
    first = starter.next()
    if first is None:
        return
    (folder / "config.json").write_text(json.dumps(first["config"]), "utf-8")
    # By this process's id: those of other devices read it as well.
    weights = f"/proc/{os.getpid()}/fd/{first['weights']}"
    (folder / "model.safetensors").symlink_to(weights)
    engine = Served(folder, first["arguments"])
    try:
        channel.send({"done": True})
        while (message := starter.next()) is not None:
            if "reload" in message:
                engine.reload()
                channel.send({"done": True})
            elif "logprobs" in message:
                channel.send({"logprobs": engine.logprobs(message["logprobs"])})
            elif "asks" in message:
                if not engine.answer(
                    message["asks"], message["ends"], message["penalty"], starter, channel.send
                ):
                    return
                channel.send({"done": True})
            # "end" of an answer that ended by itself meanwhile
    finally:
        with contextlib.suppress(Exception):
            engine.close()


def end_all(folder: Path) -> None:
    """End this process and its children at once, whatever they are doing.

    Python's tracker of shared memory is left to end by itself: it removes what the others leave.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(Exception):
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def main(source: str, target: str, starter_pid: str, folder: str) -> None:
    """Serve until the starter is gone; an error is the last message."""
    channel = Channel(int(source), int(target))
    starter = Starter(channel, int(starter_pid))
    starter.watch(lambda: end_all(Path(folder)))
    try:
        serve(channel, starter, Path(folder))
    except BrokenPipeError:
        pass
    except BaseException as error:
        import traceback

        traceback.print_exc()
        causes = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        memory = any("OutOfMemoryError" in type(one).__name__ for one in causes)
        said = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            channel.send({"error": said, "memory": memory})
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without waiting for threads of the engine's


if __name__ == "__main__":
    main(*sys.argv[1:])
