"""The names of tensors in an adapter's file, as PEFT and trainers write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

PREFIX = "base_model.model."
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")
"""What torch.compile, FSDP and DeepSpeed insert into names, or put before them."""
NAMED = re.compile(
    r".+\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save|"
    r"trainable_tokens_delta|ia3_l)\.(?P<adapter>[\w\-]+)(?:\.(?:weight|bias))?"
)
FORMS = (
    ("A", re.compile(r"(?P<module>.+)\.lora_A(?:\.weight)?")),
    ("B", re.compile(r"(?P<module>.+)\.lora_B(?:\.weight)?")),
    ("embedding_A", re.compile(r"(?P<module>.+)\.lora_embedding_A(?:\.weight)?")),
    ("embedding_B", re.compile(r"(?P<module>.+)\.lora_embedding_B(?:\.weight)?")),
    ("B_bias", re.compile(r"(?P<module>.+)\.lora_B\.bias")),
    ("magnitude", re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?")),
    ("tokens", re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta")),
    ("scale", re.compile(r"(?P<module>.+)\.ia3_l(?:\.weight)?")),
    ("idle", re.compile(r"(?P<module>.+)\.lora_velora_embed")),
    ("base", re.compile(r"(?P<module>.+?)(?:\.token_adapter)?\.base_layer(?P<rest>\..+)")),
    ("original", re.compile(r"(?P<module>.+)\.original_module(?P<rest>\..+)")),
    ("whole", re.compile(r"(?P<module>.+)\.modules_to_save(?P<rest>\..+)")),
    ("foreign", re.compile(r"(?P<module>.+)\.(?:lora_\w+|token_adapter)\b.*")),
)
"""The forms of tensors, with the patterns of their names; the first one that matches counts."""

Keys: TypeAlias = dict[str, str]


@dataclass
class ModuleKeys:
    """The tensors of an adapter's file that belong to one tensor of the model.

    `forms` maps forms to names in the file: `A`, `B`, `scale`, ...; `base` is the weight that
    the factors are added to, stored beside them; `whole` replaces the tensor; `original` is what it
    replaced.
    """

    name: str
    forms: Keys = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


def read_keys(keys: Iterable[str]) -> tuple[Mapping[str, ModuleKeys], list[str]]:
    """Group an adapter's tensors by the model's tensor they belong to, and list faults."""
    keys = list(keys)
    names = {match["adapter"] for key in keys if (match := NAMED.fullmatch(key))}
    names -= {"weight", "bias"}
    if len(names) > 1:
        shown = ", ".join(sorted(names)[:5])
        return {}, [
            f"contains {len(names)} adapters ({shown}); save one of them alone: "
            "save_pretrained(..., selected_adapters=[NAME])"
        ]
    found: dict[str, ModuleKeys] = {}
    faults: list[str] = []
    for key in keys:
        name = plain(key, names)
        form, target = classify(name)
        if form == "foreign":
            faults.append(f"{key!r:.200} is not a known tensor of an adapter")
        elif form != "idle":
            entry = found.setdefault(target, ModuleKeys(target))
            if form == "whole" and "whole" in entry.forms and ".modules_to_save." in key:
                continue  # PEFT writes a resized module twice
            entry.forms[form] = key
    return found, faults


def plain(key: str, adapters: Iterable[str]) -> str:
    """Return a key without PEFT's prefix, trainers' wrappers and the adapter's name."""
    for wrapper in WRAPPERS[:-1]:
        key = key.replace(wrapper, "")
    key = key.removeprefix(WRAPPERS[-1]).removeprefix(PREFIX)
    for adapter in adapters:
        key = f"{key}.".replace(f".{adapter}.", ".").removesuffix(".")
    return key


def classify(name: str) -> tuple[str, str]:
    """Return a tensor's form, and the model's tensor that it belongs to."""
    for form, pattern in FORMS:
        if match := pattern.fullmatch(name):
            if form == "B_bias":
                return form, f"{match['module']}.bias"
            return form, match["module"] + (match.groupdict().get("rest") or ".weight")
    return "whole", name
