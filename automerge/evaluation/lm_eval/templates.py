"""Render the Jinja templates of task files in a sandbox, wherever lm-eval renders one.

A template is a program by whoever wrote the task, and lm-eval runs it like its own code. Here it
can read its document and compute with plain values; it cannot reach Python's internals, call
anything that is not plain, change its document, or exceed limits on time, memory and text.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import functools
import re
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from automerge.errors import PreflightError
from automerge.evaluation.lm_eval.limits import OutOfTime, alarm, bounded_memory

MAX_S = 5.0
"""Time limit for one rendering."""
MAX_CHARACTERS = 10**7
"""Longest text that one rendering may return."""
MAX_MEMORY_BYTES = 2**28
"""Most memory that a rendering may use beyond what the process holds."""
KEPT = 1024
"""How many templates are kept compiled; all tasks of a study together have fewer."""
MAX_BITS = 2**16
"""Largest whole number that a template may compute."""

PLAIN = (
    str, bytes, int, float, complex, bool, list, tuple, dict, set, frozenset, type(None), range,
    datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, re.Match,
)  # fmt: skip
"""Types whose methods a template may call."""
HELPERS = (Cycler, Joiner, LoopContext, Macro, Namespace, BlockReference)
"""What Jinja itself hands to templates."""


class TemplateRefused(PreflightError):
    """A template tried something that no task needs, or exceeded a limit."""


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    try:
        with alarm(MAX_S), bounded_memory(MAX_MEMORY_BYTES):
            yield
    except SecurityError as error:
        raise TemplateRefused(f"a template is refused: {error}") from error
    except OutOfTime:
        raise TemplateRefused(f"a template took more than {MAX_S:g} s for one document") from None
    except MemoryError:
        raise TemplateRefused(
            f"a template took more than {MAX_MEMORY_BYTES >> 20} MiB of memory for one document"
        ) from None
    except RecursionError:
        raise TemplateRefused("a template calls itself without end") from None


class _Template(jinja2.Template):
    """A template whose rendering has limits."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        with _limits():
            context = self.new_context(dict(*args, **kwargs))
            return "".join(_limited(self.root_render_func(context)))


def _limited(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise TemplateRefused(
                f"a template gives more than {MAX_CHARACTERS} characters for one document"
            )
        yield piece


class SandboxedTemplates(ImmutableSandboxedEnvironment):
    """lm-eval's environment; templates that only read their document give the same text."""

    template_class = _Template
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        from lm_eval.utils import regex_replace

        super().__init__(
            loader=jinja2.BaseLoader(),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        self.filters["regex_replace"] = regex_replace
        self._kept = functools.lru_cache(KEPT)(super().from_string)

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> jinja2.Template:
        """Return a template, compiled once: lm-eval asks for it again with every document."""
        return self._kept(source, *args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Compile a template under the limits: its constants are computed here."""
        with _limits():
            return super().compile(*args, **kwargs)

    def is_safe_callable(self, obj: Any) -> bool:
        """Return whether it is a method of a plain value or one of Jinja's own helpers."""
        if isinstance(obj, HELPERS) or any(obj is own for own in self.globals.values()):
            return True
        owner = getattr(obj, "__self__", None)
        plain = type(owner) in PLAIN or isinstance(owner, HELPERS)
        return plain and bool(super().is_safe_callable(obj))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply or raise to a power if the result stays small."""
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "**":
            too_large = whole and max(left.bit_length(), 1) * max(right, 0) > MAX_BITS
        elif whole:
            too_large = left.bit_length() + right.bit_length() > MAX_BITS
        else:
            sized, times = (right, left) if isinstance(left, int) else (left, right)
            repeats = isinstance(times, int) and hasattr(sized, "__len__")
            too_large = repeats and len(sized) * max(times, 0) > MAX_CHARACTERS
        if too_large:
            raise SecurityError(f"the result of {operator} would be too large")
        return super().call_binop(context, operator, left, right)


@functools.cache
def _environment() -> SandboxedTemplates:
    return SandboxedTemplates()


def install() -> None:
    """Let lm-eval render in the sandbox from now on, in this process.

    It is never undone: another thread may be between two templates.
    """
    from lm_eval import utils

    utils.env = _environment()


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """Render as lm-eval itself does, for comparisons with it."""
    from lm_eval import utils

    before = utils.env
    utils.env = jinja2.Environment(
        loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    utils.env.filters["regex_replace"] = utils.regex_replace
    try:
        yield
    finally:
        utils.env = before
