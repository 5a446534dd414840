"""The configuration and tokenizer of a merged model whose vocabulary is not simply the base's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from automerge.checkpoints.folder.files import (
    CONFIG,
    carried,
    copy_carried,
    is_template_file,
    is_tokenizer_file,
)
from automerge.checkpoints.reader import read_json
from automerge.checkpoints.vocabularies.chat_templates import TEMPLATE, TOKENIZER_CONFIG
from automerge.checkpoints.vocabularies.size import resized
from automerge.checkpoints.vocabularies.tokenizers import SPECIAL, TOKENIZER

GENERATION = "generation_config.json"


def write_assets(
    folder: Path,
    base: Path,
    owner: Path,
    template: Path | str,
    *,
    n_rows: int,
    tied: bool,
    tokenizer: str | None,
    processors: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Write the assets of a merged model: the base's configuration with another vocabulary.

    Args:
        folder: where to write them.
        base: the base's folder.
        owner: the folder with the tokenizer and the ids of special tokens.
        template: the folder with the chat template, or its text.
        n_rows: the number of rows of the embedding.
        tied: whether the head is tied to the embedding.
        tokenizer: the text of a tokenizer.json that was built, if any.
        processors: the names of files that the base lacks, and the folders that have them.
    """
    copy_carried(
        carried(base), folder, lambda n: not is_tokenizer_file(n) and not is_template_file(n)
    )
    for name, source in processors.items():
        copy_carried(carried(source), folder, name.__eq__)
    kept = (TOKENIZER_CONFIG, SPECIAL)
    copy_carried(
        carried(owner),
        folder,
        lambda n: n in kept if tokenizer is not None else is_tokenizer_file(n),
    )
    config = resized(read_json(base / CONFIG), n_rows) | {"tie_word_embeddings": tied}
    special = special_ids(read_json(owner / CONFIG))
    write(folder / CONFIG, with_special_ids(config, special, owner != base))
    if (base / GENERATION).exists():
        own = owner / GENERATION
        special |= special_ids(read_json(own)) if own.exists() else {}
        write(
            folder / GENERATION,
            with_special_ids(read_json(base / GENERATION), special, owner != base),
        )
    if tokenizer is not None:
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    write_template(folder, template, built=tokenizer is not None)


def write_template(folder: Path, template: Path | str, built: bool) -> None:
    """Write a chat template, given as text or as the folder that has it.

    If the tokenizer was `built`, it lists added tokens itself, so the configuration does not.
    """
    file = folder / TOKENIZER_CONFIG
    config = read_json(file) if file.exists() else {}
    before = dict(config)
    config.pop("chat_template", None)
    if built:
        config.pop("added_tokens_decoder", None)
    if isinstance(template, str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    else:
        copy_carried(carried(template), folder, is_template_file)
        theirs = template / TOKENIZER_CONFIG
        found = read_json(theirs).get("chat_template") if theirs.exists() else None
        config |= {} if found is None else {"chat_template": found}
    if config != before:
        write(file, config)


def special_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of special tokens that a configuration names."""
    return {key: value for key, value in config.items() if key.endswith("_token_id")}


def with_special_ids(
    config: Mapping[str, Any], special: Mapping[str, Any], replaced: bool
) -> dict[str, Any]:
    """Return a configuration with its ids of special tokens replaced, if they are to be."""
    if not replaced:
        return dict(config)
    kept = {key: value for key, value in config.items() if key not in special_ids(config)}
    return {**kept, **special}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
