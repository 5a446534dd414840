"""Folders of adapters as PEFT and trainers leave them."""

from __future__ import annotations

import re
from pathlib import Path

from automerge.checkpoints.adapters.options import CONFIG, IA3, LORA
from automerge.checkpoints.folder.formats import INDEX, SINGLE
from automerge.checkpoints.reader import check_inside, read_json, shown
from automerge.errors import PreflightError

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
MODEL = "config.json"
NAMES = {LORA: "LoRA", IA3: "IA³"}
"""What kinds of adapters are called, by their peft_type."""
QUANTISED = re.compile(r"(-unsloth)?-(bnb-)?(4bit|8bit|int4|int8|awq|gptq\S*)$", re.IGNORECASE)
"""Suffixes of the names of quantised copies, which adapters are trained on."""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has a PEFT adapter's configuration and no whole model's weights."""
    return (folder / CONFIG).exists() and not has_model(folder)


def adapter_kind(folder: Path) -> str | None:
    """Return what an adapter's kind is called, LoRA or IA³; None for folders of whole models."""
    if not is_adapter(folder):
        return None
    kind = str(read_json(folder / CONFIG).get("peft_type"))
    return NAMES.get(kind, kind)


def has_model(folder: Path) -> bool:
    return (folder / SINGLE).exists() or (folder / INDEX).exists()


def check_folder(folder: Path, base: object) -> None:
    """Check that a folder is a single model or adapter.

    Args:
        folder: the folder.
        base: the base that an adapter would be added to; None if there is none.

    Raises:
        PreflightError: it is something else; the message says what, and what to do.
    """
    if (folder / CONFIG).exists():
        if has_model(folder):
            raise PreflightError(
                f"{folder}: contains both a model ({SINGLE}) and an adapter ({CONFIG}), so it is "
                "unclear which is meant; move one of them to a folder of its own"
            )
        if base is None:
            raise PreflightError(
                f"{folder}: is an adapter, not a model by itself; name the model it was "
                "trained on as the base, and the adapter as a source"
            )
        return
    for name in (WEIGHTS, PICKLE):
        if (folder / name).exists() and not has_model(folder):
            raise PreflightError(
                f"{folder}: has {name} but no {CONFIG}, which says how it is added; copy it from "
                "where it was trained"
            )
    if not (folder / MODEL).exists() and (inner := within(folder)):
        raise PreflightError(
            f"{folder}: contains no model itself, but folders that do: {shown(inner)}; give one "
            "of these"
        )


def within(folder: Path) -> list[str]:
    """Return the names of subfolders that contain a model or an adapter."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [e.name for e in entries if (e / CONFIG).is_file() or (e / MODEL).is_file()]


def check_adapter(folder: Path) -> None:
    """Check that an adapter's weights exist as safetensors.

    Raises:
        PreflightError: they do not.
    """
    if (folder / WEIGHTS).exists():
        check_inside(folder, WEIGHTS)
        return
    if (folder / PICKLE).exists():
        raise PreflightError(
            f"{folder}: its weights are {PICKLE}, a pickle, which can run code when loaded and is "
            f"not read; if you trust it: {conversion(folder)}"
        )
    raise PreflightError(
        f"{folder}: an adapter without {WEIGHTS}. If it is published as {PICKLE}, which is not "
        f"downloaded, save that to a folder and run there: {conversion(Path())}"
    )


def conversion(folder: Path) -> str:
    """Return a command that rewrites an adapter's weights as safetensors without running code."""
    return (
        'python -c "import torch, safetensors.torch as s; s.save_file({k: v.clone().contiguous() '
        f"for k, v in torch.load('{folder / PICKLE}', map_location='cpu', weights_only=True)"
        f".items()}}, '{folder / WEIGHTS}')\""
    )


def trained_on_another(named: str | None, base: Path) -> tuple[str, ...]:
    """Warn if an adapter names a model other than its base.

    Copies with a different owner or quantisation count as the same model.
    """
    own = snapshot(base) or str(base)
    if named is None or known_as(named) == known_as(own):
        return ()
    return (
        f"says that it was trained on {named!r:.200}, but is added to {own}: unless these are the "
        "same weights, leave it out or name its own base",
    )


def snapshot(folder: Path) -> str | None:
    """Return the hub id of a folder in the hub's cache; None for other folders."""
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return None


def known_as(reference: str) -> str:
    """Return a model's name without its owner, revision, and a copy's quantisation."""
    name = reference.rstrip("/").rpartition("/")[2].partition("@")[0]
    return QUANTISED.sub("", name).lower()
