"""Whether models can be merged, from their configurations, tokenizers and headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automerge.checkpoints.reader import Checkpoint, read_json, shown
from automerge.checkpoints.safetensors_file import MERGEABLE
from automerge.checkpoints.vocabulary import compare_tokenizers
from automerge.checkpoints.vocabulary_size import resized
from automerge.errors import Fault, PreflightError

SCANNED = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
)
REMOTE_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
# What says how a configuration was saved, or only how text is generated.
INCIDENTAL = frozenset(
    {
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "problem_type",
        "pretraining_tp",
        "_attn_implementation_autoset",
    }
)
# Differences that leave the weights mergeable, yet may change what the merged model does.
WARNED = frozenset(
    {
        "max_position_embeddings",
        "sliding_window",
        "max_window_layers",
        "use_sliding_window",
        "attention_dropout",
        "hidden_dropout",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
        "dropout",
        "initializer_range",
    }
)


@dataclass(frozen=True)
class Compatibility:
    """What keeps models from being merged, and what the user should know."""

    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]

    def __add__(self, other: Compatibility) -> Compatibility:
        return Compatibility(self.faults + other.faults, self.warnings + other.warnings)


def check_models(base: tuple[str, Checkpoint], sources: Mapping[str, Checkpoint]) -> Compatibility:
    """Compare every source with the base, by name; reads no weights."""
    name, checkpoint = base
    result = Compatibility(tuple(scan(checkpoint.assets)), ())
    for source, other in sources.items():
        result += Compatibility(tuple(scan(other.assets)), ())
        result += compare((name, checkpoint), (source, other))
    return result


def scan(folder: Path) -> list[Fault]:
    """List what asks to run code, or hides numbers, in a model folder's configuration files."""
    faults: list[Fault] = []
    for file in SCANNED:
        if not (folder / file).exists():
            continue
        try:
            content = read_json(folder / file)
        except PreflightError as error:
            faults += error.faults
            continue
        faults += [
            Fault(
                f"{folder / file}: {key!r} asks to run code that comes with the model, which is "
                "never done; use a model of a native transformers architecture"
            )
            for key in sorted(keys_within(content) & set(REMOTE_CODE))
        ]
        if content.get("quantization_config"):
            faults.append(Fault(f"{folder / file}: quantised weights cannot be merged"))
    return faults


def keys_within(value: object) -> set[str]:
    """All keys of nested mappings, however deep."""
    keys: set[str] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            # A null or false entry asks for nothing.
            keys |= {key for key, content in item.items() if content}
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
    """What separates one source from the base; raises PreflightError for unreadable files."""
    (base_name, ours), (name, theirs) = base, source
    faults: list[str] = []
    warnings: list[str] = []
    fatal, notable = config_differences(*completed(ours, theirs))
    if fatal:
        faults.append(
            f"{name} and {base_name} are different architectures:"
            + "".join(f"\n  {key}: {a!r} in {name}, {b!r} in {base_name}" for key, b, a in fatal)
        )
    warnings += [
        f"{name}: {key} is {a!r}, {b!r} in {base_name}; the merged model has {b!r}"
        for key, b, a in notable
    ]
    faults += [f"{name}, compared with {base_name}: {f}" for f in tensor_faults(ours, theirs)]
    warnings += [
        f"{name}: stored in {a}, {base_name} in {b}; merged in float32, rounded once"
        for a, b in dtype_pairs(ours, theirs)
        if a in MERGEABLE and b in MERGEABLE
    ]
    if theirs.assets != ours.assets:
        token_faults, token_warnings = compare_tokenizers(ours.assets, theirs.assets)
        faults += [f"{name}, compared with {base_name}: {fault}" for fault in token_faults]
        warnings += [f"{name}: {warning}" for warning in token_warnings]
    return Compatibility(tuple(map(Fault, faults)), tuple(warnings))


Difference = tuple[str, Any, Any]


def config_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[list[Difference], list[Difference]]:
    """Fatal and notable differences, each (key, ours, theirs)."""
    fatal: list[Difference] = []
    notable: list[Difference] = []
    for key in sorted((ours.keys() | theirs.keys()) - INCIDENTAL - {*REMOTE_CODE}):
        if (a := ours.get(key)) != (b := theirs.get(key)):
            (notable if key in WARNED else fatal).append((key, a, b))
    return fatal, notable


def alike_but_for_vocabulary(ours: Checkpoint, theirs: Checkpoint) -> bool:
    """Whether two configurations differ at most in the number of tokens and the tied head."""
    both = completed(ours, theirs)
    neutral = [resized(config, 0) | {"tie_word_embeddings": None} for config in both]
    return not config_differences(*neutral)[0]


def completed(ours: Checkpoint, theirs: Checkpoint) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both configurations with their defaults, unless they are written alike."""
    if ours.config == theirs.config:
        return ours.config, theirs.config
    return complete(ours), complete(theirs)


def complete(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Fill in the defaults that transformers leaves out of config.json, or did in older versions.

    Only transformers' own configuration classes are used; others are compared as they are written.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = checkpoint.config
    try:
        kind = CONFIG_MAPPING[config["model_type"]]
    except KeyError:
        return config
    if not kind.__module__.startswith("transformers.models."):
        return config
    try:
        filled: dict[str, Any] = kind.from_dict(dict(config)).to_dict()
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise PreflightError(f"{checkpoint.path / 'config.json'}: {error}") from error
    return filled


def tensor_faults(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    """List what keeps the tensors of two models from being merged: names, shapes, dtypes."""
    mine, other = ours.tensors, theirs.tensors
    faults = []
    if lacking := sorted(mine.keys() - other.keys()):
        faults.append(f"lacks {len(lacking)} tensor(s): {shown(lacking)}{tied_hint(lacking)}")
    if extra := sorted(other.keys() - mine.keys()):
        faults.append(f"has {len(extra)} tensor(s) too many: {shown(extra)}{tied_hint(extra)}")
    shapes = [n for n, info in mine.items() if n in other and other[n].shape != info.shape]
    if shapes:
        first = shapes[0]
        faults.append(
            f"{len(shapes)} tensor(s) of another shape: {shown(shapes)}; {first} is "
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
    """The different dtypes (theirs, ours) that tensors of one name have."""
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
