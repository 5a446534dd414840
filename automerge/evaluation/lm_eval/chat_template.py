"""Render chat templates, which are programs that strangers wrote, under limits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.limits import OutOfTime, alarm, bounded_memory

MAX_S = 5.0
"""Time limit for one conversation."""
MAX_CHARACTERS = 10**7
"""Longest prompt that a template may make from one."""
MAX_MEMORY_BYTES = 512 * 2**20
"""Memory that a template may take for one; a prompt of `MAX_CHARACTERS` takes a tenth of it."""


def limited(render: Callable[..., str], seconds: float = MAX_S) -> Callable[..., str]:
    """Return the same function under limits of time, memory and length.

    Memory is not limited on systems that do not say how much a process has. The function raises
    PreflightError if a template takes too long or too much, or makes too long a prompt.
    """

    @functools.wraps(render)
    def within(*args: Any, **kwargs: Any) -> str:
        try:
            with alarm(seconds), bounded_memory(MAX_MEMORY_BYTES):
                text = render(*args, **kwargs)
        except (MemoryError, OverflowError):
            raise PreflightError(
                f"the chat template took more than {MAX_MEMORY_BYTES // 2**20} MiB of memory for "
                "one conversation; use another chat_template, or apply_chat_template: false"
            ) from None
        except OutOfTime:
            raise PreflightError(
                f"the chat template took more than {seconds:g} s for one conversation; use another "
                "chat_template, or apply_chat_template: false"
            ) from None
        if len(text) > MAX_CHARACTERS:
            raise PreflightError(
                f"the chat template made a prompt of {len(text)} characters from one conversation, "
                f"more than {MAX_CHARACTERS}; use another, or apply_chat_template: false"
            )
        return text

    return within
