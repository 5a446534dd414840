"""The models a mergekit file names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from automerge.mergekit.parameters import At, Reader
from automerge.recipe import BASE, DEFAULT
from automerge.references import is_local, resolve, short_name, split_revision
from automerge.yaml_file import Plain


class Models:
    """Resolves models and names them: the base `base`, others by the end of their path.

    MODEL+LORA stands for the adapter; MODEL, the base or else the first model that is written so,
    is then among the names, merged or not.
    """

    def __init__(self, reader: Reader, folder: Path, at: At = ()) -> None:
        self.names: dict[str, str] = {}
        """Reference → name."""
        self.owns_adapters = False
        """Whether some model is an adapter of the base."""
        self._reader = reader
        self._folder = folder
        self._base_at: At = (*at, "base_model")
        self._owner = reader.at(self._base_at) or next(self._owners(reader.data), None)

    def base(self) -> str | None:
        """The name of the base; None where the file names none."""
        text = self._reader.at(self._base_at)
        if text is not None:
            return self.name(self._base_at, text, BASE)
        if self._owner is not None:
            self.name(("models",), self._owner, BASE)
        return None

    def name(self, at: At, text: Plain, name: str | None = None) -> str | None:
        """Resolve a model and return its name; None after a fault."""
        if not isinstance(text, str):
            message = f"expected a folder or org/name[@revision], got {json.dumps(text)}"
            self._reader.fault(at, message)
            return None
        model, adapter = self._split(text)
        if adapter is not None:
            if model != self._owner:
                message = f"all adapters must be of one model, {self._owner}; {model} is another"
                self._reader.fault(at, message)
            text, self.owns_adapters = adapter, True
        try:
            reference = resolve(text, self._folder)
        except ValueError as error:
            self._reader.fault(at, str(error))
            return None
        if reference not in self.names:
            self.names[reference] = name or self._new_name(reference)
        return self.names[reference]

    def n_layers(self, name: str) -> int | None:
        """The number of layers of a model on this machine; None where it is not known."""
        return next((_layer_count(r) for r, known in self.names.items() if known == name), None)

    def _new_name(self, reference: str) -> str:
        name = short_name(reference)
        taken = {BASE, DEFAULT, *self.names.values()}
        candidates = (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3)))
        return next(candidate for candidate in candidates if candidate not in taken)

    def _split(self, text: str) -> tuple[str, str | None]:
        """MODEL and LORA of MODEL+LORA; None where there is no adapter."""
        model, plus, adapter = text.partition("+")
        return (model, adapter) if plus and not (self._folder / text).is_dir() else (text, None)

    def _owners(self, value: Plain) -> Iterator[str]:
        """The models before a `+` anywhere in the file."""
        if isinstance(value, list):
            for entry in value:
                yield from self._owners(entry)
        elif isinstance(value, dict):
            for key, entry in value.items():
                if key == "model" and isinstance(entry, str):
                    model, adapter = self._split(entry)
                    if adapter is not None:
                        yield model
                else:
                    yield from self._owners(entry)


def _layer_count(reference: str) -> int | None:
    """The number of layers of a model in a folder or the hub's cache; None if it is not known."""
    if is_local(reference):
        path = Path(reference) / "config.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        repository, revision = split_revision(reference)
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
        if not isinstance(cached, str):
            return None
        path = Path(cached)
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    layers = config.get("num_hidden_layers") if isinstance(config, dict) else None
    return layers if isinstance(layers, int) else None
