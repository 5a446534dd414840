"""LoRA adapters as checkpoints: base + scale · B·A (Hu et al. 2022, arXiv:2106.09685)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.low_rank import LowRank
from automerge.checkpoints.reader import Checkpoint, check_inside, read_json, shown
from automerge.checkpoints.safetensors_file import TensorInfo, read_header
from automerge.errors import Fault, PreflightError, nearest

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."

UNDERSTOOD = frozenset(
    {
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "fan_in_fan_out",
        "bias",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
    }
)
"""What changes the merged weights, and what only says which modules the tensors belong to."""
METADATA = frozenset(
    {
        "task_type",
        "peft_type",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "init_lora_weights",
        "auto_mapping",
        "qalora_group_size",
        "ensure_weight_tying",
        "megatron_core",
    }
)
"""What is never acted on."""
LORA_KEY = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
PATTERN = re.compile(r"[\w.\-\\^$|\[\]*+]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Update:
    """One base tensor's low-rank update, by the names of its factors."""

    down: str
    up: str
    scale: float
    transposed: bool


class LoraCheckpoint:
    """A base checkpoint with a PEFT LoRA adapter merged into it.

    What stays in memory are the factors; a merged tensor is made when it is read, in float32,
    rounded once to the base's dtype. The adapter's configuration is data: keys outside a known
    list are refused. Raises PreflightError with every fault found.
    """

    def __init__(self, path: Path, base: Checkpoint) -> None:
        self.path = path
        self.assets = base.assets
        self._base = base
        self.config = base.config
        self.tensors: Mapping[str, TensorInfo] = base.tensors
        config = adapter_config(path / CONFIG)
        check_inside(path, WEIGHTS)
        header = read_header(path / WEIGHTS)
        self._updates, self._replaced = connect(path, config, header, base.tensors)

    def read(self, name: str) -> Tensor:
        if (update := self.update(name)) is not None:
            return update.whole()
        tensor = self._base.read(name)
        if name in self._replaced:
            replaced: Tensor = self._file.get_tensor(self._replaced[name])
            return replaced.to(tensor.dtype)
        return tensor

    def update(self, name: str) -> LowRank | None:
        """The factors of a tensor the adapter changes, views of its file."""
        if name in self._replaced or name not in self._updates:
            return None
        update = self._updates[name]
        down, up = (self._file.get_tensor(factor) for factor in (update.down, update.up))
        if update.transposed:
            down, up = up.T, down.T
        return LowRank(self._base.read(name), up, down, update.scale)

    @cached_property
    def _file(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path / WEIGHTS, framework="pt", device="cpu")

    def __reduce__(self) -> tuple[type[LoraCheckpoint], tuple[Path, Checkpoint]]:
        return LoraCheckpoint, (self.path, self._base)


def adapter_config(path: Path) -> dict[str, Any]:
    """Read an adapter's configuration; refuse what would change the merge unseen."""
    config = read_json(path)
    faults = []
    if config.get("peft_type") != "LORA":
        faults.append(f"peft_type is {config.get('peft_type')!r}; only LORA adapters are merged")
    if config.get("use_dora"):
        faults.append(
            "DoRA adapters are not supported; merge it into its base with PEFT's merge_and_unload"
        )
    unknown = sorted(
        key
        for key, value in config.items()
        if key not in UNDERSTOOD | METADATA and value not in (None, False, [], {})
    )
    faults += [
        f"{key!r} is not supported in an adapter (got {config[key]!r:.80})" for key in unknown
    ]
    faults += code_faults(config)
    if config.get("bias") not in (None, "none", "all", "lora_only"):
        faults.append(f"bias is {config['bias']!r}; expected none, all or lora_only")
    if not natural(config.get("r")):
        faults.append(f"r must be a whole number from 1; got {config.get('r')!r}")
    if not finite(config.get("lora_alpha")):
        faults.append(f"lora_alpha must be a finite number; got {config.get('lora_alpha')!r}")
    for key, allowed in (("rank_pattern", natural), ("alpha_pattern", finite)):
        faults += pattern_faults(key, config.get(key) or {}, allowed)
    if faults:
        raise PreflightError(Fault(f"{path}: {fault}") for fault in faults)
    return config


