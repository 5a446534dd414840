"""Commands to copy: what uses a model, and what reproduces its score with lm_eval itself."""

from __future__ import annotations

import shlex

from automerge.store.result import MODEL, StudyResult


def score_commands(result: StudyResult, model_dir: str) -> str:
    """Return shell commands, to be run in the run folder, that score a model on the test items."""
    return "\n".join(
        shlex.join(word.replace(MODEL, model_dir) for word in command)
        for command in result.provenance.score_commands
    )


def export_command(trial: int) -> str:
    """Return a shell command, to be run in the run folder, that writes a merge's folder."""
    return f"automerge export . --trial {trial}"


def use_commands(trial: int, exported: bool) -> str:
    """Return shell commands, to be run in the run folder, that export, try and publish a merge."""
    use = (f"automerge chat . --trial {trial}", f"automerge push . ORG/NAME --trial {trial}")
    return "\n".join(use if exported else (export_command(trial), *use))
