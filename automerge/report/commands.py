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


def use_commands(trial: int) -> str:
    """Return shell commands, to be run in the run folder, that export, try and publish a merge."""
    return "\n".join(
        (
            f"automerge export . --trial {trial}",
            f"automerge chat . --trial {trial}",
            f"automerge push . ORG/NAME --trial {trial}",
        )
    )
