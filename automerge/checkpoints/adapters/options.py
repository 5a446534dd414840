"""What PEFT's options mean for the merged weights: applied, without effect, or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from automerge.checkpoints.reader import read_json
from automerge.errors import Fault, PreflightError

CONFIG = "adapter_config.json"
MERGE_FIRST = "merge it into its base with PEFT's merge_and_unload and use the merged folder"
CONVERT = (
    "its base is not the model it names: save it again with PEFT's save_pretrained(..., "
    "path_initial_model_for_weight_conversion=...), which turns it into an ordinary LoRA adapter"
)
LEAVE_OUT = "no change of weights reproduces it: leave it out"
PATTERN = re.compile(r"[\w.\-\\^$|\[\]*+]{1,200}", re.ASCII)
NITER = re.compile(r"pissa_niter_\d{1,6}", re.ASCII)

Use = Literal["applied", "no effect", "refused"]

UNMERGEABLE = frozenset(
    {
        *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
        *("ADAPTION_PROMPT", "CPT", "CARTRIDGE", "XLORA", "POLY"),
    }
)
"""PEFT types that add to the input or the forward pass rather than the weights."""


@dataclass(frozen=True)
class Option:
    """One option of an adapter's configuration: its use, how or why, and what to do instead.

    A refused option is accepted if its value is neutral (null, false, empty).
    """

    use: Use
    note: str

    def neutral(self, value: object) -> bool:
        return not value


def applied(note: str) -> Option:
    return Option("applied", note)


def idle(note: str) -> Option:
    return Option("no effect", note)


def refused(note: str) -> Option:
    return Option("refused", note)


TRAINING = idle("only affects training")
RECORD = idle("for the record")
WHICH = idle("the names of the adapter's tensors say which modules it changes")
BASE = idle("for the record; a base with another name gives a warning")
CLASS = idle("a class that PEFT would import; refused unless from transformers")
INIT = idle("how training started; only `init_lora_weights` matters")

LORA_OPTIONS: Mapping[str, Option] = {
    "r": applied("the rank; the factors must have it"),
    "lora_alpha": applied("the scale is lora_alpha / r"),
    "use_rslora": applied("the scale is lora_alpha / √r"),
    "rank_pattern": applied("ranks of individual modules, by simple names or patterns"),
    "alpha_pattern": applied("alphas of individual modules, by simple names or patterns"),
    "use_dora": applied("rows are scaled to the trained magnitudes"),
    "lora_bias": applied("the scaled bias of B is added to the module's, which must have one"),
    "bias": applied("none, all or lora_only: trained biases replace the base's"),
    "fan_in_fan_out": applied("weights are stored transposed (GPT-2's Conv1D)"),
    "modules_to_save": applied("tensors saved as a whole replace the base's"),
    "trainable_token_indices": applied("rows of individual tokens replace the base's"),
    "ensure_weight_tying": applied("a tied head that was trained with the embedding stays tied"),
    "init_lora_weights": applied(
        "true, false, gaussian, eva, orthogonal and mica leave the base unchanged; for pissa and "
        "olora, the initial factors are subtracted from the base, as PEFT does; pissa_niter_N, "
        "corda, loftq and lora_ga are refused: their initial factors cannot be computed from the "
        "base alone"
    ),
    "peft_type": applied("LORA"),
    "target_modules": WHICH,
    "exclude_modules": WHICH,
    "layers_to_transform": WHICH,
    "layers_pattern": WHICH,
    "task_type": RECORD,
    "peft_version": RECORD,
    "revision": RECORD,
    "base_model_name_or_path": BASE,
    "inference_mode": TRAINING,
    "lora_dropout": TRAINING,
    "velora_config": TRAINING,
    "runtime_config": idle("where PEFT runs its computations"),
    "auto_mapping": CLASS,
    "megatron_core": idle("a module that PEFT would import; refused unless it is megatron.core"),
    "qalora_group_size": idle("only `use_qalora` matters"),
    "loftq_config": INIT,
    "eva_config": INIT,
    "corda_config": INIT,
    "lora_ga_config": INIT,
    "megatron_config": refused(f"Megatron's parallel layers; {MERGE_FIRST}"),
    "alora_invocation_tokens": refused(f"acts only after its invocation tokens; {LEAVE_OUT}"),
    "use_qalora": refused(f"adds to a quantised base only; {LEAVE_OUT}"),
    "monteclora_config": refused(f"samples its weights; {MERGE_FIRST}"),
    "arrow_config": refused(f"routes between adapters; {LEAVE_OUT}"),
    "use_bdlora": refused(f"block-diagonal factors; {MERGE_FIRST}"),
    "kasa_config": refused(f"removes small singular values from the base; {MERGE_FIRST}"),
    "target_parameters": refused(f"changes parameters of fused experts; {MERGE_FIRST}"),
    "layer_replication": refused(f"has more layers than the base; {MERGE_FIRST}"),
}
"""Every field of PEFT's LoraConfig; docs/adapters.md has this table and the next."""

