"""One commit with the files of a run, to any hub that speaks the protocol; repeating it sends nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session, get_token
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from pipeline.errors import ConfigError
from pipeline.hub.files import of_a_model
from pipeline.hub.patience import patiently
from pipeline.hub.preflight import NO_TOKEN, Facts, check_facts, full_name, kept_visibility
from pipeline.hub.settings import HubConfig

PULL_REQUESTS = 5
"""How many of the newest pull requests are compared with what would be pushed."""
WITHOUT_XET = {404, 405, 501}


@dataclass(frozen=True)
class Pushed:
    """What a push came to."""

    repo_id: str
    commit: str
    """Hash of the commit that holds the files."""
    url: str
    changed: bool
    """False: the hub had every file already, and no commit was made."""
    pull_request: str | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.changed:
            return f"nothing to push: {self.pull_request or self.url} holds these files already ({self.commit[:12]})"
        return f"pushed: {self.pull_request or self.url} ({self.commit[:12]})"


def signed_in(config: HubConfig) -> Facts:
    """Who pushes, and where to. Raises ConfigError when that cannot work; asks patiently."""
    if get_token() is None:
        raise ConfigError(f"hub: {NO_TOKEN}")
    api = HfApi()
    try:
        user = patiently(api.whoami)
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"hub: {NO_TOKEN}") from error
    name = full_name(str(config.hub_model_id), user)
    facts = Facts(user, name, patiently(lambda: _visibility(api, name)))
    check_facts(facts, config)
    return facts


def _visibility(api: HfApi, name: str) -> bool | None:
    try:
        return bool(api.model_info(name).private)
    except RepositoryNotFoundError:
        return None


def upload(files: Mapping[str, Path], config: HubConfig, facts: Facts, message: str) -> Pushed:
    """Push `files` (name in the repository -> file). What an earlier push left and this one has not is taken away.

    Everything goes into one commit; a repository, branch or tag is made where there is none.
    """
    api, name, notes = HfApi(), facts.name, []
    if facts.private is None:
        patiently(lambda: api.create_repo(name, private=config.hub_private_repo, exist_ok=True))
    elif facts.private != config.hub_private_repo:
        notes.append(kept_visibility(name, facts.private))
    branch = config.hub_revision or constants.DEFAULT_REVISION
    refs = patiently(lambda: api.list_repo_refs(name, include_pull_requests=config.hub_create_pr))
    if branch not in {ref.name for ref in refs.branches} and config.hub_revision is not None:
        patiently(lambda: api.create_branch(name, branch=branch, exist_ok=True))
    before = patiently(lambda: api.model_info(name, revision=branch))
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    if config.hub_tag is not None and tags.get(config.hub_tag, before.sha) != before.sha:
        raise ConfigError(
            f"hub_tag: {name} has a tag {config.hub_tag} already, at {tags[config.hub_tag][:12]}; choose another name"
        )
    stale = [
        sibling.rfilename
        for sibling in before.siblings or []
        if of_a_model(sibling.rfilename) and sibling.rfilename not in files
    ]
    as_streams = patiently(lambda: _lacks_xet(name, branch))

    def commit() -> Pushed:
        if config.hub_create_pr and (same := _same_pull_request(api, name, files, stale)):
            return same
        with ExitStack() as opened:  # new operations for each try, which then ask anew what the hub has
            operations: list[Any] = [CommitOperationDelete(path) for path in stale]
            for path, file in files.items():
                content: Any = opened.enter_context(file.open("rb")) if as_streams else file
                operations.append(CommitOperationAdd(path, content))
            done = api.create_commit(
                name,
                operations,
                commit_message=message,
                revision=None if config.hub_create_pr else branch,
                create_pr=config.hub_create_pr,
            )
        url = f"{constants.ENDPOINT}/{name}" + (f"/tree/{branch}" if config.hub_revision else "")
        return Pushed(name, done.oid, url, done.oid != before.sha, done.pr_url, notes)

    pushed = patiently(commit)
    if config.hub_tag is not None and tags.get(config.hub_tag) != pushed.commit:
        _tag(api, config.hub_tag, pushed, is_there=config.hub_tag in tags)
    return pushed


def _tag(api: HfApi, tag: str, pushed: Pushed, *, is_there: bool) -> None:
    if is_there:
        pushed.notes.append(f"the tag {tag} stays at the commit before; choose another name for this one")
    else:
        patiently(lambda: api.create_tag(pushed.repo_id, tag=tag, revision=pushed.commit, exist_ok=True))


def _same_pull_request(api: HfApi, name: str, files: Mapping[str, Path], stale: list[str]) -> Pushed | None:
    """One of the newest pull requests that holds the same files: of an earlier push, or of a try whose end was lost."""
    refs = api.list_repo_refs(name, include_pull_requests=True).pull_requests or []
    newest = sorted(refs, key=lambda ref: int(ref.name.rsplit("/", 1)[-1]), reverse=True)
    for ref in newest[:PULL_REQUESTS]:
        entries = api.list_repo_tree(name, revision=ref.ref, recursive=True)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        if not set(stale) & set(there) and all(
            path in there and _is_same(file, there[path]) for path, file in files.items()
        ):
            url = f"{constants.ENDPOINT}/{name}"
            number = ref.name.rsplit("/", 1)[-1]
            return Pushed(name, ref.target_commit, url, False, f"{url}/discussions/{number}")
    return None


def _is_same(file: Path, entry: RepoFile) -> bool:
    if file.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == entry.lfs.sha256
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id


def _lacks_xet(name: str, branch: str) -> bool:
    """Whether large files must go by Git LFS: huggingface_hub takes that way for streams, and Xet for paths."""
    if constants.HF_HUB_DISABLE_XET:
        return False
    url = f"{constants.ENDPOINT}/api/models/{name}/xet-write-token/{branch}"
    return get_session().get(url, headers=build_hf_headers()).status_code in WITHOUT_XET
