"""What the tests' hub holds: users, repositories, commits and files, in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

KINDS = ("model", "dataset", "space")
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"
LARGE = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".zip", ".gz", ".h5", ".onnx", ".png", ".pdf"}
"""Suffixes that the hub keeps as LFS objects."""
DATE = "2026-01-01T00:00:00.000Z"


class HubError(Exception):
    """An answer that is no success; `code` is what the client decides by."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers, self.more = status, code, headers or {}, more


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and where it may write."""

    name: str
    writes: tuple[str, ...] = ()
    """Namespaces: its own name and organisations."""
    reads: tuple[str, ...] = ()
    """Organisations whose private repositories it sees."""

    def sees(self, namespace: str) -> bool:
        return namespace in (self.name, *self.writes, *self.reads)

    def about(self) -> dict[str, Any]:
        """The answer of `whoami-v2`."""
        organisations = [{"name": name, "roleInOrg": "write"} for name in self.writes if name != self.name]
        organisations += [{"name": name, "roleInOrg": "read"} for name in self.reads]
        role = {"displayName": "tests", "role": "write" if self.writes else "read"}
        auth = {"type": "access_token", "accessToken": role}
        return {"type": "user", "name": self.name, "fullname": self.name, "orgs": organisations, "auth": auth}


@dataclass(frozen=True)
class Blob:
    """A file's content."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return head.encode()

    @property
    def oid(self) -> str:
        """The name git gives it; that of its pointer, for a large file."""
        content = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = {"size": len(self.content), "oid": self.oid}
        if self.large:
            found["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return found


@dataclass(frozen=True)
class Commit:
    """The state of all files, and how it came about."""

    title: str
    files: dict[str, Blob]
    author: str
    parent: Commit | None = None
    message: str = ""

    @property
    def sha(self) -> str:
        names = {path: blob.oid for path, blob in sorted(self.files.items())}
        parts = [self.title, self.message, self.author, self.parent.sha if self.parent else "", names]
        return hashlib.sha1(json.dumps(parts).encode()).hexdigest()

    def history(self) -> list[Commit]:
        """Newest first."""
        return [self, *(self.parent.history() if self.parent else [])]


@dataclass
class Repository:
    """A repository of one kind; `refs` are its branches, tags and pull requests by full name."""

    id: str
    kind: str
    private: bool
    gated: bool = False
    refs: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    def at(self, revision: str) -> Commit:
        """A commit by branch, tag, full reference or hash."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        known = {commit.sha: commit for tip in self.refs.values() for commit in tip.history()}
        if revision not in known:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return known[revision]

    def about(self, commit: Commit, *, blobs: bool) -> dict[str, Any]:
        """The answer of `GET /api/models/{id}`."""
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
        if blobs:
            for sibling in siblings:
                about = commit.files[sibling["rfilename"]].about()
                sibling |= {"size": about["size"], "blobId": about["oid"], "lfs": about.get("lfs")}
        card = card_data(commit.files["README.md"].content.decode()) if "README.md" in commit.files else None
        about = {
            "id": self.id,
            "author": self.namespace,
            "sha": commit.sha,
            "createdAt": DATE,
            "lastModified": DATE,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": (card or {}).get("tags") or [],
            "siblings": siblings,
            "cardData": card,
        }
        if self.kind == "model":
            about |= {"modelId": self.id, **{key: (card or {}).get(key) for key in ("library_name", "pipeline_tag")}}
        return about

    def tree(self, commit: Commit, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
        """Files and folders below a folder."""
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {commit.sha}", "EntryNotFound")
        parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder}
        found = self.entries(commit, [*sorted(name for name in parents if name.startswith(prefix)), *inside], expand)
        return [entry for entry in found if recursive or "/" not in entry["path"].removeprefix(prefix)]

    def entries(self, commit: Commit, paths: list[str], expand: bool) -> list[dict[str, Any]]:
        """What is known of some paths; one that does not exist is left out."""
        last = {"lastCommit": {"id": commit.sha, "title": commit.title, "date": DATE}} if expand else {}
        found: list[dict[str, Any]] = []
        for path in paths:
            if path in commit.files:
                found.append({"type": "file", "path": path, **commit.files[path].about(), **last})
            elif any(name.startswith(f"{path}/") for name in commit.files):
                oid = hashlib.sha1(path.encode()).hexdigest()
                found.append({"type": "directory", "path": path, "size": 0, "oid": oid, **last})
        return found


def card_data(text: str) -> dict[str, Any] | None:
    """The YAML block on top of a README. Raises HubError when it is not one."""
    if not text.startswith("---\n"):
        return None
    block, closed, _ = text[4:].partition("\n---")
    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError as error:
        raise HubError(400, "Invalid YAML", errors=[{"message": str(error)}], warnings=[]) from error
    if not closed or not isinstance(found, dict):
        raise HubError(400, "Invalid YAML", errors=[{"message": "the block must be a mapping"}], warnings=[])
    return found


def card_problems(text: str) -> list[str]:
    """What the hub refuses in a card: YAML that is none, and a base model or dataset that is no id."""
    data = card_data(text) or {}
    problems = []
    for key in ("base_model", "datasets"):
        values = data.get(key) or []
        for value in [values] if isinstance(values, str) else values:
            if not isinstance(value, str) or value.startswith(("/", ".")) or value.count("/") > 1:
                problems.append(f'"{key}" with value "{value}" is not valid. Use a model id from the hub.')
    if "license" in data and data["license"] == "other" and not data.get("license_name"):
        problems.append('"license_name" is required when "license" is "other"')
    if data and "model-index" in data and not isinstance(data["model-index"], list):
        problems.append('"model-index" must be an array')
    return problems


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the hub keeps a file as an LFS object."""
    return PurePosixPath(path).suffix in LARGE or size > 10 * 2**20 or b"\0" in sample
