"""One tokenizer with every token of several."""

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
    """Return the first model whose tokenizer has all tokens of all, and cuts text as they do."""
    for name, one in tokens.items():
        others = tokens.values()
        if all(other.ids.keys() <= one.ids.keys() and one.cuts_like(other) for other in others):
            return name
    return None


def spelled_alike(one: Tokens, other: Tokens) -> bool:
    """Whether two tokenizers mean the same by a token's spelling, so that they have a union."""
    return one.model == other.model and one.content.get("decoder") == other.content.get("decoder")


def build_union(tokens: Mapping[str, Tokens], base: str) -> tuple[str, dict[str, int]]:
    """Extend the base's tokenizer by all other tokens; give its tokenizer.json and all ids.

    The base's tokens keep their ids. The others become added tokens: they are found in the text
    before the base's own model (BPE merges, for one) cuts what is left, longest first. A piece of a
    word that was one token of a source, such as " the", is therefore found wherever it stands.
    Bytes that are no text of their own keep their row, yet no text becomes them. Ids come by the
    spelling in the tokenizers' files. Raises PreflightError where spellings mean different things.
    """
    from tokenizers import Tokenizer

    ours = tokens[base]
    faults = [
        Fault(
            f"{name} spells its tokens otherwise than {base} ({other.model} and {ours.model}); no "
            f"union can be built: choose one, `tokenizer: {name}` or `tokenizer: base`"
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
            f"{base}: its tokenizer's ids have gaps, so that no token can be added to it; choose "
            "one of the tokenizers: `tokenizer: NAME`"
        )
    return built.to_str(), ids


def as_added(token: str, owner: Tokens, spelling: Tokenizer) -> AddedToken:
    """A token as one that is matched whole: with its owner's flags, or the text it stands for."""
    from tokenizers import AddedToken

    if token in owner.added:
        flags = {flag: bool(owner.added[token].get(flag)) for flag in FLAGS}
        return AddedToken(token, **flags)
    decoder = spelling.decoder
    text = token
    if decoder is not None:
        # What follows a token: decoders treat the first of a text in their own way.
        text = decoder.decode([ANCHOR, token]).removeprefix(ANCHOR)
    return plain(token if not text or "\ufffd" in text else text)


def plain(text: str) -> AddedToken:
    """Return an ordinary token that is matched as it is written."""
    from tokenizers import AddedToken

    return AddedToken(text, normalized=False, special=False)
