"""Files go up and down: preupload, LFS objects, commits and downloads, as huggingface_hub 2.4 asks for them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tests.hub_request import Answer, Request, as_json, found, may_read_files, may_write, signed_in
from tests.hub_store import Blob, Commit, HubError, is_large

if TYPE_CHECKING:
    from tests.hub_server import Hub


def preupload(hub: Hub, request: Request) -> Answer:
    repository = found(hub, request)
    if not request.says("create_pr"):
        may_write(repository, request)
    files = repository.at(request.parts["revision"]).files
    answers = []
    for asked in request.json["files"]:
        path, old = asked["path"], files.get(asked["path"])
        large = is_large(path, asked["size"], base64.b64decode(asked.get("sample", "")))
        about = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if old is not None and old.large == large:
            about["oid"] = old.sha256 if large else old.oid
        answers.append(about)
    return as_json({"files": answers})


def lfs_batch(hub: Hub, request: Request) -> Answer:
    request.parts["kind"] = request.parts["kind"] or "model"
    found(hub, request)
    signed_in(request)
    objects = []
    for asked in request.json["objects"]:
        about = {key: asked[key] for key in ("oid", "size")}
        if asked["oid"] not in hub.objects:
            actions = {name: {"href": f"{hub.endpoint}/lfs/{name}/{asked['oid']}"} for name in ("upload", "verify")}
            about["actions"] = actions
        objects.append(about)
    return as_json({"transfer": "basic", "objects": objects})


def lfs_upload(hub: Hub, request: Request) -> Answer:
    blob = Blob(request.body, large=True)
    if blob.sha256 != request.parts["oid"]:
        raise HubError(400, "the content has another sha256")
    hub.objects[blob.sha256] = blob.content
    return Answer(200)


def lfs_verify(hub: Hub, request: Request) -> Answer:
    if len(hub.objects.get(request.json["oid"], b"")) != request.json["size"]:
        raise HubError(404, "the object was not uploaded")
    return as_json({})


def lfs_object(hub: Hub, request: Request) -> Answer:
    return Answer(200, hub.objects[request.parts["oid"]], {"ETag": f'"{request.parts["oid"]}"'})


def commit(hub: Hub, request: Request) -> Answer:
    repository, pull = found(hub, request), request.says("create_pr")
    user = signed_in(request) if pull else may_write(repository, request)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    header, revision = lines[0]["value"], request.parts["revision"]
    parent = repository.at(revision)
    if header.get("parentCommit") not in (None, parent.sha):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(_applied(hub, parent, lines[1:]))
    new = Commit(header["summary"], files, user.name, parent, header.get("description") or "")
    number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if pull:
        ref = f"refs/pr/{number}"
    elif ref not in repository.refs:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    repository.refs[ref] = new
    url = f"{hub.endpoint}/{'' if repository.kind == 'model' else repository.kind + 's/'}{repository.id}"
    about: dict[str, Any] = {"success": True, "commitOid": new.sha, "commitUrl": f"{url}/commit/{new.sha}"}
    return as_json(about | ({"pullRequestUrl": f"{url}/discussions/{number}"} if pull else {}))


def _applied(hub: Hub, parent: Commit, lines: list[dict[str, Any]]) -> dict[str, Blob]:
    """The files after the operations of a commit."""
    files = dict(parent.files)
    for line in lines:
        kind, value = line["key"], line["value"]
        path = value["path"]
        if kind == "file":
            files[path] = Blob(base64.b64decode(value["content"]), large=False)
        elif kind == "lfsFile":
            if value["oid"] not in hub.objects:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(hub.objects[value["oid"]], large=True)
        elif kind == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif kind == "deletedFolder":
            files = {name: blob for name, blob in files.items() if not name.startswith(path.rstrip("/") + "/")}
        else:
            raise HubError(400, f"unknown operation {kind}")
    return files


def resolve(hub: Hub, request: Request) -> Answer:
    request.parts["kind"] = request.parts["kind"] or "model"
    repository = found(hub, request)
    commit, path = repository.at(request.parts["revision"]), request.parts["path"]
    headers = {"X-Repo-Commit": commit.sha}
    may_read_files(hub, repository, request)
    blob = commit.files.get(path)
    if blob is None:
        raise HubError(404, f"{path} is not there", "EntryNotFound", headers=headers)
    if not blob.large:
        return Answer(200, blob.content, headers | {"ETag": f'"{blob.oid}"', "Content-Type": "text/plain"})
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Answer(302, b"", headers | linked | {"Location": f"{hub.elsewhere}/lfs/object/{blob.sha256}"})
