"""Models with different vocabularies, presented as if they all had one.

A token's row is, as in mergekit, the model's own, else the base's, else its one owner's, else the
mean of its owners'. So where only one source knows a token, all models agree on its row, and every
merge keeps it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from automerge.checkpoints.aligned import AlignedCheckpoint, Group, Rows, rows_of
from automerge.checkpoints.assets import write_assets
from automerge.checkpoints.compatibility import complete
from automerge.checkpoints.reader import Checkpoint
from automerge.checkpoints.tokenizers import chat_template, compare_roles
from automerge.checkpoints.union import build_union, covering, spelled_alike
from automerge.checkpoints.vocabulary import Relation, n_rows, own_tokens, relations, resized
from automerge.checkpoints.vocabulary_tensors import VocabularyTensors, vocabulary_tensors
from automerge.errors import Fault, PreflightError
from automerge.recipe import BASE, BASE_VOCABULARY, UNION, Vocabulary


@dataclass(frozen=True)
class Alignment:
    """Models in one vocabulary, by name, and what the user should know."""

    checkpoints: Mapping[str, Checkpoint]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The vocabulary of the result: whose tokenizer it is, or the text of one built on it.

    `ids` None is unknown: no model has a tokenizer.json. `rows` are those of the owner.
    """

    owner: str
    ids: Mapping[str, int] | None
    rows: int
    text: str | None = None


def align(
    checkpoints: Mapping[str, Checkpoint], base: str, vocabulary: Vocabulary = BASE_VOCABULARY
) -> Alignment:
    """Present models, the base among them, in the vocabulary that was chosen.

    Models that all have it come back as they are. Where the result's configuration or tokenizer is
    no model's own, both are written to a temporary folder that lives as long as the checkpoints.
    Names in `vocabulary` are names of models. Raises PreflightError where vocabularies do not
    allow it, with what would help. The models must be alike but for their vocabularies.
    """
    found = relations(checkpoints, base)
    same = all(relation.kind == "identical" for relation in found.values())
    if same and vocabulary == BASE_VOCABULARY and len({*map(tied, checkpoints.values())}) == 1:
        return Alignment(checkpoints, ())
    return _Aligner(checkpoints, base, found, vocabulary).align()


def tied(checkpoint: Checkpoint) -> bool:
    """Whether a model's output head is its embedding."""
    stated = checkpoint.config.get("tie_word_embeddings")
    return (complete(checkpoint).get("tie_word_embeddings") if stated is None else stated) is True


