"""Write one model folder, to be killed: `python -m tests.chaos.toy_export SOURCE TARGET`."""

from __future__ import annotations

import sys
from pathlib import Path

from automerge.checkpoints import SafetensorsCheckpoint, write_checkpoint

SHARD_BYTES = 6_000


def export(source: Path, target: Path) -> None:
    checkpoint = SafetensorsCheckpoint(source)
    tensors = ((name, checkpoint.read(name)) for name in checkpoint.tensors)
    write_checkpoint(target, checkpoint.tensors, tensors, source, shard_bytes=SHARD_BYTES)


if __name__ == "__main__":
    for target in sys.argv[2:]:
        export(Path(sys.argv[1]), Path(target))
