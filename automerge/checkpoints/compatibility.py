"""Whether models can be merged, judged by their configurations, tokenizers and headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.architecture import at, native, read_config
from automerge.checkpoints.reader import CONFIG_BYTES, Checkpoint, read_json, shown
from automerge.checkpoints.safetensors_file import MERGEABLE
from automerge.checkpoints.settings import Difference, compare_settings
from automerge.checkpoints.vocabularies.chat_templates import TOKENIZER_CONFIG
from automerge.checkpoints.vocabularies.tokenizers import TOKENIZER
from automerge.checkpoints.vocabularies.vocabulary import compare_tokenizers
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG = "config.json"

SCANNED = (
    CONFIG,
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
)
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
NEEDLESS = ("auto_map", "trust_remote_code", "custom_pipelines")
"""Those of `REMOTE_CODE` that are not needed for a model that transformers has itself."""
KERNELS = ("attn_implementation", "experts_implementation", "kernel_config")
MAX_SHOWN = 10
"""The most differing settings that are shown."""


@dataclass(frozen=True)
class Compatibility:
    """What prevents models from being merged, and what the user should know."""

    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    def __add__(self, other: Compatibility) -> Compatibility:
        return Compatibility(self.faults + other.faults, self.warnings + other.warnings)


def check_models(base: tuple[str, Checkpoint], sources: Mapping[str, Checkpoint]) -> Compatibility:
    """Compare every source with the base, by name; reads no weights."""
    name, checkpoint = base
    result = examined(checkpoint.assets)
    for source, other in sources.items():
        result += examined(other.assets)
        result += compare((name, checkpoint), (source, other))
    return Compatibility(tuple(dict.fromkeys(result.faults)), tuple(dict.fromkeys(result.warnings)))


def examined(folder: Path) -> Compatibility:
    """Return what is refused in a model folder's configuration files, and what is only reported."""
    return Compatibility(tuple(scan(folder)), tuple(needless(folder)))


def scan(folder: Path) -> list[Fault]:
    """List settings of a model folder that ask for foreign code, or quantised weights."""
    faults: list[Fault] = []
    contents: dict[str, dict[str, Any]] = {}
    for file in SCANNED:
        try:
            if (folder / file).exists():
                contents[file] = read_json(folder / file, CONFIG_BYTES)
        except PreflightError as error:
            faults += error.faults
    own = native(contents.get(CONFIG, {}))
    for file, content in contents.items():
        asked = keys_within(content)
        alone = own and (file != TOKENIZER_CONFIG or reads_tokens(folder, content))
        refused = set(REMOTE_CODE) - set(NEEDLESS if alone else ())
        faults += [
            Fault(
                f"{folder / file}: {key!r} asks to run code that comes with the model, which is "
                "never done; use a model of a native transformers architecture"
            )
            for key in sorted(asked.keys() & refused)
        ]
        faults += [
            Fault(
                f"{folder / file}: {key} is {kernel!r}, a kernel from the hub, which is never "
                "fetched; remove the key"
            )
            for key in KERNELS
            for value in (*asked.get(key, ()), *asked.get(f"_{key}", ()))
            for kernel in kernels(value)
        ]
        if how := content.get("quantization_config"):
            method = how.get("quant_method") if isinstance(how, Mapping) else None
            named = f" ({method:.40})" if isinstance(method, str) else ""
            faults.append(
                Fault(
                    f"{folder / file}: quantised weights{named} cannot be merged; use the model "
                    "they were made from"
                )
            )
    if CONFIG in contents and not own and not keys_within(contents[CONFIG]).keys() & {*REMOTE_CODE}:
        faults.append(Fault(f"{folder / CONFIG}: {foreign(contents[CONFIG])}"))
    return faults


