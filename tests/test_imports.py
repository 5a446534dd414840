"""What the search side costs to import."""

import subprocess
import sys

HEAVY = (
    *("torch", "transformers", "lm_eval", "ray", "datasets", "peft", "optuna"),
    *("scipy.stats", "scipy.optimize"),
)
LIGHT = (
    *(
        "cli",
        "commands.search",
        "commands.status",
        "session.open",
        "session.resume",
        "config",
        "study",
    ),
    *(
        "samplers",
        "methods",
        "store.store",
        "store.read_result",
        "report.front",
        "evidence",
        "extensions",
    ),
)


def test_the_search_side_loads_no_heavy_library() -> None:
    imports = ", ".join(f"automerge.{module}" for module in LIGHT)
    code = f"import sys, {imports}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == []
