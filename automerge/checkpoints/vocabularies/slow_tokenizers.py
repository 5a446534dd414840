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
"""Files that transformers looks for whatever the tokenizer's class is."""


def convert(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Give a tokenizer in older files, those named, as the content of a tokenizer.json.

    Raises PreflightError where neither transformers nor `ranks` can read them.
    """
    if (content := ranks(folder, names)) is not None:
        return content
    with tempfile.TemporaryDirectory(prefix="automerge-") as copy:
        place(folder, Path(copy))
        try:
            with silenced():
                return loaded(Path(copy), names)
        except Exception as error:  # transformers raises all kinds on files that are not sound
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PreflightError(
                f"{folder}: its tokenizer ({shown([*names])}) cannot be read, so that its tokens "
                f"cannot be compared: {reason:.300}; write a tokenizer.json: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            ) from error


def place(folder: Path, copy: Path) -> None:
    """Copy a tokenizer's files, without what names code or other files."""
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
    """Return what transformers makes of a tokenizer's files."""
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
    # A tokenizer in Python: its tokens, and files that are the same where text is cut alike.
    digest = hashlib.sha256(b"".join(read_bytes(folder / name) for name in names)).hexdigest()
    return {
        "model": {"type": type(tokenizer).__name__, "vocab": dict(tokenizer.get_vocab())},
        "pre_tokenizer": digest,
    }


def ranks(folder: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the tokens of a file of tiktoken: a line for each, its bytes in base64 and its id."""
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
    """Keep what transformers says of files that are tried to itself."""
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
