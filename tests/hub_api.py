"""Repositories, their references and what is in them, as huggingface_hub 2.4 asks for it; and all the routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from tests.hub_files import commit, lfs_batch, lfs_object, lfs_upload, lfs_verify, preupload, resolve
from tests.hub_request import Answer, Request, as_json, found, may_read_files, may_write, signed_in
from tests.hub_store import ATTRIBUTES, DATE, KINDS, Blob, Commit, HubError, Repository, card_problems

if TYPE_CHECKING:
    from tests.hub_server import Hub


def whoami(hub: Hub, request: Request) -> Answer:
    return as_json(signed_in(request).about())


def create(hub: Hub, request: Request) -> Answer:
    user, asked = signed_in(request), request.json
    namespace, kind = asked.get("organization") or user.name, asked.get("type") or "model"
    repo_id = f"{namespace}/{asked['name']}"
    url = f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    if namespace not in user.writes:
        raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    if (kind, repo_id) in hub.repositories:
        raise HubError(409, f"You already created this {kind} repo: {repo_id}", url=url)
    first = Commit("initial commit", {".gitattributes": Blob(ATTRIBUTES, large=False)}, user.name)
    private = asked.get("visibility") == "private" or asked.get("private") is True
    hub.repositories[kind, repo_id] = Repository(repo_id, kind, private, refs={"refs/heads/main": first})
    return as_json({"url": url, "name": repo_id, "id": repo_id, "private": private})


def delete(hub: Hub, request: Request) -> Answer:
    asked = request.json
    request.parts["id"] = f"{asked.get('organization') or signed_in(request).name}/{asked['name']}"
    repository = found(hub, request, asked.get("type") or "model")
    may_write(repository, request)
    del hub.repositories[repository.kind, repository.id]
    return as_json({})


def settings(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    may_write(repository, request)
    if "visibility" in request.json:
        repository.private = request.json["visibility"] == "private"
    if "gated" in request.json:
        repository.gated = bool(request.json["gated"])
    return as_json({"private": repository.private})


def auth_check(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    may_read_files(hub, repository, request)
    if request.path.endswith("/write"):
        may_write(repository, request)
    return as_json({})


def validate_yaml(hub: Hub, request: Request) -> Answer:
    problems = card_problems(request.json["content"])
    errors = [{"message": problem} for problem in problems]
    return as_json({"errors": errors, "warnings": []}, 400 if problems else 200)


def info(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    commit = repository.at(request.parts.get("revision") or "main")
    return as_json(repository.about(commit, blobs=request.says("blobs")))


def tree(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    commit, folder = repository.at(request.parts["revision"]), request.parts["path"].strip("/")
    return as_json(repository.tree(commit, folder, recursive=request.says("recursive"), expand=request.says("expand")))


def paths_info(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    is_form = "json" not in request.headers.get("Content-Type", "")
    asked = parse_qs(request.body.decode()) if is_form else request.json
    commit, expand = repository.at(request.parts["revision"]), str(asked.get("expand", "")).lower()
    return as_json(repository.entries(commit, list(asked.get("paths", [])), "true" in expand))


def refs(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/", "converts": "refs/convert/"}
    listed = {
        kind: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit.sha}
            for ref, commit in repository.refs.items()
            if ref.startswith(prefix)
        ]
        for kind, prefix in kinds.items()
    }
    return as_json(listed)


def commits(hub: Hub, request: Request) -> Answer:
    history = found(hub, request).at(request.parts["revision"]).history()
    return as_json(
        [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.message,
                "authors": [{"user": commit.author}],
                "date": DATE,
            }
            for commit in history
        ]
    )


def branch(hub: Hub, request: Request) -> Answer:
    return _new_ref(hub, request, f"refs/heads/{request.parts['name']}", request.json.get("startingPoint") or "main")


def tag(hub: Hub, request: Request) -> Answer:
    return _new_ref(hub, request, f"refs/tags/{request.json['tag']}", request.parts["name"])


def _new_ref(hub: Hub, request: Request, ref: str, start: str) -> Answer:
    repository = found(hub, request)
    may_write(repository, request)
    if ref in repository.refs:
        raise HubError(409, "Reference already exists")
    repository.refs[ref] = repository.at(start)
    return as_json({})


def delete_ref(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    may_write(repository, request)
    kind = "refs/heads/" if "/branch/" in request.path else "refs/tags/"
    if repository.refs.pop(kind + request.parts["name"], None) is None:
        raise HubError(404, "Reference does not exist", "RevisionNotFound")
    return as_json({})


Route = Callable[["Hub", Request], Answer]


def _routes() -> Iterator[tuple[str, str, Route]]:
    yield "GET", "/api/whoami-v2", whoami
    yield "POST", "/api/repos/create", create
    yield "DELETE", "/api/repos/delete", delete
    yield "POST", "/api/validate-yaml", validate_yaml
    yield "PUT", "/lfs/upload/(?P<oid>[0-9a-f]+)", lfs_upload
    yield "POST", "/lfs/verify/(?P<oid>[0-9a-f]+)", lfs_verify
    name, rest = "(?P<id>[^/]+/[^/]+|[^/]+)", "(?P<path>/.*)?"
    revision, ref = "(?P<revision>[^/]+)", "(?P<name>[^/]+)"
    prefix = "/(?:(?P<kind>model|dataset|space)s/)?" + name
    yield "POST", rf"{prefix}\.git/info/lfs/objects/batch", lfs_batch
    for method in ("GET", "HEAD"):
        yield method, "/lfs/object/(?P<oid>[0-9a-f]+)", lfs_object
        yield method, f"{prefix}/resolve/{revision}/(?P<path>.+)", resolve
    for kind in KINDS:
        base = f"/api/(?P<kind>{kind})s/{name}"
        yield "GET", f"{base}/auth-check(/write)?", auth_check
        yield "GET", f"{base}/revision/{revision}", info
        yield "GET", f"{base}/tree/{revision}{rest}", tree
        yield "GET", f"{base}/commits/{revision}", commits
        yield "GET", f"{base}/refs", refs
        yield "GET", base, info
        yield "POST", f"{base}/paths-info/{revision}", paths_info
        yield "POST", f"{base}/preupload/{revision}", preupload
        yield "POST", f"{base}/commit/{revision}", commit
        yield "POST", f"{base}/branch/{ref}", branch
        yield "DELETE", f"{base}/(branch|tag)/{ref}", delete_ref
        yield "POST", f"{base}/tag/{ref}", tag
        yield "PUT", f"{base}/settings", settings


ROUTES = list(_routes())
"""(method, regex of the path, what answers), the first that fits."""
