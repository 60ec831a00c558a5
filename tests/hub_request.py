"""What a client asks the tests' hub, what it gets, and whether it may."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any

from tests.hub_store import HubError, Repository, User

if TYPE_CHECKING:
    from tests.hub_server import Hub


@dataclass
class Request:
    """What a client asks; `path` is as sent, `parts` what the route finds in it."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    headers: Message
    user: User | None = None
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def says(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")


@dataclass
class Answer:
    """What the client gets."""

    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode())


def signed_in(request: Request) -> User:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    return request.user


def found(hub: Hub, request: Request, kind: str | None = None) -> Repository:
    """The repository a request names; a private one is not there for those who may not see it."""
    repository = hub.repositories.get((kind or request.parts["kind"], request.parts["id"]))
    user = request.user
    if repository is None or (repository.private and not (user and user.sees(repository.namespace))):
        raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
    return repository


def may_write(repository: Repository, request: Request) -> User:
    user = signed_in(request)
    if repository.namespace not in user.writes:
        raise HubError(403, f"You don't have the rights to write to {repository.id} with this token")
    return user


def may_read_files(hub: Hub, repository: Repository, request: Request) -> None:
    """Everyone sees that a gated repository is there; its files are for those who were let in."""
    user, known = request.user, hub.readers.get(repository.id, set())
    if repository.gated and not (user and (user.name in known or user.sees(repository.namespace))):
        message = f"Access to {repository.kind} {repository.id} is restricted"
        raise HubError(403 if user else 401, message, "GatedRepo")
