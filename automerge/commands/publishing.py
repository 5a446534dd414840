"""`automerge push`: a study's merge on the Hugging Face Hub, with what others need to check it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from automerge.checkpoints.symmetries.kept import cache_folder as cached_alignments
from automerge.checkpoints.symmetries.kept import find
from automerge.commands.export import config_of, from_export
from automerge.commands.search import export_trials
from automerge.config.recipe_file import recipe_text
from automerge.config.written import FILE as STUDY
from automerge.errors import ConfigError, PreflightError
from automerge.evidence import EVIDENCE, EvidenceFolders, cache_folder
from automerge.files.align import Align
from automerge.files.known import known_reference
from automerge.files.noise import is_noise
from automerge.recipe import BASE
from automerge.report.card import FILE as CARD
from automerge.report.card import model_card
from automerge.report.summary import summarise
from automerge.store.file import FILE as STORE
from automerge.store.published import FILE as REPRODUCE
from automerge.store.published import Published
from automerge.store.read_result import open_study, study_result
from automerge.store.record import aligned_by
from automerge.text.redaction import redact
from automerge.text.say import say

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from rich.console import Console

    from automerge.recipe import Recipe
    from automerge.store.record import StudyModel
    from automerge.store.result import Versions
    from automerge.trial import Trial, Weights

MERGEKIT = "mergekit.yaml"
RECIPE = "recipe.yaml"

_STUDY_HEAD = (
    "# The study that this merge comes from, as automerge ran it. `local:` names a model by the\n"
    "# digest of its content: write its folder or hub id there. Files of tasks are not included.\n"
)


@dataclass(frozen=True)
class Push:
    """What to push and where.

    Attributes:
        run: the study's folder.
        trial: a number, a name, "best" or "knee".
        repository: `ORG/NAME` on the hub.
        public: whether anyone may see it.
        store: whether the study's store goes along.
        models: where the study's models are, if they are not where the study says.
    """

    run: Path
    trial: str
    repository: str
    public: bool
    store: bool
    models: Mapping[str, Path]


def push(wanted: Push, console: Console) -> str:
    """Export a merge unless that is done, and upload it in one commit; return its address.

    Raises:
        ConfigError: the name is not a valid repository name, or the repository is public and
            `public` is false.
        PreflightError: the hub refuses, or cannot be reached; says what to do.
    """
    from huggingface_hub import HfApi, errors
    from huggingface_hub.utils._validators import validate_repo_id

    repository = wanted.repository
    try:
        validate_repo_id(repository)
    except errors.HFValidationError as error:
        raise ConfigError(f"{repository!r} is not a repository's name; give ORG/NAME") from error
    if repository.count("/") != 1:
        raise ConfigError(f"{repository!r}: expected ORG/NAME")
    if wanted.trial == "front":
        raise ConfigError("--trial front: a repository holds one merge; name a trial, best or knee")
    [folder] = export_trials(wanted.run, [wanted.trial], console, wanted.models)
    operations = _operations(wanted, folder)
    api = HfApi()
    with _refusals(repository):
        api.create_repo(repository, private=not wanted.public, exist_ok=True)
        private = bool(api.model_info(repository).private)
        if not private and not wanted.public:
            raise ConfigError(
                f"{repository} already exists and is public; pass --public, or choose another name"
            )
        message = f"{folder.name}, merged by automerge"
        api.create_commit(repository, operations, commit_message=message)
    if private and wanted.public:
        say(console, f"note: {repository} exists and stays private; its settings can change that")
    return f"{api.endpoint}/{repository}"


def _operations(wanted: Push, folder: Path) -> list[CommitOperationAdd]:
    """Return the files to upload: texts written for others, and everything else as exported."""
    from huggingface_hub import CommitOperationAdd

    run = wanted.run
    with open_study(run) as store:
        result = study_result(run, store)
        trial = result.named(folder.name).trial
        models, known = store.study.current.models, store.scored_weights(trial.number)
    published = _published(trial, models, known, result.provenance.versions)
    summary = summarise(result).including([trial.number])
    texts = {
        CARD: model_card(
            summary,
            trial.number,
            wanted.repository.partition("/")[2],
            wanted.repository,
            config_of(folder),
        ),
        RECIPE: recipe_text(
            trial.recipe,
            {model.name: model.reference for model in published.models},
            trial.name,
            aligned_by(published.models),
        ),
        REPRODUCE: published.text(),
    }
    if (own := run / STUDY).is_file():
        texts[STUDY] = _study_text(own, models)
    texts[MERGEKIT] = _without_paths((folder / MERGEKIT).read_text(encoding="utf-8"), models)
    files = {p.name: p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in texts}
    files |= _evidence(run, trial.recipe) | _alignments(run, published.models)
    if wanted.store:
        files[STORE] = run / STORE
    return [
        *(CommitOperationAdd(name, redact(text).encode()) for name, text in texts.items()),
        *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
    ]


def _published(
    trial: Trial,
    models: Sequence[StudyModel],
    known: tuple[Weights, str] | None,
    versions: Versions,
) -> Published:
    """Return what reproduces a merge of a study: models by hub id and commit, or by digest."""
    weights, arithmetic = known or (None, "")
    used = {BASE, *trial.recipe.models}
    shown = (replace(m, reference=_reference(m)) for m in models if m.name in used)
    return Published(trial.name, trial.recipe, tuple(shown), weights, arithmetic, versions)


def _reference(model: StudyModel) -> str:
    """Return how others can name a model: by hub id and commit, noise, or its content."""
    if model.revision is not None or is_noise(model.reference):
        return model.pinned
    return known_reference(model.name, model.digest)


def _study_text(path: Path, models: Sequence[StudyModel]) -> str:
    """Return the study's YAML for others: models as they can name them, and no run folder."""
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = {model.name: _reference(model) for model in models}
    plain["base"] = named[BASE]
    plain["models"] = {name: named[name] for name in plain["models"]}
    plain.pop("out", None)
    return _STUDY_HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _without_paths(text: str, models: Sequence[StudyModel]) -> str:
    """Return an exported mergekit file that names models as others can."""
    for model in sorted(models, key=lambda model: -len(model.reference)):
        if model.revision is None and model.reference.startswith("."):
            text = text.replace(from_export(model), _reference(model))
    return text


