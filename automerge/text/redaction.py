"""Keep secrets out of what is written and shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
MIN_LENGTH = 8
"""Shorter values of environment variables are not searched for, to spare ordinary words."""

_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)$")
_VOCABULARY = re.compile(r"(?i)(?:bos|eos|pad|unk|sep|cls|mask|stop|end|start|decoder\w*)_token$")
_SECRET = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{20,}"  # OpenAI, Anthropic
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=\-]{16,}"
    r"|(?<=://)[^/\s:@\"]*:[^/\s@\"]+(?=@)"  # user:password in an address
    r"|(?<=://)[^/\s:@\"]{16,}(?=@)"  # a token in place of a user
    r"|(?i:(?<=token=)|(?<=api_key=)|(?<=apikey=)|(?<=password=)|(?<=secret=)|(?<=access_key=))"
    r"[^\s&'\",;]{8,}"
)


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Hide tokens of known forms, credentials in URLs, and secrets of the environment.

    A variable is a secret if its name ends like one (HF_TOKEN, WANDB_API_KEY).
    """
    secrets = [
        value
        for name, value in environment.items()
        if len(value) >= MIN_LENGTH and _SECRET_NAME.search(name.upper())
    ]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SECRET.sub(HIDDEN, text)


def without_secrets(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Redact every text in JSON values, and hide values whose key names a secret altogether."""
    if isinstance(value, str):
        return redact(value, environment)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(key, str) and isinstance(item, str) and _names_secret(key)
            else without_secrets(item, environment)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item, environment) for item in value]
    return value


def _names_secret(name: str) -> bool:
    """Return whether a value of this name is a secret; the tokens of a vocabulary are not."""
    return bool(_SECRET_NAME.search(name.upper().replace("-", "_"))) and not _VOCABULARY.match(name)
