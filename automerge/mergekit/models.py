"""The models a mergekit file names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from automerge.files.references import (
    is_folder,
    is_local,
    join,
    resolve,
    short_name,
    split_revision,
)
from automerge.files.yaml_file import Plain
from automerge.mergekit.parameters import At, Reader
from automerge.recipe import AUTO, BASE, DEFAULT, UNION

LAYER_KEYS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"),
    "decoder_layers",
)
TEXT_KEYS = ("text_config", "llm_config", "language_config", "decoder")


class Models:
    """Resolves models and names them: the base `base`, others after the end of their path.

    MODEL+LORA stands for the adapter; MODEL, which is the base or else the first model written in
    this way, is then among the names, whether it is merged or not. Relative paths are relative to
    the working directory, as in mergekit, else to the file's folder.
    """

    def __init__(self, reader: Reader, folder: Path, at: At = ()) -> None:
        self.names: dict[str, str] = {}
        """Reference → name."""
        self.owns_adapters = False
        """Whether any model is an adapter of the base."""
        self.notes: list[str] = []
        """Notes on paths that could also have meant another folder."""
        self._reader = reader
        self._folders = (Path.cwd(), folder)
        self._base_at: At = (*at, "base_model")
        self._owner = reader.at(self._base_at) or next(self._owners(reader.data), None)

    def base(self) -> str | None:
        """Return the name of the base; None if the file does not name one."""
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
            if not self.same(model, self._owner):
                message = f"all adapters must be of the same model, {self._owner}; got {model}"
                self._reader.fault(at, message)
            text, self.owns_adapters = adapter, True
        try:
            reference = resolve(text, *self._folders)
        except ValueError as error:
            self._reader.fault(at, str(error))
            return None
        self._note(text, reference)
        base = next((known for known, called in self.names.items() if called == BASE), None)
        if base is not None and _location(reference) == _location(base):
            return BASE
        if reference not in self.names:
            self.names[reference] = name or self._new_name(reference)
        return self.names[reference]

    def same(self, one: Plain, other: Plain) -> bool:
        """Return whether two texts name the same model, however they spell it."""
        if one == other:
            return True
        try:
            found = [_location(resolve(text, *self._folders)) for text in (one, other)]
        except (ValueError, TypeError):
            return False
        return found[0] == found[1]

    def _note(self, text: str, reference: str) -> None:
        """Note if a path means different folders relative to here and to the file."""
        here, there = (join(folder, text) for folder in self._folders)
        if str(here) == reference and here != there and is_folder(there):
            note = (
                f"{text} is {here}, relative to the working directory as in mergekit; not {there}"
            )
            self.notes.append(note)

    def n_layers(self, name: str) -> int | None:
        """Return the number of layers of a model on this machine; None if it is not known."""
        return next((_layer_count(r) for r, known in self.names.items() if known == name), None)

    def _new_name(self, reference: str) -> str:
        name = short_name(reference)
        taken = {BASE, DEFAULT, UNION, AUTO, *self.names.values()}
        candidates = (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3)))
        return next(candidate for candidate in candidates if candidate not in taken)

    def _split(self, text: str) -> tuple[str, str | None]:
        """Split MODEL+LORA into MODEL and LORA, which is None if there is no adapter."""
        model, plus, adapter = text.partition("+")
        whole = any(is_folder(join(folder, text)) for folder in self._folders)
        return (model, adapter) if plus and not whole else (text, None)

    def _owners(self, value: Plain) -> Iterator[str]:
        """Yield the models before a `+` anywhere in the file."""
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
    """Return a model's number of layers, from a folder or the hub's cache; None if not known."""
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
    except (OSError, ValueError, RecursionError):
        return None
    return _layers_of(config) if isinstance(config, dict) else None


def _layers_of(config: Mapping[str, Plain]) -> int | None:
    """Return the number of layers of a configuration, or of its language model.

    If the configuration does not give it, it is the default of its class in transformers; None if
    there is none.
    """
    inner = (config.get(key) for key in TEXT_KEYS)
    for part in (*inner, config):
        for key in LAYER_KEYS:
            if isinstance(part, dict) and type(part.get(key)) is int:
                return int(part[key])
    return _default_layers(config)


def _default_layers(config: Mapping[str, Plain]) -> int | None:
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        made = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).get_text_config()
    except (StrictDataclassError, KeyError, TypeError, ValueError, AttributeError):
        return None
    layers = getattr(made, "num_hidden_layers", None)
    return layers if type(layers) is int else None


def _location(reference: str) -> str:
    """Return a folder with its links resolved, or a hub id."""
    return os.path.realpath(reference) if is_local(reference) else reference