IA3_OPTIONS: Mapping[str, Option] = {
    "fan_in_fan_out": applied("weights are stored transposed (GPT-2's Conv1D)"),
    "modules_to_save": applied("tensors saved as a whole replace the base's"),
    "peft_type": applied("IA3"),
    "feedforward_modules": idle("the shape of a vector says whether it scales inputs or outputs"),
    "target_modules": WHICH,
    "exclude_modules": WHICH,
    "init_ia3_weights": idle("how training started"),
    "task_type": RECORD,
    "peft_version": RECORD,
    "revision": RECORD,
    "base_model_name_or_path": BASE,
    "inference_mode": TRAINING,
    "auto_mapping": CLASS,
}
"""Every field of PEFT's IA3Config."""

LORA: Final = "LORA"
IA3: Final = "IA3"
OPTIONS: Mapping[str, Mapping[str, Option]] = {LORA: LORA_OPTIONS, IA3: IA3_OPTIONS}
"""The options of every kind of adapter that is merged, by its peft_type."""

START_KEPT = ("gaussian", "eva", "orthogonal", "mica")
START_TAKEN_OUT = ("pissa", "olora")
"""Initialisations that leave the base unchanged, and those that first subtract B·A from it."""


@dataclass(frozen=True)
class Settings:
    """What an adapter's configuration says about its merged weights.

    `kind` is its peft_type. What follows `task` is LoRA's alone; `start` is the initialisation that
    was subtracted from the base, if any.
    """

    kind: str
    transposed: bool
    base: str | None
    task: str | None
    rank: int = 0
    alpha: float = 0.0
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    dora: bool = False
    start: str | None = None
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """Return a module's rank."""
        return int(by_pattern(self.rank_pattern, self.rank, module))

    def scale_of(self, module: str) -> float:
        """Return the factor that a module's product B·A is multiplied by."""
        rank = self.rank_of(module)
        alpha = by_pattern(self.alpha_pattern, self.alpha, module)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def by_pattern(patterns: Mapping[str, float], default: float, module: str) -> float:
    """Return the value of the first pattern that matches a module, as PEFT matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_settings(path: Path) -> Settings:
    """Read an adapter's configuration, refusing options that are not understood.

    The configuration is data: nothing it names is imported.

    Raises:
        PreflightError: with every fault.
    """
    config = read_json(path)
    faults = [*kind_faults(config), *option_faults(config), *code_faults(config)]
    if not faults and config["peft_type"] == LORA:
        faults = [*start_faults(config), *number_faults(config), *token_faults(config)]
    if faults:
        raise PreflightError(Fault(f"{path}: {fault}") for fault in faults)
    base, task = config.get("base_model_name_or_path"), config.get("task_type")
    common = Settings(
        config["peft_type"],
        bool(config.get("fan_in_fan_out")),
        base if isinstance(base, str) and base else None,
        task if isinstance(task, str) else None,
    )
    return with_factors(common, config) if common.kind == LORA else common


def with_factors(common: Settings, config: Mapping[str, Any]) -> Settings:
    """Return settings with what a LoRA adapter's configuration adds to them."""
    start = str(config.get("init_lora_weights")).lower()
    return replace(
        common,
        rank=config["r"],
        alpha=config["lora_alpha"],
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        rank_stabilised=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        start=start if start in START_TAKEN_OUT else None,
        tokens=token_indices(config.get("trainable_token_indices")),
    )


