"""mergekit's keys for tokenizers, and their meaning here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from automerge.errors import nearest
from automerge.files.yaml_file import Plain
from automerge.mergekit.parameters import At, Reader
from automerge.recipe import AUTO, BASE, BASE_VOCABULARY, UNION, Recipe, Vocabulary, is_template

ENTRIES = ("source", "tokens", "pad_to_multiple_of")
UNION_NOTE = (
    "in a union, pieces of words become added tokens spelled as the text they stand for, in "
    "mergekit as in the tokenizer's file; rows without a token are kept, in mergekit dropped"
)
TEMPLATE_NOTE = "mergekit keeps the chat template of the model that the tokenizer comes from"
OWN_TEMPLATES = ("alpaca", "chatml", "exaone", "llama3", "mistral")

Name = Callable[[At, Plain], str | None]


def read_vocabulary(reader: Reader, name: Name) -> Vocabulary:
    """Read `tokenizer_source`, `tokenizer` and `chat_template`; faults go to the reader.

    `name` resolves the model written at a path. Without any of these keys, mergekit copies the
    base's tokenizer, which is also the default here.
    """
    data = reader.data
    template = _template(reader)
    if "tokenizer_source" in data and "tokenizer" in data:
        message = "expected either `tokenizer_source` or `tokenizer`, got both"
        reader.fault(("tokenizer",), message, key=True)
    entry = data.get("tokenizer")
    if entry is None:
        return Vocabulary(_source(reader, ("tokenizer_source",), name, BASE), template)
    if not isinstance(entry, dict):
        reader.fault(("tokenizer",), f"expected a mapping, got {json.dumps(entry)}")
        return BASE_VOCABULARY
    reader.check_keys(("tokenizer",), ENTRIES)
    if entry.get("tokens"):
        message = (
            "choosing rows of single tokens is not supported: remove `tokens`; each model's row of "
            "a token is its own, else the base's, else the mean over the models that have it"
        )
        reader.fault(("tokenizer", "tokens"), message, key=True)
    rows = entry.get("pad_to_multiple_of")
    if rows is not None and (type(rows) is not int or rows < 1):
        message = f"expected a whole number from 1, got {json.dumps(rows)}"
        reader.fault(("tokenizer", "pad_to_multiple_of"), message)
        rows = None
    # An entry without a source is a union in mergekit.
    return Vocabulary(_source(reader, ("tokenizer", "source"), name, UNION), template, rows)


def _template(reader: Reader) -> str | None:
    """Return the `chat_template`, which is `auto` or the template itself; None if there is none."""
    value = reader.data.get("chat_template")
    if value is None or value == "":
        return None
    if isinstance(value, str) and (value == AUTO or is_template(value)):
        return value
    shown = json.dumps(value)
    if value in OWN_TEMPLATES:
        message = (
            f"mergekit's own template {shown} is not part of automerge: write the template itself, "
            "or `auto` for the one that most models have, or remove the key to get that of the "
            "model that the tokenizer comes from"
        )
    else:
        message = f"expected `auto` or a Jinja template, got {shown:.80}"
    reader.fault(("chat_template",), message)
    return None


def _source(reader: Reader, at: At, name: Name, default: str) -> str:
    value = reader.at(at)
    if value is None:
        return default
    if value in (BASE, UNION):
        return str(value)
    return name(at, value) or default


def check_vocabulary(reader: Reader, recipe: Recipe) -> None:
    """Refuse the tokenizer of a model that is not merged."""
    chosen = recipe.vocabulary.tokenizer
    if chosen not in (BASE, UNION, *recipe.models):
        at: At = ("tokenizer_source",)
        if "tokenizer" in reader.data:
            at = ("tokenizer", "source")
        advice = nearest(chosen, recipe.models)
        reader.fault(at, f"the tokenizer must be that of a merged model{advice}")


def write_vocabulary(vocabulary: Vocabulary, reference: Callable[[str], str]) -> dict[str, Plain]:
    """Return mergekit's keys for a vocabulary; none for the base's own.

    `reference` returns a model's folder or hub id.
    """
    chosen, rows = vocabulary.tokenizer, vocabulary.pad_to_multiple_of
    source = chosen if chosen in (BASE, UNION) else reference(chosen)
    template = vocabulary.chat_template
    keys: dict[str, Plain] = (
        {} if template is None or _named(template) else {"chat_template": template}
    )
    if rows is not None:
        return {"tokenizer": {"source": source, "pad_to_multiple_of": rows}, **keys}
    return keys if chosen == BASE else {"tokenizer_source": source, **keys}


def _named(template: str) -> bool:
    """Return whether a chat template is given by a model's name, which mergekit cannot express."""
    return template != AUTO and not is_template(template)


def vocabulary_notes(vocabulary: Vocabulary) -> Iterator[str]:
    """Yield how mergekit's result differs."""
    if vocabulary.tokenizer == UNION:
        yield UNION_NOTE
    if vocabulary.chat_template is not None and _named(vocabulary.chat_template):
        yield TEMPLATE_NOTE
