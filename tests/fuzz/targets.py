"""What a stranger's bytes are fed to: each target accepts them or raises AutomergeError alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from automerge.errors import AutomergeError


@cache
def scratch() -> Path:
    """One folder for all executions, with a sound shard and configuration in it."""
    from automerge.checkpoints.safetensors_file import TensorInfo, header_bytes

    folder = Path(tempfile.mkdtemp(prefix="automerge-fuzz-"))
    layout = {"model.embed_tokens.weight": TensorInfo((4, 2), "float32")}
    shard = header_bytes(layout, {"format": "pt"}) + bytes(32)
    for name in ("index", "adapter"):
        (folder / name).mkdir()
    (folder / "index" / "a.safetensors").write_bytes(shard)
    (folder / "index" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "models").mkdir()
    for name in ("math", "code", "base"):
        (folder / "models" / name).mkdir()
    return folder


def yaml(data: bytes) -> None:
    from automerge.files.yaml_file import load_yaml

    path = scratch() / "f.yaml"
    path.write_bytes(data)
    with suppress(AutomergeError):
        assert isinstance(load_yaml(path).data, dict)


def header(data: bytes) -> None:
    from automerge.checkpoints.safetensors_file import read_header

    path = scratch() / "f.safetensors"
    path.write_bytes(data)
    with suppress(AutomergeError):
        infos = read_header(path)
        assert sum(info.n_bytes for info in infos.values()) <= len(data)


def index(data: bytes) -> None:
    from automerge.checkpoints import SafetensorsCheckpoint
    from automerge.checkpoints.folder.formats import INDEX

    folder = scratch() / "index"
    (folder / INDEX).write_bytes(data)
    with suppress(AutomergeError):
        checkpoint = SafetensorsCheckpoint(folder)
        assert set(checkpoint.tensors) <= {"model.embed_tokens.weight"}


def recipe(data: bytes) -> None:
    from automerge.config.recipe_file import read_recipe

    path = scratch() / "models" / "recipe.yaml"
    path.write_bytes(data)
    with suppress(AutomergeError):
        json.dumps(read_recipe(path).recipe.plain(), allow_nan=False)


def config(data: bytes) -> None:
    from automerge.config import load_config

    path = scratch() / "models" / "automerge.yaml"
    path.write_bytes(data)
    with suppress(AutomergeError):
        json.dumps(load_config(path).to_plain(), allow_nan=False)


def adapter(data: bytes) -> None:
    from automerge.checkpoints.adapters.options import read_settings

    (scratch() / "adapter" / "adapter_config.json").write_bytes(data)
    with suppress(AutomergeError):
        read_settings(scratch() / "adapter" / "adapter_config.json")


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (yaml, header, index, recipe, config, adapter)
}
