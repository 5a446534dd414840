"""A configuration's architecture according to transformers: its settings, names and shapes.

Only transformers' own classes are used, on the meta device, and never a kernel or code from
elsewhere.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.naming import Key, find_keys, stored_parts
from automerge.errors import Fault, PreflightError
from automerge.machine.imports import importing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

HOW_IT_RUNS = frozenset(
    {
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
        *("kernel_config", "use_kernels", "fusion_config", "quantization_config"),
        *("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"),
    }
)
"""Keys that say how a model is run, or by whose code, but nothing about its weights."""
FLOAT, SPECIAL = "__float__", ("Infinity", "-Infinity", "NaN")
"""How transformers writes numbers that JSON does not have: a mapping with a single key."""
COUNTED = re.compile(
    r"(^|_)(layers?|depths?|blocks?|stages?|experts?|heads?|labels?|groups?)(_|$)|layers$"
)
MAX_COUNT = 100_000
"""The most layers, experts, heads or labels; transformers makes an object for each."""
MAX_TENSORS = 200_000
KEPT = 16
"""The number of architectures that are cached."""


class Architecture:
    """The transformers model of a configuration, without memory for its weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.name = type(model).__name__

    @cached_property
    def state(self) -> Mapping[str, Tensor]:
        """Every tensor of the live model, on the meta device, by its name there."""
        return dict(self.model.state_dict(keep_vars=True))

    @cached_property
    def ties(self) -> Mapping[str, str]:
        """Live names of tied tensors, mapped to the names of those they are tied to."""
        return dict(getattr(self.model, "all_tied_weights_keys", None) or {})

    @cached_property
    def parts(self) -> Mapping[str, Tensor]:
        """The tensors that would be stored, by key; views of `state` wherever no data is moved."""
        stored = stored_parts(self.model, self.state)
        found = find_keys(self.model, stored)
        return {key.part: stored[name] for name, key in found.items() if key is not None}

    @cached_property
    def owners(self) -> Mapping[int, str]:
        """Live names, by the identity of their storage."""
        return {storage_of(tensor): name for name, tensor in self.state.items()}

    @cached_property
    def constants(self) -> frozenset[str]:
        """The last parts of the names of buffers that the model creates itself."""
        made = self._buffers - self.state.keys()
        return frozenset(name.rpartition(".")[2] for name in made)

    def keys(self, names: Sequence[str]) -> dict[str, Key | None]:
        """Return what stored tensors become; None for those the architecture does not have."""
        return find_keys(self.model, names)

    def may_lack(self, live: str) -> bool:
        """Return whether checkpoints of this architecture may lack one of its tensors."""
        patterns = self.model._keys_to_ignore_on_load_missing or ()
        return any(re.search(pattern, live) for pattern in patterns) or live in self._buffers

    def leaves_out(self, name: str) -> bool:
        """Return whether checkpoints of this architecture may have a tensor that it lacks."""
        patterns = self.model._keys_to_ignore_on_load_unexpected or ()
        return any(re.search(pattern, name) for pattern in patterns)

    def owner(self, part: str) -> str | None:
        """Return the live tensor that holds a part; None for one that is moved when stored."""
        return self.owners.get(storage_of(self.parts[part]))

    @cached_property
    def _buffers(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.model.named_buffers())


def storage_of(tensor: Tensor) -> int:
    """Identify the storage of a tensor, which its views share, even on the meta device."""
    return int(tensor.untyped_storage()._cdata)


_known: OrderedDict[tuple[str, str], Architecture] = OrderedDict()


def architecture(config: Mapping[str, Any], most: int = MAX_TENSORS) -> Architecture:
    """Return the architecture of the class that a configuration names; results are cached.

    Args:
        config: the content of a config.json.
        most: the maximum number of tensors it may have.

    Raises:
        PreflightError: transformers does not have it, or cannot build it from this configuration.
    """

    def make() -> Architecture:
        made = read_config(config)
        return Architecture(build(model_class(made), made, most))

    return _remembered(("own", json.dumps(dict(config), sort_keys=True, default=str)), make)


def architecture_of(
    config: PretrainedConfig, kind: type[PreTrainedModel], most: int = MAX_TENSORS
) -> Architecture:
    """Return the architecture of a class, whatever class the configuration names; cached as well.

    Raises:
        PreflightError: transformers cannot build it from this configuration.
    """
    key = (kind.__name__, config.to_json_string(use_diff=False))
    return _remembered(key, lambda: Architecture(build(kind, config, most)))


def _remembered(key: tuple[str, str], make: Callable[[], Architecture]) -> Architecture:
    if key not in _known:
        _known[key] = make()
    _known.move_to_end(key)
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return _known[key]


