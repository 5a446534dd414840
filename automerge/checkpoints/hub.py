"""Model references: local folders and Hugging Face Hub ids."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from automerge.checkpoints.folder.stale import unwanted_downloads
from automerge.errors import PreflightError, nearest

HUB_ID = re.compile(r"(?P<repo>[\w.\-]+/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+))?", re.ASCII)


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk: its folder, the user's reference to it, and its commit if from the hub.

    `outline` is whether its weights are not there yet, but stood in for.
    """

    path: Path
    reference: str
    revision: str | None = None
    outline: bool = False

    @property
    def pinned(self) -> str:
        """The hub id with its commit; the absolute path of a local folder."""
        if self.revision is None:
            return str(self.path)
        return f"{self.reference.partition('@')[0]}@{self.revision}"


@dataclass(frozen=True)
class HubModel:
    """A model on the hub: the user's reference to it, its repository, and its revision if given."""

    reference: str
    repo: str
    revision: str | None


def resolve(reference: str, relative_to: Path | None = None) -> ModelFolder:
    """Find a model, and download it if it is on the hub and not in the local cache.

    `org/name@revision` pins a commit, tag or branch. Weights in formats other than safetensors,
    code, and what training leaves behind are not downloaded. HF_HOME, HF_TOKEN, HF_ENDPOINT and
    HF_HUB_OFFLINE apply.

    Args:
        reference: a path or hub id.
        relative_to: the folder that relative paths are relative to; the working directory if None.

    Raises:
        PreflightError: there is no such model, or it cannot be downloaded.
    """
    found = identify(reference, relative_to)
    return found if isinstance(found, ModelFolder) else download(found)


def identify(reference: str, relative_to: Path | None = None) -> ModelFolder | HubModel:
    """Tell a local folder (absolute, from ~, or relative to a folder) from a hub id.

    Raises:
        PreflightError: it is neither.
    """
    if not reference.strip():
        raise PreflightError("a model's reference is empty; give a folder or a Hugging Face id")
    local = (relative_to or Path.cwd()) / Path(os.path.expanduser(reference))  # noqa: PTH111
    try:
        if local.is_dir():
            return ModelFolder(local.resolve(), reference)
        if local.exists():
            raise PreflightError(f"{reference}: is a file; give the model's folder")
    except (OSError, ValueError) as error:
        raise PreflightError(f"{reference!r:.200}: not a usable path ({error})") from error
    match = HUB_ID.fullmatch(reference)
    if match is None or reference.startswith((".", "~")) or "did you mean" in beside(local):
        raise PreflightError(
            f"{reference}: no such folder ({local}){beside(local)}; give a model folder or a "
            "Hugging Face id such as org/name"
        )
    return HubModel(reference, match["repo"], match["revision"])


def beside(folder: Path) -> str:
    """Suggest the folder beside a missing one that may have been meant."""
    if not folder.parent.is_dir():
        return ""
    return nearest(folder.name, sorted(p.name for p in folder.parent.iterdir() if p.is_dir()))


def download(model: HubModel) -> ModelFolder:
    """Download a hub model into the local cache, unless it is there.

    Raises:
        PreflightError: it does not exist, access is denied, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with refusals(model):
        unwanted = unwanted_downloads()
        path = Path(
            snapshot_download(model.repo, revision=model.revision, ignore_patterns=unwanted)
        )
    if not any(path.iterdir()):
        raise PreflightError(
            f"{model.reference}: has no safetensors files; see {page(model)}/tree/main"
        )
    return ModelFolder(path, model.reference, path.name)


def page(model: HubModel) -> str:
    """Return the address of a model's page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{model.repo}"


@contextmanager
def refusals(model: HubModel) -> Iterator[None]:
    """Turn what the hub's client raises into a PreflightError that says what to do."""
    from huggingface_hub import constants, errors

    reference, url = model.reference, page(model)
    try:
        yield
    except errors.GatedRepoError as error:
        raise PreflightError(
            f"{reference}: gated model; accept its licence at {url} and set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PreflightError(
            f"{reference}: no revision {model.revision!r}; see {url}/commits/main"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise PreflightError(
            f"{reference}: no such model at {url}, and no such local folder; check the spelling or "
            "set HF_TOKEN if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached"
        advice = "unset it once" if offline else "check the network and try again"
        raise PreflightError(
            f"{reference}: not in the local cache, and {why}; {advice} or give a local folder"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no")
        advice = "set HF_TOKEN" if status in (401, 403) else "try again later"
        raise PreflightError(f"{reference}: {url} answered status {status}; {advice}") from error
    except (errors.HFValidationError, OSError) as error:
        raise PreflightError(f"{reference}: cannot be downloaded: {error}") from error
