"""The files of docs/cluster: SLURM's runs here, the others are what their programs accept."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from automerge import demo
from tests.command_line import REPOSITORY, surroundings

FOLDER = REPOSITORY / "docs" / "cluster"
SCRIPT = FOLDER / "slurm.sh"
SRUN = """#!/bin/bash
# As SLURM's, but all nodes are this machine, and each task is another process.
echo "$@" >> "$CALLS"
while [[ $1 == -* ]]; do
    case $1 in -w) shift 2 ;; *) shift ;; esac
done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
if [ "$1 $2" = "show hostnames" ]; then printf '127.0.0.1\\nother\\n'; fi
"""


def cluster(folder: Path, search: str) -> dict[str, str]:
    """Stand-ins for SLURM's programs, and the environment of a job on two nodes."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("automerge", search)):
        if text:
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
    own = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return surroundings(
        PATH=own,
        CALLS=str(folder / "calls"),
        HF_HOME=str(folder / "hf"),
        SLURM_JOB_ID=str(os.getpid()),
        SLURM_JOB_NODELIST="node[1-2]",
        SLURM_NNODES="2",
        SLURM_CPUS_PER_TASK="1",
        RAY_USAGE_STATS_ENABLED="0",
    )


def fake_ray(folder: Path) -> None:
    """A `ray` whose head listens, as Ray's does, and which stays until it is stopped."""
    (folder / "bin" / "ray").write_text(
        f"#!{sys.executable}\n"
        "import socket, sys, time\n"
        "ports = [a.split('=')[1] for a in sys.argv if a.startswith('--port=')]\n"
        "if ports:\n"
        "    time.sleep(0.5)\n"
        "    listening = socket.create_server(('127.0.0.1', int(ports[0])))\n"
        "time.sleep(600)\n"
    )
    (folder / "bin" / "ray").chmod(0o755)


def run_script(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_slurms_script_starts_the_head_first_and_ends_as_the_search_ends(tmp_path: Path) -> None:
    search = (
        '#!/bin/bash\necho "automerge $*" >> "$CALLS"\n[ -s ray.token ] || exit 9\n'
        'until grep -q exclude "$CALLS"; do sleep 0.05; done\nexit 4\n'
    )
    environment = cluster(tmp_path, search)
    fake_ray(tmp_path)
    job = run_script(tmp_path, environment)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 4, said
    calls = (tmp_path / "calls").read_text().splitlines()
    port = 20000 + int(environment["SLURM_JOB_ID"]) % 10000
    assert calls[0] == "scontrol show hostnames node[1-2]"
    assert "-w 127.0.0.1 ray start --head" in calls[1]
    assert any(f"--exclude=127.0.0.1 ray start --address=127.0.0.1:{port}" in c for c in calls[2:])
    [begun] = [call for call in calls if call.startswith("automerge")]
    assert f"search --executor ray --ray-address 127.0.0.1:{port}" in begun
    assert (tmp_path / "ray.token").stat().st_mode & 0o077 == 0
    assert not [call for call in calls if "requeue" in call]


def test_slurms_script_passes_the_signal_on_waits_and_requeues(tmp_path: Path) -> None:
    search = (
        "#!/bin/bash\ntrap 'sleep 0.5; touch reported; exit 143' TERM\n"
        'kill -TERM "$PPID"\nwhile :; do sleep 0.1; done\n'
    )
    environment = cluster(tmp_path, search)
    fake_ray(tmp_path)
    job = run_script(tmp_path, environment)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 143, said
    assert (tmp_path / "reported").exists()
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    assert last == f"scontrol requeue {environment['SLURM_JOB_ID']}"


@pytest.mark.slow
def test_slurms_script_searches_on_two_real_nodes(tmp_path: Path) -> None:
    environment = cluster(tmp_path, "")
    plain = demo.CONFIG.read_text(encoding="utf-8").replace("./", f"{demo.folder()}/")
    settings = yaml.safe_load(plain)
    settings |= {"budget": 7, "export": "none", "out": str(tmp_path / "run"), "workers": 1}
    settings.setdefault("evaluation", {})["device"] = "cpu"
    (tmp_path / "automerge.yaml").write_text(yaml.safe_dump(settings))
    job = run_script(tmp_path, environment)
    said, _ = job.communicate(timeout=900)
    assert job.returncode == 0, said
    front = json.loads((tmp_path / "run" / "front.json").read_text())
    assert front["state"] == "finished"


def test_the_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if (checker := shutil.which("shellcheck")) is not None:
        subprocess.run([checker, "--severity=warning", str(SCRIPT)], check=True)


def test_pods_are_what_kubernetes_accepts() -> None:
    manifest = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            limits, requests = (container["resources"][k] for k in ("limits", "requests"))
            assert requests.keys() <= limits.keys()
        if find_spec("kubernetes_validate") is not None:
            import kubernetes_validate

            whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
            kubernetes_validate.validate(whole, "1.33", strict=True)


def test_the_job_is_what_kuberay_accepts() -> None:
    """By the CRD that KubeRay installs, with fields it does not know refused, not pruned."""
    if "KUBERAY_CRD" not in os.environ:
        pytest.skip("set KUBERAY_CRD to KubeRay's crds/ray.io_rayjobs.yaml")
    jsonschema = pytest.importorskip("jsonschema")
    installed = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text(encoding="utf-8"))
    (version,) = (one for one in installed["spec"]["versions"] if one["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(closed(schema)).validate(manifest)


def closed(schema: Any) -> Any:
    """A schema whose objects have no properties but those it names."""
    if isinstance(schema, list):
        return list(map(closed, schema))
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_open = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    return made


def test_the_image_has_what_the_wheel_is_built_from() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    sources = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert all((REPOSITORY / name).exists() for name in sources)
    assert {"pyproject.toml", "README.md", "LICENSE", "automerge"} <= set(sources)


def test_skypilots_file_has_the_keys_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    task = yaml.safe_load((FOLDER / "sky.yaml").read_text(encoding="utf-8"))
    assert task.keys() <= {
        *("name", "num_nodes", "resources", "workdir", "envs", "secrets", "file_mounts", "setup"),
        "run",
    }
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n", "-c", script], check=True)
    if find_spec("sky") is not None:
        import sky

        assert sky.Task.from_yaml(str(FOLDER / "sky.yaml")).num_nodes == 2


@pytest.mark.parametrize(
    "words",
    re.findall(
        r"automerge search [^&\n]*",
        "\n".join(
            (FOLDER / name).read_text(encoding="utf-8")
            for name in ("slurm.sh", "kuberay.yaml", "sky.yaml")
        ),
    ),
)
def test_the_searches_shown_have_options_that_exist(words: str) -> None:
    from typer.main import get_command

    from automerge.cli.application import app

    known = {o for p in get_command(app).commands["search"].params for o in p.opts}
    assert set(re.findall(r"--[a-z-]+", words)) <= known