def reads_tokens(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether transformers can read a folder's tokenizer without code from elsewhere."""
    import transformers

    return (folder / TOKENIZER).exists() or hasattr(
        transformers, str(config.get("tokenizer_class"))
    )


def needless(folder: Path) -> list[str]:
    """List settings that ask for a model's own code although transformers has the model."""
    asking = []
    for file in SCANNED:
        if not (folder / file).exists():
            continue
        try:
            keys = keys_within(read_json(folder / file, CONFIG_BYTES)).keys()
        except PreflightError:
            continue
        asking += [f"{key} in {file}" for key in NEEDLESS if key in keys]
    if not asking:
        return []
    return [f"{folder}: {', '.join(asking)} is ignored: transformers has this architecture"]


def foreign(config: Mapping[str, Any]) -> str:
    """Say why transformers does not have the model that a configuration describes."""
    try:
        made = read_config(config)
    except PreflightError as error:
        return error.faults[0].message
    return (
        f"transformers has {made.model_type}, but not the class {config.get('architectures')}; use "
        "a model of a native transformers architecture"
    )


def kernels(value: object) -> list[str]:
    """Return the implementations of attention or experts that are on the hub: `org/name`."""
    if isinstance(value, Mapping):
        return [kernel for content in value.values() for kernel in kernels(content)]
    return [value] if isinstance(value, str) and "/" in value else []


def keys_within(value: object) -> dict[str, list[object]]:
    """Return the values of each key of nested mappings, at any depth."""
    keys: dict[str, list[object]] = {}
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, content in item.items():
                if content:  # a null or false entry asks for nothing
                    keys.setdefault(key, []).append(content)
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return keys


def compare(base: tuple[str, Checkpoint], source: tuple[str, Checkpoint]) -> Compatibility:
    """Compare one source with the base."""
    try:
        return differences(base, source)
    except PreflightError as error:
        return Compatibility(error.faults, ())


def differences(base: tuple[str, Checkpoint], source: tuple[str, Checkpoint]) -> Compatibility:
    """Return what separates one source from the base.

    Raises:
        PreflightError: one of their files cannot be read.
    """
    (base_name, ours), (name, theirs) = base, source
    faults: list[str] = []
    found = config_differences(ours, theirs)
    if fatal := [d for d in found if d.weight == "fatal"]:
        rows = [
            f"\n  {d.path}: {text(d.theirs)} in {name}, {text(d.ours)} in {base_name}"
            for d in fatal[:MAX_SHOWN]
        ]
        more = f"\n  and {len(fatal) - MAX_SHOWN} more" if len(fatal) > MAX_SHOWN else ""
        faults.append(f"{name} and {base_name} are different architectures:{''.join(rows)}{more}")
    warnings = [
        f"{name}: {d.path} is {text(d.theirs)}, but {text(d.ours)} in {base_name}; "
        f"the merged model has {base_name}'s: {d.meaning}"
        for d in found
        if d.weight == "notable"
    ]
    if unknown := [d.path for d in found if d.weight == "unknown"]:
        kind = ours.config.get("model_type")
        warnings.append(
            f"{name}: {shown(unknown)}, unknown to {kind}, differs from {base_name}'s; the merged "
            f"model has {base_name}'s"
        )
    faults += [f"{name}, compared with {base_name}: {f}" for f in tensor_faults(ours, theirs)]
    warnings += [
        f"{name}: stored in {a}, but {base_name} in {b}; merged in float32 and rounded once"
        for a, b in dtype_pairs(ours, theirs)
        if a in MERGEABLE and b in MERGEABLE
    ]
    if theirs.assets != ours.assets:
        token_faults, token_warnings = compare_tokenizers(ours.assets, theirs.assets)
        faults += [f"{name}, compared with {base_name}: {fault}" for fault in token_faults]
        warnings += [f"{name}: {warning}" for warning in token_warnings]
    return Compatibility(tuple(map(Fault, faults)), tuple(warnings))


def text(value: object) -> str:
    """Format a setting for people, in at most one line."""
    whole = repr(value)
    return whole if len(whole) <= 120 else f"{whole[:117]}..."


def config_differences(
    ours: Checkpoint, theirs: Checkpoint, tokens: bool = True
) -> list[Difference]:
    """Return the settings that differ between two models.

    Raises:
        PreflightError: one of the configurations is not valid.
    """
    if ours.config == theirs.config:
        return []
    return compare_settings(settings(ours), settings(theirs), tokens)


def alike_but_for_vocabulary(ours: Checkpoint, theirs: Checkpoint) -> bool:
    """Return whether configurations differ at most in the number of tokens and the tied head."""
    found = config_differences(ours, theirs, tokens=False)
    return not any(difference.weight == "fatal" for difference in found)


def settings(checkpoint: Checkpoint) -> PretrainedConfig:
    """Return a model's configuration as transformers reads it.

    Raises:
        PreflightError: the configuration is not valid.
    """
    try:
        return read_config(checkpoint.config)
    except PreflightError as error:
        raise at(checkpoint.assets / CONFIG, error) from error


def complete(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return a model's configuration, including the defaults that config.json leaves out."""
    filled: dict[str, Any] = settings(checkpoint).to_dict()
    return filled


def tensor_faults(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    """List what prevents the tensors of two models from being merged: names, shapes, dtypes."""
    mine, other = ours.tensors, theirs.tensors
    faults = []
    if lacking := sorted(mine.keys() - other.keys()):
        faults.append(f"lacks {len(lacking)} tensor(s): {shown(lacking)}{tied_hint(lacking)}")
    if extra := sorted(other.keys() - mine.keys()):
        faults.append(f"has {len(extra)} extra tensor(s): {shown(extra)}{tied_hint(extra)}")
    shapes = [n for n, info in mine.items() if n in other and other[n].shape != info.shape]
    if shapes:
        first = shapes[0]
        faults.append(
            f"{len(shapes)} tensor(s) of a different shape: {shown(shapes)}; {first} is "
            f"{list(other[first].shape)}, expected {list(mine[first].shape)}"
        )
    faults += [
        f"stores {a} where {b} is expected"
        for a, b in dtype_pairs(ours, theirs)
        if a not in MERGEABLE or b not in MERGEABLE
    ]
    if any(info.dtype.startswith("float8") for info in other.values()):
        faults.append("stores quantised (float8) weights, which cannot be merged")
    return faults


def dtype_pairs(ours: Checkpoint, theirs: Checkpoint) -> list[tuple[str, str]]:
    """Return the pairs of dtypes (theirs, ours) of tensors whose dtypes differ."""
    mine, other = ours.tensors, theirs.tensors
    pairs = {(other[n].dtype, info.dtype) for n, info in mine.items() if n in other}
    return sorted(pair for pair in pairs if pair[0] != pair[1])


def tied_hint(names: list[str]) -> str:
    """Explain a missing or additional output head."""
    if "lm_head.weight" not in names:
        return ""
    return (
        " (one model ties its output head to its embedding and the other does not; save both "
        "tied, or both untied)"
    )
