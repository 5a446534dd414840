"""The report as one HTML file that loads nothing, made of a template, a style and a script."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from automerge.files.atomic import write_atomically
from automerge.report.charts import chart_data
from automerge.report.conclusion import conclusion
from automerge.report.parameters import parameters
from automerge.report.sections import sections
from automerge.report.summary import Summary

FILE = "report.html"
_SCRIPTS = ("draw.js", "charts.js", "params.js", "choose.js", "page.js")


def html_report(summary: Summary) -> str:
    """Render the report; the study's names and texts are escaped, and scripts pinned by hash."""
    style, script = _asset("report.css"), "(() => {\n" + "".join(map(_asset, _SCRIPTS)) + "})();\n"
    varied = parameters(summary)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html.j2")).render(
        result=summary.result,
        sentences=conclusion(summary),
        csp=_policy(style, script),
        style=Markup(style),  # our own files, pinned by the policy
        script=Markup(script),
        data=Markup(_json_in_html(chart_data(summary, varied))),
        **sections(summary, varied),
    )


def write_html(summary: Summary, folder: Path) -> Path:
    """Write `report.html` into the run folder, whole or not at all."""
    return write_atomically(folder / FILE, html_report(summary))


@cache
def _asset(name: str) -> str:
    return files("automerge.report").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_pin(style)}; script-src {_pin(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _pin(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _json_in_html(value: object) -> str:
    """Return JSON that cannot end a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
