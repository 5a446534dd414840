"""A tokenizer with all the tokens of several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from automerge.checkpoints.vocabularies.vocabulary import Tokens
from automerge.errors import Fault, PreflightError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

ANCHOR = "a"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def covering(tokens: Mapping[str, Tokens]) -> str | None:
    """Return the first model whose tokenizer has the tokens of all, and splits text as they do."""
    for name, one in tokens.items():
        others = tokens.values()
        if all(other.ids.keys() <= one.ids.keys() and one.cuts_like(other) for other in others):
            return name
    return None


def spelled_alike(one: Tokens, other: Tokens) -> bool:
    """Return whether a token's spelling means the same in two tokenizers, so they have a union."""
    return one.model == other.model and one.content.get("decoder") == other.content.get("decoder")


def build_union(tokens: Mapping[str, Tokens], base: str) -> tuple[str, dict[str, int]]:
    """Extend the base's tokenizer by all other tokens.

    The base's tokens keep their ids. The others become added tokens: they are found in the text,
    longest first, before the base's own model (such as BPE merges) splits the rest. A piece of a
    word that was one token of a source, such as " the", is therefore found wherever it occurs.
    Bytes that are not text by themselves keep their row, but are never found in text.

    Returns:
        The text of its tokenizer.json, and all ids by the spelling in the tokenizers' files.

    Raises:
        PreflightError: a spelling means different things, or the tokenizer cannot be extended.
    """
    from tokenizers import Tokenizer

    ours = tokens[base]
    faults = [
        Fault(
            f"{name} and {base} spell their tokens differently ({other.model} and {ours.model}), "
            f"so no union can be built: choose `tokenizer: {name}` or `tokenizer: base`"
        )
        for name, other in tokens.items()
        if not spelled_alike(ours, other)
    ]
    if faults:
        raise PreflightError(faults)
    try:
        built = Tokenizer.from_str(json.dumps(ours.content))
    except Exception as error:  # tokenizers raises nothing narrower
        raise PreflightError(
            f"{base}: its tokenizer cannot be extended ({error!s:.200}); choose one of the "
            "tokenizers: `tokenizer: NAME`"
        ) from error
    entries: dict[str, AddedToken] = {}  # by the token's spelling
    texts: set[str] = set()
    for other in tokens.values():
        missing = [t for t in other.ids if t not in ours.ids and t not in entries]
        for token in sorted(missing, key=other.ids.__getitem__):
            entry = as_added(token, other, built)
            if entry.content in texts or built.token_to_id(entry.content) is not None:
                entry = plain(token)
            texts.add(entry.content)
            entries[token] = entry
    built.add_tokens(list(entries.values()))
    found = built.get_vocab(with_added_tokens=True)
    ids = {**ours.ids, **{token: found[entry.content] for token, entry in entries.items()}}
    if len({*ids.values()}) != len({*ours.ids.values()}) + len(entries):
        raise PreflightError(
            f"{base}: its tokenizer's ids have gaps, so no tokens can be added to it; choose one "
            "of the tokenizers: `tokenizer: NAME`"
        )
    return built.to_str(), ids


def as_added(token: str, owner: Tokens, spelling: Tokenizer) -> AddedToken:
    """Return a token as an added one: with its owner's flags, or as the text it stands for."""
    from tokenizers import AddedToken

    if token in owner.added:
        flags = {flag: bool(owner.added[token].get(flag)) for flag in FLAGS}
        return AddedToken(token, **flags)
    decoder = spelling.decoder
    text = token
    if decoder is not None:
        # Decoded after another token, since decoders treat the first one in a special way.
        text = decoder.decode([ANCHOR, token]).removeprefix(ANCHOR)
    return plain(token if not text or "\ufffd" in text else text)


def plain(text: str) -> AddedToken:
    """Return an ordinary token that is matched literally."""
    from tokenizers import AddedToken

    return AddedToken(text, normalized=False, special=False)
