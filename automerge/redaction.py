"""Keep secrets out of what is written and shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
LEAST = 8
"""A shorter value of the environment is no secret worth finding in every text."""

_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)$")
_SECRET = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{20,}"  # OpenAI, Anthropic
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=\-]{16,}"
    r"|(?<=://)[^/\s:@\"]*:[^/\s@\"]+(?=@)"  # user:password in an address
)


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Hide tokens of known shapes, credentials in addresses, and the environment's own secrets.

    A variable holds a secret where its name ends like one (HF_TOKEN, WANDB_API_KEY).
    """
    secrets = [
        value
        for name, value in environment.items()
        if len(value) >= LEAST and _SECRET_NAME.search(name.upper())
    ]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _SECRET.sub(HIDDEN, text)
