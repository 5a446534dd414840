"""Models with different vocabularies, presented as if they all had the same.

As in mergekit, a model's row of a token is its own, else the base's, else the mean over the models
that have the token. So if only one source has a token, all models agree on its row, and every merge
keeps it.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from automerge.checkpoints.compatibility import complete
from automerge.checkpoints.folder import processors as processor_files
from automerge.checkpoints.folder.assets import write_assets
from automerge.checkpoints.folder.files import Carried, carried
from automerge.checkpoints.reader import Checkpoint, shown
from automerge.checkpoints.vocabularies.aligned import AlignedCheckpoint, Group, Rows, rows_of
from automerge.checkpoints.vocabularies.chat_templates import DEFAULT_TEMPLATE, chat_template
from automerge.checkpoints.vocabularies.size import n_rows, resized
from automerge.checkpoints.vocabularies.tensors import VocabularyTensors, vocabulary_tensors
from automerge.checkpoints.vocabularies.tokenizers import compare_roles
from automerge.checkpoints.vocabularies.union import build_union, covering, spelled_alike
from automerge.checkpoints.vocabularies.vocabulary import (
    Relation,
    Tokens,
    related,
    unknown_text,
    vocabularies,
)
from automerge.errors import Fault, PreflightError
from automerge.recipe import AUTO, BASE, BASE_VOCABULARY, UNION, Vocabulary, is_template


@dataclass(frozen=True)
class Alignment:
    """Models with the same vocabulary, by name, and what the user should know."""

    checkpoints: Mapping[str, Checkpoint]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The vocabulary of the result: the owner of its tokenizer, or the text of one built on it.

    `ids` is None if they are not known, because no model has a tokenizer. `rows` is the number of
    the owner's rows.
    """

    owner: str
    ids: Mapping[str, int] | None
    rows: int
    text: str | None = None


def align(
    checkpoints: Mapping[str, Checkpoint], base: str, vocabulary: Vocabulary = BASE_VOCABULARY
) -> Alignment:
    """Present models, including the base, in the chosen vocabulary.

    If they all have it already, they are returned unchanged. If the result's configuration or
    tokenizer is not that of one model, both are written to a temporary folder that lives as long as
    the checkpoints.

    Args:
        checkpoints: models that are alike but for their vocabularies, by name.
        base: the name of the base.
        vocabulary: the vocabulary of the result; names in it are names of models.

    Raises:
        PreflightError: the vocabularies do not allow it; the message says what would help.
    """
    folders = {name: checkpoint.assets for name, checkpoint in checkpoints.items()}
    files = carried_by_all(folders)
    tokens = vocabularies(checkpoints, base)
    found = related(checkpoints, base, tokens)
    notes = [*files[base].remarks, *processor_files.remarks(folders, base)]
    for name, checkpoint in checkpoints.items():
        notes += beyond_rows(name, tokens[name], n_rows(checkpoint))
    if (
        all(relation.kind in ("identical", "unknown") for relation in found.values())
        and vocabulary == BASE_VOCABULARY
        and len({*map(n_rows, checkpoints.values())}) == 1
        and len({*map(tied, checkpoints.values())}) == 1
        and not processor_files.lacking(folders, base)
    ):
        return Alignment(checkpoints, tuple(notes))
    aligned = _Aligner(checkpoints, base, tokens, found, vocabulary).align()
    return Alignment(aligned.checkpoints, (*notes, *aligned.warnings))


def carried_by_all(folders: Mapping[str, Path]) -> dict[str, Carried]:
    """Return the files to copy from every model's folder.

    Raises:
        PreflightError: names all files that must not be read.
    """
    found: dict[str, Carried] = {}
    faults: list[Fault] = []
    for name, folder in folders.items():
        try:
            found[name] = carried(folder)
        except PreflightError as error:
            faults += error.faults
    if faults:
        raise PreflightError(dict.fromkeys(faults))
    return found


def beyond_rows(name: str, tokens: Tokens | None, rows: int) -> list[str]:
    """Warn about tokens that a model's embedding has no row for."""
    beyond = [] if tokens is None else [t for t, i in tokens.ids.items() if i >= rows > 0]
    if not beyond:
        return []
    return [
        f"{name}: {len(beyond):,} token(s) of its tokenizer have no row in its embedding of "
        f"{rows:,} ({shown([repr(t) for t in beyond], 3)}); it cannot read text with these tokens"
    ]


def tied(checkpoint: Checkpoint) -> bool:
    """Return whether a model's output head is tied to its embedding."""
    stated = checkpoint.config.get("tie_word_embeddings")
    return (complete(checkpoint).get("tie_word_embeddings") if stated is None else stated) is True