def code_faults(config: Mapping[str, Any]) -> list[str]:
    """List unusual modules that PEFT would import; none is imported here."""
    mapping = config.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    faults = []
    if library is not None and not str(library).startswith("transformers."):
        faults.append(f"auto_mapping asks to import {library!r:.80}")
    if config.get("megatron_core") not in (None, "megatron.core"):
        faults.append(f"megatron_core asks to import {config['megatron_core']!r:.80}")
    return faults


def natural(value: object) -> bool:
    return type(value) is int and value > 0


def finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def pattern_faults(key: str, patterns: object, allowed: Any) -> list[str]:
    """List patterns that are not simple: they are regular expressions from strangers."""
    if not isinstance(patterns, dict):
        return [f"{key} must be a mapping; got {patterns!r:.80}"]
    faults = []
    for pattern, value in patterns.items():
        if (
            not PATTERN.fullmatch(pattern)
            or sum(map(pattern.count, "*+")) > 3
            or not sound(pattern)
        ):
            faults.append(f"{key}: {pattern[:80]!r} is not a simple module name or pattern")
        if not allowed(value):
            faults.append(f"{key}: {pattern[:80]!r} has the value {value!r:.80}")
    return faults


def sound(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def setting(config: Mapping[str, Any], key: str, default: Any, module: str) -> Any:
    """A pattern's value for a module, matched as PEFT does."""
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def connect(
    path: Path,
    config: Mapping[str, Any],
    header: Mapping[str, TensorInfo],
    base: Mapping[str, TensorInfo],
) -> tuple[dict[str, Update], dict[str, str]]:
    """Match adapter tensors to base tensors: low-rank updates, and tensors replaced whole."""
    faults: list[str] = []
    factors: dict[tuple[str, bool], dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for key in header:
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        match = LORA_KEY.fullmatch(name)
        if match:
            factors.setdefault((match[1], bool(match[2])), {})[match[3]] = key
        elif (target := base_name(name, base)) is None:
            faults.append(f"{key!r} belongs to no tensor of the base{nearest(name, tuple(base))}")
        elif header[key].shape != base[target].shape:
            faults.append(f"{key!r} has shape {header[key].shape}, the base {base[target].shape}")
        else:
            replaced[target] = key
    updates: dict[str, Update] = {}
    for (module, embedding), pair in factors.items():
        target = base_name(f"{module}.weight", base)
        if target is None:
            faults.append(f"module {module!r} is not in the base: is it another model's adapter?")
        elif pair.keys() != {"A", "B"}:
            faults.append(f"module {module!r} has only factor {shown(sorted(pair))} of A and B")
        else:
            down, up = header[pair["A"]].shape, header[pair["B"]].shape
            transposed = embedding or bool(config.get("fan_in_fan_out"))
            rank = setting(config, "rank_pattern", config["r"], module)
            faults += shape_faults(module, down, up, base[target].shape, rank, transposed)
            alpha = setting(config, "alpha_pattern", config["lora_alpha"], module)
            scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            updates[target] = Update(pair["A"], pair["B"], scale, transposed)
    if not header:
        faults.append("holds no tensors")
    if faults:
        raise PreflightError(Fault(f"{path / WEIGHTS}: {fault}") for fault in faults)
    return updates, replaced


def base_name(name: str, base: Mapping[str, TensorInfo]) -> str | None:
    """The one base tensor of this name, with or without an outer prefix such as "model."."""
    if name in base:
        return name
    found = [n for n in base if name.endswith(f".{n}") or n.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None


def shape_faults(
    module: str,
    down: tuple[int, ...],
    up: tuple[int, ...],
    weight: tuple[int, ...],
    rank: int,
    transposed: bool,
) -> list[str]:
    """List what is wrong with the shapes of a module's factors A (down) and B (up)."""
    if len(down) != 2 or len(up) != 2:
        return [f"module {module!r}: factors must be matrices; got A {down}, B {up}"]
    if down[0] != rank or up[1] != rank:
        return [f"module {module!r}: rank {rank} in {CONFIG}, but A is {down} and B {up}"]
    product = (down[1], up[0]) if transposed else (up[0], down[1])
    if product != weight:
        return [f"module {module!r}: B·A has shape {product}, the base {weight}"]
    return []


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model of its own."""
    return (folder / CONFIG).exists() and not (folder / "config.json").exists()
