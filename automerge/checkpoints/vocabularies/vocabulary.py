"""How two models' vocabularies relate, judged by their tokenizers without reading weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from automerge.checkpoints.folder.files import CONFIG
from automerge.checkpoints.reader import Checkpoint, read_json, shown
from automerge.checkpoints.vocabularies.chat_templates import chat_template
from automerge.checkpoints.vocabularies.size import n_rows, vocabulary_path
from automerge.checkpoints.vocabularies.tokenizers import (
    MAX_ID,
    TOKENIZER,
    compare_roles,
    merges,
    read_tokenizer,
    same_tokenizer,
    vocabulary,
)
from automerge.errors import Fault, PreflightError

Kind: TypeAlias = Literal[
    "identical", "padded", "permuted", "superset", "subset", "different", "unknown"
]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens and how it splits text, from the content of its tokenizer.json.

    `added` tokens are matched whole before the tokenizer's model splits the rest. `converted` is
    whether it was converted from an older format, such as tokenizer.model.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]
    converted: bool = False

    @cached_property
    def model(self) -> str:
        """The kind of model that splits text: BPE, Unigram, WordPiece or WordLevel."""
        model = self.content.get("model")
        return str(model.get("type")) if isinstance(model, dict) else "none"

    @cached_property
    def rules(self) -> Mapping[str, object]:
        """The rules that text is split by, in order: merge rules (BPE), or scores (Unigram)."""
        model = self.content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, list):
            return {str(entry[0]): entry[1] for entry in vocab}
        return dict.fromkeys(merges(self.content))

    def cuts_like(self, other: Tokens) -> bool:
        """Return whether both split text the same, as far as they have the same tokens and rules.

        If only one of them was converted, rules are not comparable, and only the models' kinds are
        compared.
        """
        if self.converted != other.converted:
            return self.model == other.model
        spelling = ("normalizer", "pre_tokenizer", "decoder")
        if self.model != other.model or any(
            self.content.get(part) != other.content.get(part) for part in spelling
        ):
            return False
        ours = [(rule, value) for rule, value in self.rules.items() if rule in other.rules]
        theirs = [(rule, value) for rule, value in other.rules.items() if rule in self.rules]
        if self.model == "Unigram":  # scores, not their order, decide
            return dict(ours) == dict(theirs)
        if self.rules and other.rules and not ours:
            return False
        extra = len(self.rules) > len(ours), len(other.rules) > len(theirs)
        return ours == theirs and not all(extra)


@dataclass(frozen=True)
class Relation:
    """How a model's vocabulary relates to the reference's.

    `identical`: every token has the same id, and the embeddings have the same number of rows.
    `padded`: the same ids, but a different number of rows. `permuted`: the same tokens with
    different ids. `superset`, `subset`: additional or fewer tokens. `different`: each has tokens
    that the other lacks, or they split text differently. `unknown`: one of them has no tokenizer.
    `added` and `lacking` are tokens compared with the reference's, `moved` those with another id.
    `alike` is whether they differ only in added tokens.
    """

    kind: Kind
    n_shared: int
    added: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    alike: bool = True
    cut_alike: bool = True

    @property
    def mergeable(self) -> bool:
        """Whether the model understands the reference's tokens, as far as it has them."""
        return self.kind != "different" or self.alike

    def __str__(self) -> str:
        if self.kind == "unknown":
            return "unknown: there is no tokenizer to compare"
        parts = [
            f"{word} {len(tokens):,} token(s) ({shown([repr(t) for t in tokens], 3)})"
            for word, tokens in (("adds", self.added), ("lacks", self.lacking))
            if tokens
        ]
        if self.moved:
            parts.append(f"{len(self.moved):,} token(s) have a different id")
        if not self.cut_alike:
            parts.append("splits text by different rules")
        return f"{self.kind}: {', '.join(parts)}" if parts else self.kind


def read_tokens(folder: Path) -> Tokens | None:
    """Read a model folder's tokens; return None if it has no tokenizer.

    Raises:
        PreflightError: the tokenizer cannot be read.
    """
    content = read_tokenizer(folder)
    if content is None:
        return None
    return replace(parse_tokens(content, folder), converted=not (folder / TOKENIZER).exists())


def parse_tokens(content: Mapping[str, Any], file: Path) -> Tokens:
    """Interpret the content of a tokenizer.json; `file` is named in errors.

    Raises:
        PreflightError: it is not a tokenizer, or has ids larger than any embedding has.
    """
    try:
        added = {token["content"]: token for token in content.get("added_tokens") or []}
        ids = vocabulary(content)
        sound = all(type(i) is int and i >= 0 for i in ids.values())
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise PreflightError(f"{file}: not a tokenizers file ({error!r})") from error
    if not sound or not all(isinstance(token, str) for token in ids):
        raise PreflightError(f"{file}: not a tokenizers file (a token's id is not a whole number)")
    if beyond := [token for token, i in ids.items() if i >= MAX_ID]:
        raise PreflightError(
            f"{file}: {shown([f'{token!r} has id {ids[token]}' for token in beyond])}, which no "
            "embedding has; save the tokenizer again from transformers"
        )
    return Tokens(ids, added, content)


