"""A Hugging Face hub on the loopback device, in memory, for the real clients: what they push is what they load."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_api import ROUTES
from tests.hub_request import Answer, Request
from tests.hub_store import ATTRIBUTES, Blob, Commit, HubError, Repository, User, is_large

HANG_SECONDS = 60


def token_of(name: str) -> str:
    """A token that looks like a real one, so that searches for leaked tokens find it."""
    return "hf_" + (name.capitalize() * 34)[:34]


OWNER, OTHER, READER, INVALID = (token_of(name) for name in ("owner", "other", "reader", "invalid"))
USERS = {
    OWNER: User("owner", writes=("owner", "team"), reads=("company",)),
    OTHER: User("other", writes=("other",)),
    READER: User("owner", reads=("owner", "team", "company")),  # a token that may only read
}
"""`team` and `company` are organisations; nobody here may write to `company`."""


@dataclass
class Fault:
    """What happens to the next requests that fit."""

    method: str
    path: re.Pattern[str]
    times: int
    kind: str
    """status: answer so; drop: close the connection; lost: do as told, then close it; hang: never answer."""
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """The server, what it holds, and what it was asked."""

    def __init__(self) -> None:
        self.server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server.hub = self
        self.server.server_bind()  # the port is taken, and refuses everyone until `start`
        port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.elsewhere = f"http://localhost:{port}"
        """Where large files are: for the client another machine, which gets no token."""
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """As new: no repository, no fault, no request."""
        self.users = dict(USERS)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        """LFS objects by sha256."""
        self.readers: dict[str, set[str]] = {}
        """Gated repository -> users that were let in."""
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Every request: `GET /api/whoami-v2`, with its query."""
        self.released = threading.Event()

    def start(self) -> None:
        """Answer from now on, in threads of this process."""
        if self.server.serving is None:
            self.server.server_activate()
            self.server.serving = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
            self.server.serving.start()

    def fail_next(
        self,
        method: str,
        path: str,
        *,
        status: int = 503,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next `times` requests whose path matches the regex with `status`, undone."""
        self.faults.append(Fault(method, re.compile(path), times, "status", status, headers or {}))

    def drop_next(self, method: str, path: str, *, times: int = 1, done: bool = False) -> None:
        """Close the connection without an answer; with `done`, after doing what was asked."""
        self.faults.append(Fault(method, re.compile(path), times, "lost" if done else "drop"))

    def hang_next(self, method: str, path: str, *, times: int = 1) -> None:
        """Take the request and never answer (until the test is over)."""
        self.faults.append(Fault(method, re.compile(path), times, "hang"))

    def asked(self, pattern: str) -> list[str]:
        """The requests so far that match a regex."""
        return [request for request in self.requests if re.search(pattern, request)]

    def repository(self, repo_id: str, *, kind: str = "model") -> Repository:
        return self.repositories[kind, repo_id]

    def files(self, repo_id: str, revision: str = "main", *, kind: str = "model") -> dict[str, bytes]:
        """Path -> content, without the .gitattributes that every repository begins with."""
        files = self.repository(repo_id, kind=kind).at(revision).files
        return {path: blob.content for path, blob in sorted(files.items()) if path != ".gitattributes"}

    def commits(self, repo_id: str, revision: str = "main", *, kind: str = "model") -> list[str]:
        """Titles of the commits, newest first, without the first one, which makes the repository."""
        return [commit.title for commit in self.repository(repo_id, kind=kind).at(revision).history()[:-1]]

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "model",
        private: bool = False,
        gated: bool = False,
        title: str = "Add files",
    ) -> str:
        """Put files into a repository without a client, made if it is not there; the hash of the commit."""
        with self.lock:
            found = self.repositories.setdefault((kind, repo_id), Repository(repo_id, kind, private, gated))
            before = found.refs.get("refs/heads/main") or Commit("initial commit", {}, found.namespace)
            first = {".gitattributes": Blob(ATTRIBUTES, large=False)}
            new = {path: Blob(content, is_large(path, len(content), b"")) for path, content in files.items()}
            found.refs["refs/heads/main"] = Commit(title, {**first, **before.files, **new}, found.namespace, before)
            self.objects |= {blob.sha256: blob.content for blob in new.values() if blob.large}
            return found.refs["refs/heads/main"].sha

    def let_in(self, repo_id: str, user: str) -> None:
        """Give a user access to a gated repository."""
        self.readers.setdefault(repo_id, set()).add(user)

    def answer(self, request: Request) -> Answer:
        """Find who asks and what for."""
        try:
            request.user = self._user(request.headers.get("Authorization"))
            for method, pattern, route in ROUTES:
                if method == request.method and (found := re.fullmatch(pattern, request.path)):
                    request.parts = {name: unquote(part or "") for name, part in found.groupdict().items()}
                    with self.lock:
                        return route(self, request)
            raise HubError(404, f"the tests' hub does not know {request.method} {request.path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error), **error.headers}
            headers |= {"X-Error-Code": error.code} if error.code else {}
            return Answer(error.status, json.dumps({"error": str(error), **error.more}).encode(), headers)

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets, used up once."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def _user(self, authorization: str | None) -> User | None:
        if not authorization:
            return None
        user = self.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub
    serving: threading.Thread | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of the test's business; what is wrong here is the answer 500."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        hub.requests.append(f"{self.command} {self.path}")
        fault = hub.fault_for(self.command, self.path)
        if fault and fault.kind == "hang":
            hub.released.wait(HANG_SECONDS)
        if fault and fault.kind in ("drop", "hang"):
            self.close_connection = True
            return
        if fault and fault.kind == "status":
            self._send(Answer(fault.status, b'{"error": "injected"}', dict(fault.headers)))
            return
        try:
            query = parse_qs(url.query, keep_blank_values=True)
            request = Request(self.command, url.path, query, body, self.headers)
            answer = hub.answer(request)
        except Exception as error:  # a fault of the server must not look like a lost connection
            answer = Answer(500, json.dumps({"error": f"the tests' hub failed: {error!r}"}).encode())
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, answer: Answer) -> None:
        content, status = answer.content, answer.status
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == 200:
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            answer.headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """`hub.requests` holds them."""


HUB = Hub()
"""That of this process, to which HF_ENDPOINT points (tests/conftest.py); it answers nobody until a test asks for it."""
