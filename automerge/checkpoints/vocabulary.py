"""How two models' vocabularies relate, read from their tokenizers; no weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from automerge.checkpoints.reader import Checkpoint, read_json, shown
from automerge.checkpoints.tokenizers import TOKENIZER, merges, slow_differences, vocabulary
from automerge.errors import PreflightError

Kind: TypeAlias = Literal["identical", "padded", "permuted", "superset", "subset", "different"]


@dataclass(frozen=True)
class Tokens:
    """A tokenizer's tokens and how it cuts text, from the content of its tokenizer.json.

    `added` are matched whole, before the tokenizer's model cuts the rest into `core` tokens.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]

    @cached_property
    def model(self) -> str:
        """The kind of model that cuts text: BPE, Unigram, WordPiece or WordLevel."""
        model = self.content.get("model")
        return str(model.get("type")) if isinstance(model, dict) else "none"

    @cached_property
    def rules(self) -> Mapping[str, object]:
        """What decides how text is cut, in order: merge rules (BPE), or scores (Unigram)."""
        model = self.content.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, list):
            return {str(entry[0]): entry[1] for entry in vocab}
        return dict.fromkeys(merges(self.content))

    def cuts_like(self, other: Tokens) -> bool:
        """Whether both cut text alike as far as they have the same tokens and rules."""
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
    """What a model's vocabulary is to the reference's.

    `identical`: every token has the same id, and the embeddings have the same number of rows.
    `padded`: the same ids, another number of rows. `permuted`: the same tokens under other ids.
    `superset`, `subset`: tokens more or less. `different`: each has tokens the other lacks, or
    they cut text differently. `added` and `lacking` are tokens against the reference's, `moved`
    those with another id. `alike` is whether they differ in added tokens alone.
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
        """Whether the reference's tokenizer means the same to the model, as far as it knows it."""
        return self.kind != "different" or self.alike

    def __str__(self) -> str:
        parts = [
            f"{word} {len(tokens):,} token(s) ({shown([repr(t) for t in tokens], 3)})"
            for word, tokens in (("adds", self.added), ("lacks", self.lacking))
            if tokens
        ]
        if self.moved:
            parts.append(f"{len(self.moved):,} token(s) have another id")
        if not self.cut_alike:
            parts.append("cuts text by other rules")
        return f"{self.kind}: {', '.join(parts)}" if parts else self.kind


def read_tokens(folder: Path, reference: Path) -> Tokens | None:
    """Read a model folder's tokens; None where it has no tokenizer.json.

    It then uses the reference's, which a folder without a tokenizer, such as an adapter's, does.
    Raises PreflightError for a tokenizer in another form that is not the reference's.
    """
    if not (folder / TOKENIZER).exists():
        if different := slow_differences(reference, folder):
            raise PreflightError(
                f"{folder}: {shown(different)} differs from that in {reference}, and there is no "
                f"{TOKENIZER} to compare; write one: AutoTokenizer.from_pretrained(...)"
                ".save_pretrained(...)"
            )
        return None
    return parse_tokens(read_json(folder / TOKENIZER), folder / TOKENIZER)


def parse_tokens(content: Mapping[str, Any], file: Path) -> Tokens:
    """Read the content of a tokenizer.json."""
    try:
        added = {token["content"]: token for token in content.get("added_tokens") or []}
        ids = vocabulary(content)
        sound = all(type(i) is int and i >= 0 for i in ids.values())
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise PreflightError(f"{file}: not a tokenizers file ({error!r})") from error
    if not sound or not all(isinstance(token, str) for token in ids):
        raise PreflightError(f"{file}: not a tokenizers file (a token's id is no whole number)")
    if len(set(ids.values())) != len(ids):
        raise PreflightError(f"{file}: two tokens have the same id")
    return Tokens(ids, added, content)


def relate(ours: Tokens, theirs: Tokens, our_rows: int, their_rows: int) -> Relation:
    """Classify a vocabulary against the reference's (ours)."""
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


def relations(checkpoints: Mapping[str, Checkpoint], base: str) -> dict[str, Relation]:
    """Classify every model's vocabulary against the base's."""
    reference = checkpoints[base]
    ours = read_tokens(reference.assets, reference.assets)
    our_rows = n_rows(reference)
    found = {}
    for name, checkpoint in checkpoints.items():
        theirs = (
            None if same_tokenizer(reference, checkpoint) else own_tokens(checkpoint, reference)
        )
        rows = n_rows(checkpoint)
        if ours is None or theirs is None:
            shared = 0 if ours is None else len(ours.ids)
            found[name] = Relation("identical" if rows == our_rows else "padded", shared)
        else:
            found[name] = relate(ours, theirs, our_rows, rows)
    return found


def own_tokens(checkpoint: Checkpoint, reference: Checkpoint) -> Tokens | None:
    """A model's own tokens; None where it has the reference's."""
    return read_tokens(checkpoint.assets, reference.assets)


def same_tokenizer(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models have the same tokenizer.json, byte for byte, and so the same tokens."""
    if one.assets == other.assets:
        return True
    files = [checkpoint.assets / TOKENIZER for checkpoint in (one, other)]
    if not all(file.exists() for file in files):
        return False
    sizes = {file.stat().st_size for file in files}
    return len(sizes) == 1 and files[0].read_bytes() == files[1].read_bytes()


def n_rows(checkpoint: Checkpoint) -> int:
    """The rows of a model's embedding, as its configuration says; 0 where it does not."""
    config: Any = checkpoint.config
    for key in vocabulary_path(checkpoint.config):
        config = config[key]
    return config if type(config) is int else 0


def vocabulary_path(config: Mapping[str, Any]) -> Sequence[str]:
    """Where a configuration says how many tokens there are; empty where it does not."""
    text = config.get("text_config")
    if "vocab_size" in config:
        return ("vocab_size",)
    if isinstance(text, Mapping) and "vocab_size" in text:
        return ("text_config", "vocab_size")
    return ()


def resized(config: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """A configuration with so many tokens."""
    path = vocabulary_path(config) or ("vocab_size",)
    if len(path) == 1:
        return {**config, path[0]: n_rows}
    return {**config, path[0]: {**config[path[0]], path[1]: n_rows}}