def _evidence(run: Path, recipe: Recipe) -> dict[str, Path]:
    """Return the files of the evidence that a recipe needs, by their names in the repository."""
    folders = EvidenceFolders([run / EVIDENCE, cache_folder()])
    digests = (digest for own in recipe.evidence.values() for digest in own.values())
    paths = (folders[digest].path for digest in dict.fromkeys(digests))
    return {f"{EVIDENCE}/{path.name}": path for path in paths}


def _alignments(run: Path, models: Sequence[StudyModel]) -> dict[str, Path]:
    """Return the files of the models' alignments, by their names in the repository."""
    folders = [run / EVIDENCE, cached_alignments()]
    digests = [Align.parse(text).digest for text in aligned_by(models).values()]
    found = [path for digest in digests if (path := find(digest, folders)) is not None]
    return {f"{EVIDENCE}/{path.name}": path for path in found}


@contextmanager
def _refusals(repository: str) -> Iterator[None]:
    """Say what to do where the hub refuses or cannot be reached."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        advice = "run `hf auth login`, or set HF_TOKEN"
        raise PreflightError(f"not logged in to the hub: {advice}") from error
    except errors.OfflineModeIsEnabled as error:
        raise PreflightError("HF_HUB_OFFLINE is set; unset it to push") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no")
        advice = "try again later"
        if status in (401, 403):
            advice = "run `hf auth login`, or set HF_TOKEN to a token that may write there"
        raise PreflightError(
            f"{constants.ENDPOINT} refused {repository} with status {status}; {advice}"
        ) from error
    except Exception as error:
        # Its client's errors of connection are of no class that huggingface_hub exports.
        client = type(error).__module__.startswith(("httpx", "httpcore"))
        if not client and not isinstance(error, OSError):
            raise
        raise PreflightError(
            f"{constants.ENDPOINT} cannot be reached ({error}); check the network and try again"
        ) from error
