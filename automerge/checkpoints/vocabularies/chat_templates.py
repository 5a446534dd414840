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
    """A folder's chat template; texts by name where there are several; None where there is none.

    Files of their own come before tokenizer_config.json, as in transformers; the one that older
    processors have comes last.
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
    """Templates by name, or the text of the only one."""
    return templates[DEFAULT_TEMPLATE] if templates.keys() == {DEFAULT_TEMPLATE} else templates


def text(file: Path) -> str:
    """Return a text file of a stranger's."""
    return read_bytes(file).decode("utf-8", errors="replace")
