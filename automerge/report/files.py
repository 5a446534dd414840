"""Writing what others will read: whole or not at all, and without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path

HIDDEN = "***"

_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}|(?<=://)[^/\s:@\"]+:[^/\s@\"]+(?=@)")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")


def redact(text: str) -> str:
    """Hide Hugging Face tokens, credentials in addresses, and known secrets of the environment."""
    for variable in _VARIABLES:
        secret = os.environ.get(variable, "")
        if len(secret) >= 8:
            text = text.replace(secret, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)


def write_atomically(path: Path, text: str) -> Path:
    """Write redacted text beside `path`, then rename it into place."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.write(redact(text))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
