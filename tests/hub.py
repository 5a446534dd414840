"""A local server that speaks as much of the hub's protocol as downloading and pushing need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_testtesttesttesttest"


@dataclass
class Repository:
    files: dict[str, bytes]
    private: bool = True
    messages: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        lines = (f"{name}\0{hashlib.sha1(data).hexdigest()}" for name, data in self.files.items())
        return hashlib.sha1("\n".join(sorted(lines)).encode()).hexdigest()


@dataclass
class Hub:
    """Repositories by name, what was uploaded before it was committed, and what was sent.

    `sent` counts bytes by repository and file. Without `ranges`, whole files are sent instead of
    the parts that were asked for.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    ranges: bool = True

    def add(self, name: str, folder: Path) -> None:
        files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
        self.repositories[name] = Repository(files, private=False)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub; only requests with TOKEN may write or see what is private."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            words = path.removeprefix("/api/models/").split("/")
            name, rest = "/".join(words[:2]), words[2:]
            if (found := self._visible(name)) is None:
                return
            if rest[:1] == ["tree"]:
                self._json([_row(n, data) for n, data in found.files.items()])
            else:
                siblings = [{"rfilename": n} for n in found.files]
                info = {"id": name, "sha": found.sha, "private": found.private}
                self._json({**info, "siblings": siblings})
            return
        name, _, rest = path.lstrip("/").partition("/resolve/")
        if not rest or (found := self._visible(name)) is None:
            return
        revision, _, file = rest.partition("/")
        if revision not in (found.sha, "main") or file not in found.files:
            self._refuse(404, "EntryNotFound")
            return
        data = found.files[file]
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        headers = {"ETag": tag, "X-Repo-Commit": found.sha}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None or not self.served.ranges:
            self._answer(200, data, headers)
        else:
            begin, last = int(span[1]), min(int(span[2]), len(data) - 1)
            headers["Content-Range"] = f"bytes {begin}-{last}/{len(data)}"
            data = data[begin : last + 1]
            self._answer(206, data, headers)
        if self.command == "GET":
            self.served.sent[f"{name}/{file}"] += len(data)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if not self._may_write():
            self._refuse(401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": list(map(self._slot, _objects(body)))})
        elif path.endswith("/preupload/main"):
            self._json({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
        elif path.endswith("/commit/main"):
            self._commit(path.split("/api/models/")[1].removesuffix("/commit/main"), body)
        else:
            raise NotImplementedError(path)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.served.uploaded[self.path.rsplit("/", 1)[1]] = body
        self._json({})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        place = {"url": f"{self.served.url}/{name}"}
        if name in self.served.repositories:
            self._answer(409, json.dumps(place).encode(), {})
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.served.repositories[name] = Repository({}, private)
        self._json(place)

    def _slot(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.served.url}/upload/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, name: str, body: bytes) -> None:
        found = self.served.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                found.messages.append(value["summary"])
            elif line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.served.uploaded[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                found.files[value["path"]] = data
        url = f"{self.served.url}/{name}/commit/{found.sha}"
        self._json({"success": True, "commitOid": found.sha, "commitUrl": url, "hookOutput": ""})

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _visible(self, name: str) -> Repository | None:
        found = self.served.repositories.get(name)
        if found is None or (found.private and not self._may_write()):
            self._refuse(404, "RepoNotFound")
            return None
        return found

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str = "") -> None:
        self._answer(status, b"{}", {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _row(name: str, data: bytes) -> dict[str, object]:
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}


def _mode(path: str) -> dict[str, object]:
    mode = "lfs" if path.endswith((".safetensors", ".sqlite")) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _objects(body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body)["objects"]
    return found
