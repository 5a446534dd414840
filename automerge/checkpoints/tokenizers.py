"""Whether two models read and write the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automerge.checkpoints.reader import read_json, shown
from automerge.errors import PreflightError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SLOW = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def compare_tokenizers(base: Path, source: Path) -> tuple[list[str], list[str]]:
    """Faults where an id means different tokens or text is split differently; warnings beside.

    The merged model carries the base's tokenizer and chat template. A folder without a tokenizer,
    such as an adapter's, is taken to use the base's.
    """
    faults: list[str] = []
    warnings: list[str] = []
    if (base / TOKENIZER).exists() and (source / TOKENIZER).exists():
        ours, theirs = read_json(base / TOKENIZER), read_json(source / TOKENIZER)
        try:
            faults, warnings = compare_models(ours, theirs)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise PreflightError(
                f"{source / TOKENIZER}: cannot be compared with {base / TOKENIZER}: one of them is "
                f"not a tokenizers file ({error!r})"
            ) from error
    else:
        differing = slow_differences(base, source)
        faults += [f"{name} differs: another tokenizer" for name in differing]
    warnings += compare_roles(base, source)
    theirs_template = chat_template(source)
    if theirs_template is not None and theirs_template != chat_template(base):
        warnings.append("its chat template differs; the merged model has the base's")
    return faults, warnings


def slow_differences(base: Path, source: Path) -> list[str]:
    """Name the files of older tokenizer formats that two folders have and that differ."""
    return [
        name
        for name in SLOW
        if (base / name).exists()
        and (source / name).exists()
        and (base / name).read_bytes() != (source / name).read_bytes()
    ]


def compare_models(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Compare the contents of two tokenizer.json files."""
    first, second = vocabulary(ours), vocabulary(theirs)
    faults: list[str] = []
    warnings: list[str] = []
    moved = [token for token, i in first.items() if second.get(token, i) != i]
    if moved:
        token = moved[0]
        faults.append(
            f"{len(moved)} token(s) have another id: {shown([repr(t) for t in moved])}; "
            f"{token!r} is {second[token]}, expected {first[token]}"
        )
    ids = {i: token for token, i in first.items()}
    reused = [t for t, i in second.items() if t not in first and i in ids and ids[i] not in second]
    if reused:
        faults.append(
            f"{len(reused)} id(s) mean another token: {shown([repr(t) for t in reused])}; "
            f"{second[reused[0]]} is {ids[second[reused[0]]]!r} in the base"
        )
    if merges(ours) != merges(theirs):
        faults.append("its merge rules differ: the same text becomes other tokens")
    if not faults:
        for names, what in (
            ([t for t in second if t not in first], "adds"),
            ([t for t in first if t not in second], "lacks"),
        ):
            if names:
                warnings.append(
                    f"its tokenizer {what} {shown([repr(t) for t in names])}; "
                    "the merged model has the base's tokenizer"
                )
        warnings += [
            f"its tokenizer's {part} differs; the merged model has the base's"
            for part in ("normalizer", "pre_tokenizer", "post_processor")
            if ours.get(part) != theirs.get(part)
        ]
    return faults, warnings


def vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token → id, added tokens included."""
    model = tokenizer.get("model")
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocab, list):  # Unigram: [token, score] pairs in the order of ids
        vocab = {entry[0]: i for i, entry in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    return {**vocab, **added}


def merges(tokenizer: Mapping[str, Any]) -> list[str]:
    """BPE merge rules as "left right", however they are written."""
    model = tokenizer.get("model")
    rules = model.get("merges", []) if isinstance(model, dict) else []
    return [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]


def compare_roles(ours: Path, theirs: Path, owner: str = "the base") -> list[str]:
    """Warn of special tokens that play another role in a folder than in the owner's."""
    if not ((ours / TOKENIZER_CONFIG).exists() and (theirs / TOKENIZER_CONFIG).exists()):
        return []
    mine, other = read_json(ours / TOKENIZER_CONFIG), read_json(theirs / TOKENIZER_CONFIG)
    return [
        f"its {role} is {text(other[role])!r}, {text(mine.get(role))!r} in {owner}; "
        f"the merged model has {owner}'s"
        for role in ROLES
        if role in other and text(other[role]) != text(mine.get(role))
    ]


def text(token: object) -> object:
    """A special token's text, from either of its written forms."""
    return token.get("content") if isinstance(token, dict) else token


def chat_template(folder: Path) -> object:
    """A folder's chat template; None where there is none."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8", errors="replace")
    config = folder / TOKENIZER_CONFIG
    return read_json(config).get("chat_template") if config.exists() else None
