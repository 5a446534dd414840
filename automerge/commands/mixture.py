"""`automerge merge` for a file of mergekit-moe: dense models → a mixture of experts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from automerge.errors import PreflightError
from automerge.mergekit import parse_moe
from automerge.text.say import say

if TYPE_CHECKING:
    from rich.console import Console

    from automerge.files.yaml_file import Located

COPY = "mergekit_moe_config.yml"
"""What the file is called in the folder, as by mergekit."""


def merge_mixture(document: Located, path: Path, out: Path, console: Console) -> None:
    """Write the mixture of experts that a file describes; raises ConfigError or PreflightError."""
    from automerge.checkpoints import ModelWatch, check_target
    from automerge.checkpoints.mixed import form_of, mixed_settings
    from automerge.commands.announcing import announcing
    from automerge.merging.gates import gates
    from automerge.merging.mixture import write_mixture
    from automerge.session.preflight import open_models

    mixture, references = parse_moe(document, path.absolute().parent)
    models = open_models(references, mixture.base, document.locate, note=announcing(console))
    for warning in models.warnings:
        say(console, f"warning: {warning}")
    watch = ModelWatch({name: folder.path for name, folder in models.folders.items()})
    base = models.checkpoints[mixture.base]
    check_target(out, [folder.path for folder in models.folders.values()], overwrite=False)
    settings = mixed_settings(len(mixture.experts), mixture.per_token, base)
    n_layers, width = settings["num_hidden_layers"], settings["hidden_size"]
    routed = gates(mixture, models.folders[mixture.base].path, n_layers, width)
    if not bool(routed.isfinite().all()):
        raise PreflightError(f"{path}: the gates are not finite; use other prompts")
    watch.check()
    write_mixture(mixture, models.checkpoints, routed, out, {COPY: path.read_text("utf-8")})
    shared = "" if mixture.shared is None else " and a shared one"
    say(
        console,
        f"wrote {out}: a {form_of(base).name} of {len(mixture.experts)} experts{shared}, "
        f"{mixture.per_token} per token",
    )
