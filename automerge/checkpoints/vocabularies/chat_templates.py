"""The chat templates of a model folder, wherever transformers looks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from automerge.checkpoints.folder.files import read_bytes
from automerge.checkpoints.reader import read_json

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
LEGACY_TEMPLATE = "chat_template.json"
FURTHER_TEMPLATES = "additional_chat_templates"
DEFAULT_TEMPLATE = "default"


def chat_template(folder: Path) -> object:
    """Return a folder's chat template; texts by name if there are several; None if there are none.

    As in transformers, separate files take precedence over tokenizer_config.json; the file of older
    processors comes last.
    """
    files = {file.stem: text(file) for file in sorted((folder / FURTHER_TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE).exists():
        files = {DEFAULT_TEMPLATE: text(folder / TEMPLATE), **files}
    if files:
        return alone(files)
    for name in (TOKENIZER_CONFIG, LEGACY_TEMPLATE):
        found = read_json(folder / name).get("chat_template") if (folder / name).exists() else None
        if isinstance(found, list):
            found = {
                entry.get("name"): entry.get("template")
                for entry in found
                if isinstance(entry, dict)
            }
        if found:
            return alone(found) if isinstance(found, dict) else found
    return None


def alone(templates: dict[str, Any]) -> object:
    """Return templates by name, or the text of the default if it is the only one."""
    return templates[DEFAULT_TEMPLATE] if templates.keys() == {DEFAULT_TEMPLATE} else templates


def text(file: Path) -> str:
    """Return the text of a file, replacing what is not UTF-8."""
    return read_bytes(file).decode("utf-8", errors="replace")
