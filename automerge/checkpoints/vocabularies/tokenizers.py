"""The content of a model folder's tokenizer, whatever files it is stored in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.checkpoints.folder.files import check_file, is_tokenizer_file, read_bytes
from automerge.checkpoints.reader import read_json, shown
from automerge.checkpoints.vocabularies.chat_templates import TOKENIZER_CONFIG
from automerge.errors import PreflightError

TOKENIZER = "tokenizer.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
NAMES_ONLY = (TOKENIZER_CONFIG, SPECIAL, ADDED, "normalizer.json")
"""Files that do not contain a vocabulary, but settings of one."""
ROLES = (
    *("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token"),
    "mask_token",
)
MAX_ID = 1 << 24
"""More rows than any embedding has."""


def vocabulary_files(folder: Path) -> list[str]:
    """Return the names of the files with a tokenizer's vocabulary, checked but not read.

    Raises:
        PreflightError: the folder or one of the files must not be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if is_tokenizer_file(path.name)]
    except OSError as error:
        raise PreflightError(f"{folder}: cannot be read: {error.strerror or error}") from error
    found = sorted(name for name in names if name not in NAMES_ONLY)
    for name in found:
        check_file(folder, name)
    return found


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has files of a tokenizer, with a vocabulary or without (bytes)."""
    return any(is_tokenizer_file(path.name) for path in folder.iterdir())


def read_tokenizer(folder: Path) -> Mapping[str, Any] | None:
    """Return a folder's tokenizer as the content of a tokenizer.json; None if it has none.

    Tokens that are only named in other files are among the added tokens, as they are once
    transformers has loaded it. Other formats, such as tokenizer.model, are converted by
    transformers' own classes.

    Raises:
        PreflightError: it cannot be read without running code.
    """
    from automerge.checkpoints.vocabularies.slow_tokenizers import convert

    names = vocabulary_files(folder)
    declared = declared_tokens(folder)
    if TOKENIZER in names:
        return with_declared(read_json(folder / TOKENIZER), declared, folder)
    return convert(folder, names) if names else None


def declared_tokens(folder: Path) -> dict[str, int | None]:
    """Return tokens that files beside a vocabulary add, ordered by id; None means the next id.

    Raises:
        PreflightError: an id is larger than any embedding has.
    """
    config, special, added = (
        read_json(folder / name) if (folder / name).exists() else {}
        for name in (TOKENIZER_CONFIG, SPECIAL, ADDED)
    )
    ids: dict[str, object] = dict(added)
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        ids[str(text(token))] = int(number) if number.isdecimal() else number
    wrong = [t for t, i in ids.items() if type(i) is not int or not 0 <= i < MAX_ID]
    if wrong:
        raise PreflightError(
            f"{folder}: added tokens have ids that no embedding has: "
            f"{shown([f'{token!r} {ids[token]!r:.40}' for token in wrong])}; save the tokenizer "
            "again from transformers"
        )
    known: dict[str, int | None] = {t: i for t, i in ids.items() if isinstance(i, int)}
    known = dict(sorted(known.items(), key=lambda item: item[1] or 0))
    for role in ROLES:
        token = text(config.get(role) or special.get(role))
        if isinstance(token, str):
            known.setdefault(token, None)
    return known


def with_declared(
    content: Mapping[str, Any], declared: Mapping[str, int | None], folder: Path
) -> Mapping[str, Any]:
    """Return a tokenizer with the tokens that files beside it add, each with the next id.

    Raises:
        PreflightError: it is not a tokenizer, or a token is declared with another id.
    """
    try:
        ids = vocabulary(content)
        following = max(ids.values(), default=-1) + 1
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise PreflightError(f"{folder / TOKENIZER}: not a tokenizers file ({error!r})") from error
    missing = {token: i for token, i in declared.items() if token not in ids}
    new: list[dict[str, Any]] = []
    for token, wanted in missing.items():
        number = following + len(new)
        if wanted is not None and wanted != number:
            raise PreflightError(
                f"{folder}: {token!r} is declared with id {wanted}, but gets {number} when the "
                f"tokenizer is loaded; save the tokenizer again from transformers"
            )
        new.append({"id": number, "content": token, "special": True, "normalized": False})
    return {**content, "added_tokens": [*(content.get("added_tokens") or []), *new]}


def same_tokenizer(one: Path, other: Path) -> bool:
    """Return whether two folders have the same vocabulary, byte for byte.

    Two folders without any do not.
    """
    if one == other:
        return True
    names = vocabulary_files(one)
    if not names or names != vocabulary_files(other):
        return False
    if any((one / n).stat().st_size != (other / n).stat().st_size for n in names):
        return False
    return declared_tokens(one) == declared_tokens(other) and all(
        read_bytes(one / name) == read_bytes(other / name) for name in names
    )


def vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of all tokens, including added ones."""
    model = tokenizer.get("model")
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocab, list):  # Unigram: [token, score] pairs in the order of ids
        vocab = {entry[0]: i for i, entry in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    return {**vocab, **added}


def merges(tokenizer: Mapping[str, Any]) -> list[str]:
    """Return BPE merge rules as "left right", whichever way they are written."""
    model = tokenizer.get("model")
    rules = model.get("merges", []) if isinstance(model, dict) else []
    return [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]


def compare_roles(ours: Path, theirs: Path, owner: str = "the base") -> list[str]:
    """Warn about special tokens that have different roles in a folder and in the owner's."""
    mine, other = roles(ours), roles(theirs)
    if not mine or not other:
        return []
    return [
        f"its {role} is {token!r}, but {mine.get(role)!r} in {owner}; the merged model has "
        f"{owner}'s"
        for role, token in other.items()
        if token != mine.get(role)
    ]


def roles(folder: Path) -> dict[str, object]:
    """Return a folder's special tokens, by role."""
    found: dict[str, object] = {}
    for name in (SPECIAL, TOKENIZER_CONFIG):
        content = read_json(folder / name) if (folder / name).exists() else {}
        found |= {role: text(content[role]) for role in ROLES if role in content}
    return found


def text(token: object) -> object:
    """Return a special token's text, whichever way it is written."""
    return token.get("content") if isinstance(token, dict) else token