class _Aligner:
    """Works out one alignment."""

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        base: str,
        found: Mapping[str, Relation],
        vocabulary: Vocabulary,
    ) -> None:
        self._checkpoints = checkpoints
        self._base = base
        self._relations = found
        self._vocabulary = vocabulary
        reference = checkpoints[base]
        self._own = {name: own_tokens(c, reference) for name, c in checkpoints.items()}
        self._tokens = {name: tokens or self._own[base] for name, tokens in self._own.items()}
        self._tied = {name: tied(checkpoint) for name, checkpoint in checkpoints.items()}

    def align(self) -> Alignment:
        reference = self._checkpoints[self._base]
        names = vocabulary_tensors(reference.config, reference.tensors)
        target = self._target()
        self._check(target)
        tie = self._ties(names)
        group = self._group(names, target, tie)
        assets = self._assets(group, target, tie)
        checkpoints = {
            name: AlignedCheckpoint(
                name,
                group,
                resized(checkpoint.config, group.n_rows) | {"tie_word_embeddings": tie},
                assets,
            )
            for name, checkpoint in self._checkpoints.items()
        }
        return Alignment(checkpoints, tuple(self._warnings(target, tie)))

    def _target(self) -> Target:
        choice = self._vocabulary.tokenizer
        if choice != UNION:
            owner = self._base if choice == BASE else choice
            rows = n_rows(self._checkpoints[owner])
            tokens = self._tokens[owner]
            with_files = owner if self._own[owner] is not None else self._base
            return Target(with_files, None if tokens is None else tokens.ids, rows)
        known = {name: tokens for name, tokens in self._own.items() if tokens is not None}
        base_rows = n_rows(self._checkpoints[self._base])
        if self._base not in known:
            return Target(self._base, None, base_rows)
        ordered = {self._base: known[self._base], **known}
        if (cover := covering(ordered)) is not None:
            return Target(cover, known[cover].ids, n_rows(self._checkpoints[cover]))
        text, ids = build_union(ordered, self._base)
        return Target(self._base, ids, base_rows, text)

    def _check(self, target: Target) -> None:
        """Refuse vocabularies that share nothing, or that nobody has chosen to give up."""
        faults = []
        for name, relation in self._relations.items():
            tokens = self._tokens[name]
            if target.ids and tokens and not target.ids.keys() & tokens.ids.keys():
                faults.append(f"{name} has no token in common with {target.owner}; leave it out")
            elif self._vocabulary.tokenizer == BASE and not relation.mergeable:
                faults.append(
                    f"{name}, compared with {self._base}: vocabularies differ: {relation}; "
                    f"{self._help(name)}"
                )
        if faults:
            raise PreflightError(map(Fault, faults))

    def _help(self, name: str) -> str:
        """What would let a source of another vocabulary be merged."""
        choose = f"one can be chosen in a recipe: `tokenizer: {name}`"
        ours, theirs = self._own[self._base], self._own[name]
        if ours is None or theirs is None or not spelled_alike(ours, theirs):
            return f"{choose}; they spell their tokens otherwise, so there is no union"
        return f"a union can be built: `tokenizer: {UNION}`, or {choose}"

    def _ties(self, names: VocabularyTensors) -> bool:
        """Whether the result's head is tied: as the base's is, unless a source's is another.

        A source whose head is a tensor of its own, but equal to its embedding, is as good as tied.
        """
        import torch

        if not self._tied[self._base]:
            return False
        for name, checkpoint in self._checkpoints.items():
            if not self._tied[name]:
                embedding = checkpoint.read(self._embedding(name, names))
                if any(not torch.equal(checkpoint.read(h), embedding) for h in names.heads):
                    return False
        return True

    def _embedding(self, model: str, names: VocabularyTensors) -> str:
        checkpoint = self._checkpoints[model]
        found = next((n for n in names.embeddings if n in checkpoint.tensors), None)
        if found is None:
            raise PreflightError(f"{checkpoint.path}: has no token embedding {names.embeddings[0]}")
        return found

    def _group(self, names: VocabularyTensors, target: Target, tie: bool) -> Group:
        stored = {
            name: checkpoint.tensors[self._embedding(name, names)].shape[0]
            for name, checkpoint in self._checkpoints.items()
        }
        needed = max((target.ids or {}).values(), default=-1) + 1 if target.text is not None else 0
        unit = self._vocabulary.pad_to_multiple_of or 1
        n_out = -(-max(target.rows, needed) // unit) * unit
        ids = {
            name: {t: i for t, i in tokens.ids.items() if i < stored[name]} if tokens else {}
            for name, tokens in self._tokens.items()
        }
        rows = {name: rows_of(target.ids or {}, ids[name], stored[name], n_out) for name in ids}
        spelled = {
            name: dict.fromkeys(names.heads, self._embedding(name, names))
            if self._tied[name] and not tie
            else {}
            for name in ids
        }
        moved = any(found != tuple(range(stored[name])) for name, found in rows.items())
        return Group(
            self._checkpoints,
            Rows(self._base, rows) if moved else None,
            n_out,
            names.names,
            spelled,
            names.heads if tie else (),
        )

    def _assets(self, group: Group, target: Target, tie: bool) -> Path:
        reference = self._checkpoints[self._base]
        owner, template = self._checkpoints[target.owner].assets, self._template(target)
        if (
            owner == reference.assets
            and target.text is None
            and group.n_rows == n_rows(reference)
            and tie == self._tied[self._base]
            and chat_template(template) == chat_template(owner)
        ):
            return owner
        folder = Path(tempfile.mkdtemp(prefix="automerge-"))
        weakref.finalize(group, shutil.rmtree, folder, ignore_errors=True)
        write_assets(
            folder,
            reference.assets,
            owner,
            template,
            n_rows=group.n_rows,
            tied=tie,
            tokenizer=target.text,
        )
        return folder

    def _template(self, target: Target) -> Path:
        choice = self._vocabulary.chat_template or target.owner
        return self._checkpoints[self._base if choice == BASE else choice].assets

    def _warnings(self, target: Target, tie: bool) -> list[str]:
        whose = "the union" if target.text is not None else target.owner
        warnings = [
            f"{name}: its vocabulary is {relation}; the merged model has that of {whose}"
            for name, relation in self._relations.items()
            if relation.kind != "identical"
        ]
        if tie != self._tied[self._base]:
            warnings.append(
                f"{self._base} ties its output head to its embedding and a source's head is "
                "another: the merged model has a head of its own"
            )
        owner, template = self._checkpoints[target.owner].assets, self._template(target)
        for name, checkpoint in self._checkpoints.items():
            roles = compare_roles(owner, checkpoint.assets, target.owner)
            warnings += [f"{name}: {role}" for role in roles]
            theirs = chat_template(checkpoint.assets)
            if theirs is not None and theirs != chat_template(template):
                warnings.append(f"{name}: its chat template is not the merged model's")
        return warnings
