"""The test items of a study, as a file that commands read."""

from __future__ import annotations

import json
from pathlib import Path

from automerge.trial import Items


def write_samples(path: Path, items: Items) -> None:
    """Write item ids in the form of lm-eval's `--samples`, leaf tasks without items left out.

    lm-eval reads an empty list as all documents, and labels unsorted ids wrongly.
    """
    samples = {task: sorted(ids) for task, ids in sorted(items.items()) if ids}
    path.write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")
