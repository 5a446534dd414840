"""A Ray node that has none of the files measures the same: they are sent to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.command_line import surroundings
from tests.forked import automerge
from tests.zoo import write_zoo

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(
        shutil.which("unshare") is None
        or subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]).returncode != 0,
        reason="a machine without the files is made with mount namespaces, not allowed here",
    ),
]


@pytest.fixture
def head() -> Iterator[Cluster]:
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        yield found
    finally:
        found.shutdown()


def test_a_node_without_the_files_measures_the_same(head: Cluster, tmp_path: Path) -> None:
    here, cache = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    config = write_zoo(here)
    environment = surroundings(HF_HOME=str(tmp_path / "hf"))
    # Nothing of the study can be seen on the node: an empty file system covers its folder.
    ray = Path(sys.executable).with_name("ray")
    start = f"exec {ray} start --address={head.address} --num-cpus=1 --block"
    node = subprocess.Popen(
        [*NAMESPACE, "sh", "-c", f"mount -t tmpfs none {here} && {start}"],
        env={**os.environ, **environment, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    try:
        asked = ("search", str(config), "--budget", "6", "--device", "cpu", "--no-menu")
        far = ("--executor", "ray", "--ray-address", head.address, "--workers", "1")
        done = automerge(here, *asked, *far, "--out", "far", environment=environment)
        assert done.returncode == 0, done.stderr
    finally:
        node.terminate()
        node.wait()
    near = automerge(here, *asked, "--out", "near", environment=environment)
    assert near.returncode == 0, near.stderr
    fronts = [json.loads((here / run / "front.json").read_text()) for run in ("far", "near")]
    assert fronts[0]["members"] == fronts[1]["members"]
    received = [one for one in (cache / "automerge" / "received").iterdir() if one.is_dir()]
    assert len(received) == 5  # base, three sources, what tasks read