def relate(ours: Tokens, theirs: Tokens, our_rows: int, their_rows: int) -> Relation:
    """Classify a vocabulary (theirs) relative to the reference's (ours)."""
    added = tuple(token for token in theirs.ids if token not in ours.ids)
    lacking = tuple(token for token in ours.ids if token not in theirs.ids)
    moved = tuple(t for t, i in ours.ids.items() if theirs.ids.get(t, i) != i)
    cut_alike = ours.cuts_like(theirs)
    alike = (
        cut_alike
        and ours.rules.keys() == theirs.rules.keys()
        and all(token in theirs.added for token in added)
        and all(token in ours.added for token in lacking)
    )
    kind: Kind = "identical" if our_rows == their_rows else "padded"
    if not cut_alike or (added and lacking):
        kind = "different"
    elif added or lacking:
        kind = "superset" if added else "subset"
    elif moved:
        kind = "permuted"
    return Relation(kind, len(ours.ids) - len(lacking), added, lacking, moved, alike, cut_alike)


def vocabularies(checkpoints: Mapping[str, Checkpoint], base: str) -> dict[str, Tokens | None]:
    """Read every model's tokens; those with the base's tokenizer share the base's.

    A model without a tokenizer has None.

    Raises:
        PreflightError: names every tokenizer that is needed but cannot be read.
    """
    reference = checkpoints[base].assets
    same = {n: same_tokenizer(reference, c.assets) for n, c in checkpoints.items()}
    ours: Tokens | None = None
    faults: list[Fault] = []
    try:
        ours = read_tokens(reference)
    except PreflightError as error:
        if not all(same.values()):
            faults += error.faults
    found: dict[str, Tokens | None] = {}
    for name, checkpoint in checkpoints.items():
        try:
            found[name] = ours if same[name] else read_tokens(checkpoint.assets)
        except PreflightError as error:
            faults += error.faults
    if faults:
        raise PreflightError(faults)
    return found


def relations(checkpoints: Mapping[str, Checkpoint], base: str) -> dict[str, Relation]:
    """Classify every model's vocabulary relative to the base's."""
    return related(checkpoints, base, vocabularies(checkpoints, base))


def related(
    checkpoints: Mapping[str, Checkpoint], base: str, tokens: Mapping[str, Tokens | None]
) -> dict[str, Relation]:
    """Classify every model's vocabulary, given their tokens, relative to the base's."""
    ours, reference = tokens[base], checkpoints[base]
    our_rows = n_rows(reference)
    found = {}
    for name, checkpoint in checkpoints.items():
        theirs, rows = tokens[name], n_rows(checkpoint)
        alike: Kind = "identical" if rows == our_rows else "padded"
        if same_tokenizer(reference.assets, checkpoint.assets):
            found[name] = Relation(alike, 0 if ours is None else len(ours.ids))
        elif ours is None or theirs is None:
            found[name] = Relation("unknown", 0)
        else:
            found[name] = relate(ours, theirs, our_rows, rows)
    return found


def compare_tokenizers(base: Path, source: Path) -> tuple[list[str], list[str]]:
    """Return faults if a source's tokens mean something other than the base's, and warnings.

    They are compared as stored, without rearranging rows to the base's order. The merged model gets
    the base's tokenizer and chat template.
    """
    faults: list[str] = []
    warnings: list[str] = []
    if not same_tokenizer(base, source):
        ours, theirs = read_tokens(base), read_tokens(source)
        if ours is None or theirs is None:
            if ours is not theirs or reads_tokens(base):
                warnings.append(unknown_text(ours is None, theirs is None))
        else:
            relation = relate(ours, theirs, 0, 0)
            if relation.moved or not relation.mergeable:
                faults.append(f"vocabularies differ: {relation}")
            elif relation.kind != "identical":
                warnings.append(f"its vocabulary is {relation}; the merged model has the base's")
            warnings += [
                f"its tokenizer's {part} differs; the merged model has the base's"
                for part in ("normalizer", "pre_tokenizer", "post_processor")
                if ours.content.get(part) != theirs.content.get(part)
            ]
    warnings += compare_roles(base, source)
    theirs_template = chat_template(source)
    if theirs_template is not None and theirs_template != chat_template(base):
        warnings.append("its chat template differs; the merged model has the base's")
    return faults, warnings


def reads_tokens(folder: Path) -> bool:
    """Return whether a configuration has a number of tokens, unlike those of image models."""
    return bool(vocabulary_path(read_json(folder / CONFIG)))


def unknown_text(base_lacks: bool, source_lacks: bool) -> str:
    """Say which model has no tokenizer, and what is assumed about its ids."""
    if base_lacks and source_lacks:
        return "neither it nor the base has a tokenizer: their ids are assumed to mean the same"
    whose = "the base" if base_lacks else "it"
    return f"{whose} has no tokenizer: its ids are assumed to mean the same as the other's"
