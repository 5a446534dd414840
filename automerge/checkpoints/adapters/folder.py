"""Folders of adapters as PEFT and trainers leave them."""

from __future__ import annotations

import re
from pathlib import Path

from automerge.checkpoints.adapters.options import CONFIG
from automerge.checkpoints.folder.formats import INDEX, SINGLE
from automerge.checkpoints.reader import check_inside, shown
from automerge.errors import PreflightError

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MODEL = "config.json"
QUANTISED = re.compile(r"(-unsloth)?-(bnb-)?(4bit|8bit|int4|int8|awq|gptq\S*)$", re.IGNORECASE)
"""The ends of the names of quantised copies, which adapters are trained over."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter: its configuration, and no whole model's weights."""
    return (folder / CONFIG).exists() and not has_model(folder)


def has_model(folder: Path) -> bool:
    return (folder / SINGLE).exists() or (folder / INDEX).exists()


def check_folder(folder: Path, base: object) -> None:
    """Say what a folder is that holds no model, or more than one; raises PreflightError.

    `base` is what an adapter would be opened over, None where it has none.
    """
    if (folder / CONFIG).exists():
        if has_model(folder):
            raise PreflightError(
                f"{folder}: holds both a model ({SINGLE}) and an adapter ({CONFIG}), and does not "
                "say which is meant; move the files of one of them to a folder of their own"
            )
        if base is None:
            raise PreflightError(
                f"{folder}: is a LoRA adapter, and not a model by itself; name the model it was "
                "trained over as the base, and it as a source"
            )
        return
    for name in (WEIGHTS, PICKLE):
        if (folder / name).exists() and not has_model(folder):
            raise PreflightError(
                f"{folder}: has {name} and no {CONFIG}, which says how it is added; copy it from "
                "where it was trained"
            )
    if not (folder / MODEL).exists() and (inner := within(folder)):
        raise PreflightError(
            f"{folder}: holds no model itself, but folders with one: {shown(inner)}; give one of "
            "them"
        )


def within(folder: Path) -> list[str]:
    """Return the folders in a folder that hold a model or an adapter."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [e.name for e in entries if (e / CONFIG).is_file() or (e / MODEL).is_file()]


def check_adapter(folder: Path) -> None:
    """Refuse an adapter whose weights are not there, or not safetensors; raises PreflightError."""
    if (folder / WEIGHTS).exists():
        check_inside(folder, WEIGHTS)
        return
    if (folder / PICKLE).exists():
        raise PreflightError(
            f"{folder}: its weights are {PICKLE}, a pickle, which can run code when loaded and is "
            f"not read; where you trust it: {conversion(folder)}"
        )
    raise PreflightError(
        f"{folder}: an adapter without {WEIGHTS}. If it is published as {PICKLE}, which is not "
        f"downloaded, bring that to a folder, and there: {conversion(Path())}"
    )


def conversion(folder: Path) -> str:
    """A command that rewrites an adapter's weights as safetensors, without running their code."""
    return (
        'python -c "import torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() '
        f"for k, v in torch.load('{folder / PICKLE}', map_location='cpu', weights_only=True)"
        f".items()}}, '{folder / WEIGHTS}')\""
    )


def trained_on_another(named: str | None, base: Path) -> tuple[str, ...]:
    """Warn where an adapter names another model than its base.

    Copies under another owner or of another number of bits count as the same model.
    """
    own = snapshot(base) or str(base)
    if named is None or known_as(named) == known_as(own):
        return ()
    return (
        f"says that it was trained over {named!r:.200}, and is added to {own}: unless these are "
        "the same weights, leave it out or name its own base",
    )


def snapshot(folder: Path) -> str | None:
    """Return the hub id of a folder of the hub's cache."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return None


def known_as(reference: str) -> str:
    """Return a model's name without owner, revision and the number of bits of a copy."""
    name = reference.rstrip("/").rpartition("/")[2].partition("@")[0]
    return QUANTISED.sub("", name).lower()
