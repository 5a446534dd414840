"""The configuration and tokenizer of a merged model whose vocabulary is not simply the base's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.checkpoints.reader import read_json
from automerge.checkpoints.tokenizers import TOKENIZER, TOKENIZER_CONFIG, chat_template
from automerge.checkpoints.vocabulary import resized

CONFIG = "config.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
FILES = (TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json")
OLDER_FILES = (
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
    "spiece.model",
)
"""Other forms of a tokenizer, which cannot say what a built one can."""


def write_assets(
    folder: Path,
    base: Path,
    owner: Path,
    template: Path,
    *,
    n_rows: int,
    tied: bool,
    tokenizer: str | None,
) -> None:
    """Write the assets of a merged model: the base's configuration over another vocabulary.

    `owner` has the tokenizer and the ids of special tokens, `template` the chat template.
    `tokenizer` is the text of a tokenizer.json that was built.
    """
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
    for name in FILES if tokenizer is not None else (*FILES, *OLDER_FILES):
        if (owner / name).is_file():
            shutil.copyfile(owner / name, folder / name)
    if tokenizer is not None:
        (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    write_template(folder, chat_template(template), built=tokenizer is not None)


def write_template(folder: Path, template: object, built: bool) -> None:
    """Give a folder one chat template, in one place; a built tokenizer lists its tokens itself."""
    file = folder / TOKENIZER_CONFIG
    config = read_json(file) if file.exists() else {}
    config.pop("chat_template", None)
    if built:
        config.pop("added_tokens_decoder", None)
    if isinstance(template, str):
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    elif template is not None:  # several, by name
        config["chat_template"] = template
    if config:
        write(file, config)


def special_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of special tokens that a configuration names."""
    return {key: value for key, value in config.items() if key.endswith("_token_id")}


def with_special_ids(
    config: Mapping[str, Any], special: Mapping[str, Any], replaced: bool
) -> dict[str, Any]:
    """A configuration with another model's ids of special tokens, where they are replaced."""
    if not replaced:
        return dict(config)
    kept = {key: value for key, value in config.items() if key not in special_ids(config)}
    return {**kept, **special}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