def native(config: Mapping[str, Any]) -> bool:
    """Return whether transformers itself has the model that a configuration describes.

    If the configuration also maps classes to code, those it names must be transformers' own.
    """
    with importing():  # the first use of transformers in most commands, and of a model's module
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            return False
        if not CONFIG_MAPPING[kind].__module__.startswith("transformers.models."):
            return False
        named = config.get("architectures")
        names = named if isinstance(named, list) and config.get("auto_map") else []
        return all(isinstance(name, str) and hasattr(transformers, name) for name in names)


def read_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """Return a configuration as transformers reads it, with its defaults.

    Raises:
        PreflightError: transformers does not know the model type, or refuses the values.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise PreflightError(unknown(kind))
    check_counts(config)
    try:
        with quiet():
            made: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(plain(config))
    except Exception as error:  # whatever a class says of values it was not written for
        raise PreflightError(f"is not a valid configuration of {kind}: {said(error)}") from error
    return made


def unknown(kind: object) -> str:
    """Describe a model type that transformers does not have."""
    from transformers import __version__

    if kind is None:
        return "has no model_type, so its architecture is unknown"
    shown = kind[:80] if isinstance(kind, str) else kind
    return f"model_type {shown!r} is not an architecture of transformers {__version__}"


def check_counts(config: Mapping[str, Any]) -> None:
    """Refuse counts that would take for ever to build one by one.

    Raises:
        PreflightError: a count is negative or too large.
    """
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and len(labels) > MAX_COUNT:
        raise PreflightError(
            f"id2label has {len(labels):,} labels; at most {MAX_COUNT:,} are allowed"
        )
    for key, value in numbers(config):
        if COUNTED.search(key) and value < 0 and key.startswith(("num_", "n_")):
            raise PreflightError(f"{key} is {value:,}; expected 0 or more")
        if COUNTED.search(key) and abs(value) > MAX_COUNT:
            raise PreflightError(f"{key} is {value:,}; at most {MAX_COUNT:,} are allowed")


def numbers(value: object) -> Iterator[tuple[str, int]]:
    """Yield every whole number in a configuration with its key."""
    pending: list[tuple[str, object]] = [("", value)]
    while pending:
        key, item = pending.pop()
        if isinstance(item, Mapping):
            pending += [(str(name), content) for name, content in item.items()]
        elif isinstance(item, list):
            pending += [(key, content) for content in item]
        elif type(item) is int:
            yield key, item


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without `HOW_IT_RUNS` at any level, with special floats as floats."""

    def stripped(value: Any) -> Any:
        if isinstance(value, Mapping):
            if value.keys() == {FLOAT} and value[FLOAT] in SPECIAL:
                return float(value[FLOAT])
            return {k: stripped(v) for k, v in value.items() if k not in HOW_IT_RUNS}
        return [stripped(v) for v in value] if isinstance(value, list) else value

    result: dict[str, Any] = stripped(config)
    return result


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class that a configuration names, else the first that there is for it.

    Raises:
        PreflightError: transformers has no class for it.
    """
    import transformers

    if (named := named_class(config)) is not None:
        return named
    for auto in (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForSeq2SeqLM,
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForMaskedLM,
        transformers.AutoModel,
    ):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
            return chosen
    raise PreflightError(f"model_type {config.model_type!r} has no model in transformers")


def named_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """Return the first of a configuration's `architectures` that is a class of transformers."""
    import transformers

    for name in config.architectures or ():
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            kind = getattr(found, "config_class", None)
            if kind is not None and isinstance(config, kind):
                return found
    return None


def build(
    kind: type[PreTrainedModel], config: PretrainedConfig, most: int = MAX_TENSORS
) -> PreTrainedModel:
    """Build a model on the meta device.

    Raises:
        PreflightError: it cannot be built, or has more than `most` tensors.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    registered = 0

    def count(*_: object) -> None:
        nonlocal registered
        registered += 1
        if registered > most:
            raise TooMany

    hook = register_module_parameter_registration_hook(count)
    try:
        with quiet(), torch.device("meta"):
            model: PreTrainedModel = kind._from_config(config)
    except TooMany:
        raise PreflightError(
            f"a {kind.__name__} of this configuration has more than {most:,} tensors, many times "
            "more than are stored"
        ) from None
    except Exception as error:  # whatever a class says of values it was not written for
        raise PreflightError(
            f"transformers cannot build a {kind.__name__} from this configuration: {said(error)}"
        ) from error
    finally:
        hook.remove()
    return model


class TooMany(Exception):
    """A model has more tensors than it may have."""


def at(where: Path, error: PreflightError) -> PreflightError:
    """Return the faults of a configuration with the path of its file."""
    return PreflightError(Fault(f"{where}: {fault.message}") for fault in error.faults)


def said(error: Exception) -> str:
    """Return the beginning of another library's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:200]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' logging and warnings."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
