"""Write a LoRA adapter as PEFT reads it; every scale in it is 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from automerge.checkpoints.adapters.folder import WEIGHTS
from automerge.checkpoints.adapters.keys import PREFIX
from automerge.checkpoints.adapters.options import CONFIG
from automerge.checkpoints.adapters.sites import Kind, Site
from automerge.checkpoints.safetensors_file import TensorInfo
from automerge.checkpoints.writer import (
    blocks,
    check_headers,
    check_space,
    check_target,
    staging,
    sweep,
    sync_all,
    write_verified,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factored:
    """A change up · down of the (m, n) tensor at a site; `up` is (m, r), `down` (r, n)."""

    site: Site
    up: Tensor
    down: Tensor

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Trained:
    """What an adapter is for: its base, as PEFT looks it up, and the class of its task."""

    base: str
    revision: str | None = None
    task: str | None = None


def write_adapter(
    target: Path,
    factored: Sequence[Factored],
    whole: Sequence[tuple[Site, Tensor]],
    trained: Trained,
    modules: Iterable[str],
    *,
    inputs: Iterable[Path] = (),
    texts: Mapping[str, str] = MappingProxyType({}),
    overwrite: bool = False,
) -> None:
    """Write an adapter's folder, whole or not at all.

    Ranks differ between modules; lora_alpha is the rank everywhere, so that the scale is 1 for
    readers that know patterns of ranks and for those that do not.

    Args:
        target: the folder.
        factored: changes by factors, at least one.
        whole: tensors that replace the base's.
        trained: what the adapter is for.
        modules: the names of all of the base's modules that take factors.
        inputs: folders that must not be overwritten.
        texts: the text of further files, by name.
        overwrite: whether the folder may exist and have content.

    Raises:
        PreflightError: the disk refuses; what was there before is then untouched.
    """
    check_target(target, inputs, overwrite)
    sweep(target)
    tensors = stored(factored, whole)
    layout = {n: TensorInfo(tuple(t.shape), str(t.dtype)[6:]) for n, t in tensors.items()}
    check_space(target, sum(info.n_bytes for info in layout.values()))
    with staging(target, overwrite) as folder:
        write_verified(folder / WEIGHTS, blocks(layout, iter(tensors.items())))
        config = json.dumps(configuration(factored, whole, trained, modules), indent=2)
        for name, text in {CONFIG: config + "\n", **texts}.items():
            (folder / name).write_text(text, encoding="utf-8")
        check_headers(folder, [WEIGHTS], layout)
        sync_all(folder)


def stored(factored: Sequence[Factored], whole: Sequence[tuple[Site, Tensor]]) -> dict[str, Tensor]:
    """Return an adapter's tensors by their names in its file."""
    tensors: dict[str, Tensor] = {}
    for change in factored:
        name, up, down = f"{PREFIX}{change.site.module}", change.up, change.down
        if change.site.kind is not Kind.LINEAR:  # PEFT adds the transposed product
            up, down = down.T, up.T
        if change.site.kind is Kind.EMBEDDING:
            tensors |= {f"{name}.lora_embedding_A": down, f"{name}.lora_embedding_B": up}
        else:
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    targeted = {change.site.module for change in factored}
    for site, tensor in whole:
        inner = ".base_layer" if site.kind is Kind.BIAS and site.module in targeted else ""
        tensors[f"{PREFIX}{site.module}{inner}.{site.leaf}"] = tensor
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def configuration(
    factored: Sequence[Factored],
    whole: Sequence[tuple[Site, Tensor]],
    trained: Trained,
    modules: Iterable[str],
) -> dict[str, Any]:
    """Return the content of adapter_config.json."""
    largest = max(change.rank for change in factored)
    ranks = {c.site.module: c.rank for c in factored if c.rank != largest}
    saved = sorted({site.module for site, _ in whole if site.kind is not Kind.BIAS})
    return {
        "peft_type": "LORA",
        "task_type": trained.task,
        "base_model_name_or_path": trained.base,
        "revision": trained.revision,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "lora_dropout": 0.0,
        "bias": "all" if any(site.kind is Kind.BIAS for site, _ in whole) else "none",
        "fan_in_fan_out": any(c.site.kind is Kind.TRANSPOSED for c in factored),
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": targets([c.site.module for c in factored], modules),
        "modules_to_save": saved or None,
    }


def targets(changed: Sequence[str], modules: Iterable[str]) -> list[str]:
    """Return the shortest names that PEFT finds exactly the changed modules by."""
    ends = sorted({name.rpartition(".")[2] for name in changed})
    found = {name for name in modules if name.rpartition(".")[2] in ends}
    return ends if found == set(changed) else sorted(changed)
