"""Find the code that loading a task file would run, without running it.

lm-eval imports what a `!function` tag names while it reads the file, asks Hugging Face `evaluate`
to load metrics it does not know (which downloads and runs a script), and renders Jinja templates
without a sandbox. So these are looked for in the composed YAML before lm-eval loads the task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from jinja2 import Environment, TemplateSyntaxError, nodes

from automerge.errors import Location

STANDARD_TAGS = "tag:yaml.org,2002:"
# fmt: off
SAFE_CALLS = frozenset((
    "capitalize", "count", "endswith", "find", "index", "isdigit", "items", "join", "keys",
    "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rfind", "rstrip", "split",
    "splitlines", "startswith", "strip", "title", "upper", "values",
))
# fmt: on
UNSAFE_NAMES = frozenset({"caller", "cycler", "joiner", "lipsum", "namespace", "self"})


def find_code(path: Path, known_metrics: frozenset[str]) -> list[tuple[Location, str]]:
    """Where a task file, or a file it includes, would run code, and what it is.

    Raises:
        yaml.YAMLError: a file is not YAML.
        OSError: a file cannot be read.
    """
    found: list[tuple[Location, str]] = []
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        path = waiting.pop().resolve()
        if path in seen:
            continue
        seen.add(path)
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if root is None:
            continue
        waiting += [path.parent / name for name in scalars_at(root, "include")]
        for node, what in _code(root, known_metrics):
            mark = node.start_mark
            found.append((Location(str(path), mark.line + 1, mark.column + 1), what))
    return found


def scalars_at(root: yaml.Node, key: str) -> list[str]:
    """The scalar, or the list's scalars, under a top-level key of a composed mapping."""
    return [node.value for node in scalar_nodes(child(root, key))]


def child(root: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key of a composed mapping."""
    if isinstance(root, yaml.MappingNode):
        for name, value in root.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return value  # type: ignore[no-any-return]
    return None


def scalar_nodes(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The scalar values in a composed value, however nested."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from scalar_nodes(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from scalar_nodes(value)


def unsafe_template(template: str) -> str | None:
    """What in a Jinja template could reach Python's internals; None when nothing can.

    Private names, the `attr` filter, and calls of anything but common string and mapping methods
    and `range` are refused, so a value reached by a computed key cannot be called.
    """
    try:
        tree = Environment().parse(template)
    except TemplateSyntaxError:
        return None  # lm-eval reports it when it loads the task
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    for name in tree.find_all(nodes.Name):
        if name.name in UNSAFE_NAMES:
            return name.name
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            return attribute.attr
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and constant.value.startswith("__"):
            return constant.value
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.node, nodes.Name) and item.node.name == "loop":
            return "loop[...]"
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name == "attr":
            return "|attr"
    for call in tree.find_all(nodes.Call):
        callee = call.node
        if isinstance(callee, nodes.Name) and callee.name == "range" and "range" not in assigned:
            continue
        if not isinstance(callee, nodes.Getattr) or callee.attr not in SAFE_CALLS:
            return f"{getattr(callee, 'attr', getattr(callee, 'name', 'a computed value'))}()"
    return None


def _code(root: yaml.Node, known_metrics: frozenset[str]) -> Iterator[tuple[yaml.Node, str]]:
    waiting: list[yaml.Node] = [root]
    visited: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if not node.tag.startswith(STANDARD_TAGS):
            yield node, f"{node.tag} {node.value if isinstance(node.value, str) else ''}".strip()
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
            metric = child(node, "metric")
            fetched = child(node, "hf_evaluate")
            if isinstance(metric, yaml.ScalarNode) and metric.tag.startswith(STANDARD_TAGS):
                if fetched is not None and fetched.value.lower() not in ("false", "no", "off"):
                    yield metric, f"metric {metric.value!r} loaded by Hugging Face evaluate"
                elif metric.value not in known_metrics and not _has_own_results(root):
                    yield metric, f"metric {metric.value!r}, which lm-eval does not know"
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.ScalarNode) and "{" in node.value:
            reason = unsafe_template(node.value)
            if reason is not None:
                yield node, f"a template using {reason}"


def _has_own_results(root: yaml.Node) -> bool:
    return child(root, "process_results") is not None
