"""An interpreter whose `vllm` answers at once, for tests of what happens around an engine.

It calls every token equally likely, and says the token whose number is the first value of the first
one-dimensional tensor, over and over. Some numbers stand for faults.
"""

from __future__ import annotations

import venv
from pathlib import Path

VERSION = "9.9.9"
RAISES, NO_MEMORY, ENDS, MUST_NOT_START, MUST_NOT_RELOAD = 96, 97, 98, 99, 95
"""Tokens at which the engine raises, has no more memory, ends its process, does not start, and does
not reload."""

SOURCE = f"""
import json, math, os, struct
from types import SimpleNamespace

class OutOfMemoryError(Exception):
    pass

class SamplingParams:
    def __init__(self, **settings):
        self.__dict__.update(settings)

def token(folder):
    with open(folder + "/model.safetensors", "rb") as file:
        size, = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(size))
        one = next(e for e in entries.values() if len(e["shape"]) == 1)
        file.seek(8 + size + one["data_offsets"][0])
        return int(struct.unpack("<f", file.read(4))[0])

class LLM:
    def __init__(self, folder, **arguments):
        self.folder, self.config = folder, json.load(open(folder + "/config.json"))
        print("arguments", json.dumps(arguments))
        if token(folder) == {MUST_NOT_START}:
            raise ValueError("no kernel for heads as small")
        self.llm_engine = self
        self.engine_core = SimpleNamespace(shutdown=lambda: None)
        self.token, self.requests = token(folder), {{}}

    def collective_rpc(self, name):
        assert name == "reload_weights"
        self.token = token(self.folder)
        if self.token == {MUST_NOT_RELOAD}:
            raise RuntimeError("packed in another layout")

    def apply_model(self, function):
        pass

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, settings, use_tqdm):
        even = SimpleNamespace(logprob=-math.log(self.config["vocab_size"]))
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            yield SimpleNamespace(
                prompt_token_ids=ids, prompt_logprobs=[None, *({{i: even}} for i in ids[1:])]
            )

    def add_request(self, name, prompt, settings):
        self.requests[name] = settings.max_tokens

    def abort_request(self, names):
        for name in names:
            self.requests.pop(name, None)

    def has_unfinished_requests(self):
        return bool(self.requests)

    def step(self):
        if self.token == {RAISES}:
            raise ValueError("the engine does not like this")
        if self.token == {NO_MEMORY}:
            raise OutOfMemoryError("no more")
        if self.token == {ENDS}:
            os._exit(7)
        said = list(self.requests)
        self.requests = {{name: left - 1 for name, left in self.requests.items() if left > 1}}
        return [
            SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=[self.token])])
            for name in said
        ]
"""

PLATFORMS = """
from types import SimpleNamespace
current_platform = SimpleNamespace(is_cpu=lambda: True)
"""


def stand_in(folder: Path, has_vllm: bool = True) -> Path:
    """Make a virtual environment with it, or with nothing; return its interpreter."""
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    if has_vllm:
        (packages / "vllm").mkdir()
        (packages / "vllm" / "__init__.py").write_text(SOURCE)
        (packages / "vllm" / "sampling_params.py").write_text("class RequestOutputKind: DELTA = 1")
        (packages / "vllm" / "platforms.py").write_text(PLATFORMS)
        known = packages / f"vllm-{VERSION}.dist-info"
        known.mkdir()
        (known / "METADATA").write_text(f"Name: vllm\nVersion: {VERSION}\n")
    return folder / "bin" / "python"