def kind_faults(config: Mapping[str, Any]) -> list[str]:
    """List faults of adapters that are neither LoRA nor IA³, naming their type."""
    kind = config.get("peft_type")
    if kind in tuple(OPTIONS):
        return []
    advice = LEAVE_OUT if str(kind) in UNMERGEABLE else MERGE_FIRST
    return [f"peft_type is {kind!r:.80}; only LORA and IA3 adapters are merged: {advice}"]


def option_faults(config: Mapping[str, Any]) -> list[str]:
    """List options that are refused or unknown."""
    if kind_faults(config):
        return []
    options = OPTIONS[config["peft_type"]]
    faults = []
    for key in sorted(config):
        option = options.get(key, refused(f"not known to this version; {MERGE_FIRST}"))
        if option.use == "refused" and not option.neutral(config[key]):
            faults.append(
                f"{key!r:.80} is not supported in an adapter ({config[key]!r:.80}): {option.note}"
            )
    return faults


def code_faults(config: Mapping[str, Any]) -> list[str]:
    """List modules that PEFT would import, except its usual ones; nothing is imported here."""
    mapping = config.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    faults = []
    if library is not None and not str(library).startswith("transformers."):
        faults.append(f"auto_mapping asks to import {library!r:.80}")
    if config.get("megatron_core") not in (None, "megatron.core"):
        faults.append(f"megatron_core asks to import {config['megatron_core']!r:.80}")
    return faults


def start_faults(config: Mapping[str, Any]) -> list[str]:
    """List initialisations that changed the base in a way that cannot be reproduced."""
    start = config.get("init_lora_weights")
    if start is None or type(start) is bool:
        return []
    name = start.lower() if isinstance(start, str) else ""
    if name in (*START_KEPT, *START_TAKEN_OUT):
        return []
    if NITER.fullmatch(name):
        why = "a randomised SVD of the base, which cannot be reproduced"
    elif name.startswith("corda"):
        why = "a decomposition of the base by the activations of its training data (CorDA)"
    elif name == "loftq":
        why = "a base quantised for this adapter (LoftQ)"
    elif name == "lora_ga":
        why = "a base changed by the gradients of its training data (LoRA-GA)"
    else:
        return [f"init_lora_weights is {start!r:.80}, not known to this version: {MERGE_FIRST}"]
    return [f"init_lora_weights is {start!r:.80}: it was trained on {why}; {CONVERT}"]


def number_faults(config: Mapping[str, Any]) -> list[str]:
    """List ranks, scales and switches with invalid values."""
    faults = []
    if config.get("bias") not in (None, "none", "all", "lora_only"):
        faults.append(f"bias is {config['bias']!r:.80}; expected none, all or lora_only")
    if not natural(config.get("r")):
        faults.append(f"r must be a whole number from 1; got {config.get('r')!r:.80}")
    if not finite(config.get("lora_alpha")):
        faults.append(f"lora_alpha must be a finite number; got {config.get('lora_alpha')!r:.80}")
    for key, allowed in (("rank_pattern", natural), ("alpha_pattern", finite)):
        faults += pattern_faults(key, config.get(key) or {}, allowed)
    return faults


def natural(value: object) -> bool:
    return type(value) is int and value > 0


def finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def pattern_faults(key: str, patterns: object, allowed: Callable[[object], bool]) -> list[str]:
    """List patterns that are not simple, since they are regular expressions from anyone."""
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


def token_faults(config: Mapping[str, Any]) -> list[str]:
    """List token indices that are not lists of token ids."""
    given = config.get("trainable_token_indices")
    lists = list(given.values()) if isinstance(given, dict) else [given or []]
    if all(isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids) for ids in lists):
        return []
    return [f"trainable_token_indices must be lists of token ids; got {given!r:.80}"]


def token_indices(given: object) -> dict[str, tuple[int, ...]]:
    """Return token ids by the end of their module's name; "" is the model's token embedding."""
    if isinstance(given, dict):
        return {str(module): tuple(ids) for module, ids in given.items()}
    return {"": tuple(given)} if isinstance(given, list) else {}
