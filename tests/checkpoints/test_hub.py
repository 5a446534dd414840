"""References to models: folders, hub ids, and mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from automerge.checkpoints import ModelFolder, resolve
from automerge.errors import PreflightError


def test_a_folder_is_found_absolute_relative_and_from_home(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "my model"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for reference in (str(folder), "~/models/my model"):
        assert resolve(reference) == ModelFolder(folder, reference)
    assert resolve("my model", tmp_path / "models").path == folder
    assert resolve("../models/my model", tmp_path / "models").path == folder


@pytest.mark.parametrize("reference", ["./mats", "models/mats", "../models/models/mats"])
def test_a_missing_folder_names_the_one_beside_it(reference, tmp_path):
    for name in ("maths", "code"):
        (tmp_path / "models/models" / name).mkdir(parents=True)
        (tmp_path / "models" / name).mkdir()
    with pytest.raises(PreflightError, match="did you mean 'maths'"):
        resolve(reference, tmp_path / "models")


@pytest.mark.parametrize("reference", ["", "no-slash", "a/b/c", "x\0y", "/" + "n" * 5000, "org/ü"])
def test_what_is_neither_folder_nor_hub_id_is_a_fault(reference, tmp_path):
    with pytest.raises(PreflightError):
        resolve(reference, tmp_path)


def test_a_file_is_not_a_model(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(PreflightError, match="give the model's folder"):
        resolve("f", tmp_path)


SHA = "0123456789abcdef0123456789abcdef01234567"
WANTED = (
    *("1_Pooling/config.json", "2_Dense/model.safetensors", "LICENSE", "README.md", "config.json"),
    *("model.safetensors", "preprocessor_config.json", "sentencepiece.bpe.model", "tekken.json"),
    *("adapter_config.json", "adapter_model.safetensors"),
)
UNWANTED = (
    *("pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "model.gguf"),
    *("onnx/config.json", "checkpoint-5/tokenizer.json", "original/params.json", "modeling_x.py"),
    *("adapter_model.bin", "checkpoint-5/adapter_model.safetensors"),
    *(".gitattributes", "optimizer.pt", "tf_model.h5", "vae/model.safetensors"),
)
FILES = {name: f"content of {name}".encode() for name in (*WANTED, *UNWANTED)}


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot download asks for."""

    status: dict[str, tuple[int, str]] = {  # noqa: RUF012
        "org/gated": (403, "GatedRepo"),
        "org/gone": (404, "RepoNotFound"),
        "org/private": (401, "RepoNotFound"),
        "org/busy": (500, ""),
    }

    def do_GET(self):
        path = self.path.split("?")[0]
        for repo, (status, code) in self.status.items():
            if f"/{repo}/" in path + "/":
                return self.answer(status, b"{}", {"X-Error-Code": code} if code else {})
        if "/revision/lost" in path or "/tree/lost" in path:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": n, "size": len(c), "oid": f"{i:040x}"}
                for i, (n, c) in enumerate(FILES.items())
            ]
            return self.answer(200, json.dumps(listed).encode())
        if path.startswith("/api/models/"):
            info = {"id": "org/fine", "sha": SHA, "siblings": [{"rfilename": n} for n in FILES]}
            return self.answer(200, json.dumps(info).encode())
        name = path.partition(f"/resolve/{SHA}/")[2]
        if name in FILES:
            tag = f'"{list(FILES).index(name):040x}"'
            return self.answer(200, FILES[name], {"ETag": tag, "X-Repo-Commit": SHA})
        return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


CHILD = """
import json, sys
from automerge.checkpoints import resolve
from automerge.errors import PreflightError
out = []
for reference in sys.argv[1:]:
    try:
        found = resolve(reference)
        files = [p.relative_to(found.path).as_posix() for p in found.path.rglob("*") if p.is_file()]
        out.append([found.revision, sorted(files)])
    except PreflightError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def resolve_in_child(tmp_path, references, **environment):
    """Hub settings are read at import, so they need a process of their own."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *references],
        env={**plain, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub_is_asked_and_its_refusals_say_what_to_do(tmp_path):
    references = [
        "org/fine",
        "org/fine@lost",
        "org/gated",
        "org/gone",
        "org/private",
    ]
    with hub() as url:
        found, lost, gated, gone, private = resolve_in_child(tmp_path, references, HF_ENDPOINT=url)
    assert found == [SHA, sorted(WANTED)]
    assert "no revision 'lost'" in lost
    assert f"accept its licence at {url}/org/gated and set HF_TOKEN" in gated
    assert "no such model" in gone
    assert "set HF_TOKEN" in private
    cached, absent = resolve_in_child(
        tmp_path, ["org/fine", "org/absent"], HF_ENDPOINT=url, HF_HUB_OFFLINE="1"
    )
    assert cached == found
    assert "HF_HUB_OFFLINE is set" in absent


def test_a_hub_that_cannot_be_reached_is_a_fault(tmp_path):
    [message] = resolve_in_child(tmp_path, ["org/absent"], HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in message