class _Aligner:
    """Works out one alignment."""

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        base: str,
        tokens: Mapping[str, Tokens | None],
        found: Mapping[str, Relation],
        vocabulary: Vocabulary,
    ) -> None:
        self._checkpoints = checkpoints
        self._base = base
        self._relations = found
        self._vocabulary = vocabulary
        self._own = tokens
        # A model without a tokenizer uses the base's, else the chosen one, else the first.
        chosen = (tokens.get(name) for name in (base, vocabulary.tokenizer, *tokens))
        assumed = next((found for found in chosen if found is not None), None)
        self._tokens = {name: own or assumed for name, own in tokens.items()}
        self._folders = {name: checkpoint.assets for name, checkpoint in checkpoints.items()}
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
        if not known:
            return Target(self._base, None, n_rows(self._checkpoints[self._base]))
        first = self._base if self._base in known else next(iter(known))
        ordered = {first: known[first], **known}
        if (cover := covering(ordered)) is not None:
            return Target(cover, known[cover].ids, n_rows(self._checkpoints[cover]))
        text, ids = build_union(ordered, first)
        return Target(first, ids, n_rows(self._checkpoints[first]), text)

    def _check(self, target: Target) -> None:
        """Refuse vocabularies that share nothing, or that differ without an explicit choice."""
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
        """Say how a source with another vocabulary can be merged."""
        choose = f"one can be chosen in a recipe: `tokenizer: {name}`"
        ours, theirs = self._own[self._base], self._own[name]
        if ours is None or theirs is None or not spelled_alike(ours, theirs):
            return f"{choose}; they spell their tokens differently, so there is no union"
        return f"a union can be built: `tokenizer: {UNION}`, or {choose}"

    def _ties(self, names: VocabularyTensors) -> bool:
        """Return whether the result's head is tied: if the base's is, unless a source's differs.

        A source whose head is stored separately, but equal to its embedding, counts as tied.
        """
        import torch

        if not self._tied[self._base]:
            return False
        for name, checkpoint in self._checkpoints.items():
            if not self._tied[name]:
                embedding = checkpoint.read(self._embedding(name, names))
                for head in names.heads:
                    if head not in checkpoint.tensors:
                        return False  # its head is missing, which is refused in comparison
                    if not torch.equal(checkpoint.read(head), embedding):
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
        # The base's rows stay as they are; a chosen tokenizer gets a row for every token.
        chosen = self._vocabulary.tokenizer != BASE
        needed = max((target.ids or {}).values(), default=-1) + 1 if chosen else 0
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
        missing = processor_files.lacking(self._folders, self._base)
        if (
            owner == reference.assets
            and target.text is None
            and group.n_rows == n_rows(reference)
            and tie == self._tied[self._base]
            and text_of(template) == chat_template(owner)
            and not missing
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
            processors={name: self._folders[model] for name, model in missing.items()},
        )
        return folder

    def _template(self, target: Target) -> Path | str:
        """Return the folder with the result's chat template, or the template's text."""
        choice = self._vocabulary.chat_template or target.owner
        if choice == AUTO and AUTO not in self._folders:
            return most_common(self._folders, target.owner)
        if is_template(choice):
            return choice
        return self._folders[self._base if choice == BASE else choice]

    def _warnings(self, target: Target, tie: bool) -> list[str]:
        whose = "the union" if target.text is not None else target.owner
        warnings = []
        for name, relation in self._relations.items():
            if relation.kind == "unknown":
                lacks = self._own[self._base] is None, self._own[name] is None
                warnings.append(f"{name}: {unknown_text(*lacks)}")
            elif relation.kind != "identical":
                warnings.append(
                    f"{name}: its vocabulary is {relation}; the merged model has that of {whose}"
                )
        if tie != self._tied[self._base]:
            warnings.append(
                f"{self._base} ties its output head to its embedding, but a source's head differs: "
                "the merged model has a separate head"
            )
        owner, template = self._checkpoints[target.owner].assets, self._template(target)
        for name, checkpoint in self._checkpoints.items():
            roles = compare_roles(owner, checkpoint.assets, target.owner)
            warnings += [f"{name}: {role}" for role in roles]
            theirs = chat_template(checkpoint.assets)
            if theirs is not None and theirs != text_of(template):
                warnings.append(f"{name}: its chat template differs from the merged model's")
        return warnings


def text_of(template: Path | str) -> object:
    """Return a chat template given as text, or that of a folder."""
    return template if isinstance(template, str) else chat_template(template)


def most_common(folders: Mapping[str, Path], owner: str) -> Path:
    """Return the first folder with the most common chat template; the owner's if there is none."""
    found: dict[str, str] = {}
    for name, folder in folders.items():
        template = chat_template(folder)
        if isinstance(template, dict):
            template = template.get(DEFAULT_TEMPLATE)
        if isinstance(template, str) and template.strip():
            found[name] = template.strip()
    known = list(found.values())
    if not known:
        return folders[owner]
    most = max(known, key=known.count)
    return next(folders[name] for name, template in found.items() if template == most)
