"""Tokenizers without a tokenizer.json, read by transformers' own classes alone."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from automerge.checkpoints.folder.files import CONFIG, is_tokenizer_file, read_bytes
from automerge.checkpoints.reader import read_json, shown
from automerge.checkpoints.vocabularies.chat_templates import TOKENIZER_CONFIG
from automerge.errors import PreflightError

READ_BY_ALL = ("tokenizer.model", "tekken.json")
"""Files that transformers looks for whatever the class of the tokenizer."""


def convert(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Convert a tokenizer in older files, given by name, to the content of a tokenizer.json.

    Raises:
        PreflightError: neither transformers nor `ranks` can read them.
    """
    if (content := ranks(folder, names)) is not None:
        return content
    with tempfile.TemporaryDirectory(prefix="automerge-") as copy:
        place(folder, Path(copy))
        try:
            with silenced():
                return loaded(Path(copy), names)
        except Exception as error:  # transformers raises all kinds of errors on broken files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PreflightError(
                f"{folder}: its tokenizer ({shown([*names])}) cannot be read, so its tokens "
                f"cannot be compared: {reason:.300}; write a tokenizer.json: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            ) from error


def place(folder: Path, copy: Path) -> None:
    """Copy a tokenizer's files, without settings that name code or other files."""
    for path in folder.iterdir():
        if is_tokenizer_file(path.name) and path.name != TOKENIZER_CONFIG:
            (copy / path.name).write_bytes(read_bytes(path))
    config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).exists() else {}
    kept = {
        key: value
        for key, value in config.items()
        if not key.endswith(("_file", "_path")) and key not in ("auto_map", "chat_template")
    }
    (copy / TOKENIZER_CONFIG).write_text(json.dumps(kept))
    model = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    if isinstance(kind := model.get("model_type"), str):
        (copy / CONFIG).write_text(json.dumps({"model_type": kind}))


def loaded(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Load a tokenizer with transformers, and return it as the content of a tokenizer.json."""
    from transformers import AutoTokenizer, TokenizersBackend

    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    known = {*type(tokenizer).vocab_files_names.values(), *READ_BY_ALL}
    if type(tokenizer) is not TokenizersBackend and not known.intersection(names):
        raise ValueError(f"{type(tokenizer).__name__} reads none of these files")
    if isinstance(tokenizer, TokenizersBackend):
        content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        return content
    # A tokenizer in Python: its tokens, and a digest that is the same if text is split the same.
    digest = hashlib.sha256(b"".join(read_bytes(folder / name) for name in names)).hexdigest()
    return {
        "model": {"type": type(tokenizer).__name__, "vocab": dict(tokenizer.get_vocab())},
        "pre_tokenizer": digest,
    }


def ranks(folder: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Read a tiktoken file: a line per token, its bytes in base64 and its id; None if it is not."""
    if len(names) != 1 or not names[0].endswith((".tiktoken", ".model")):
        return None
    vocab: dict[str, int] = {}
    try:
        for line in read_bytes(folder / names[0]).decode("ascii").splitlines():
            token, number = line.split()
            vocab[base64.b64decode(token, validate=True).decode("latin-1")] = int(number)
    except ValueError:
        return None
    return {"model": {"type": "tiktoken", "vocab": vocab}} if vocab else None


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence what transformers says while it tries files."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
