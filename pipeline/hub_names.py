"""What a name can be: a local folder or a repository of the hub; where the cache keeps it, and what to say of it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pipeline.errors import ConfigError, nearest
from pipeline.files import write_text
from pipeline.safe_text import masked

HUB_METRIC = "hub:"
"""What a metric of the hub begins with: `hub:user/name`, or `hub:user/name@revision`."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LOST: type[Exception] = HfHubHTTPError.__mro__[1]
"""What the hub's client raises when a connection fails: httpx's HTTPError, or httpx2's from huggingface_hub 2 on."""


@dataclass(frozen=True)
class Asked:
    """A setting that may name something on the hub."""

    key: str
    """The setting, such as `model.model_name_or_path`."""
    name: str
    revision: str | None = None
    """Branch, tag or commit; None is the newest."""
    kind: str = "model"
    """`model`, `dataset` or `space`, which a metric is."""
    revision_key: str = "model.revision"
    needed: bool = True
    """Whether it is a problem when it is not there."""


def locate(name: str, *, what: str) -> str:
    """The local folder that `name` is, with `~` expanded, or `name` itself when it can be a hub id.

    Raises ConfigError for a path where nothing is, and for a file.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ConfigError(f"{what}: {name} is a file; give the folder it is in")
    if name.startswith((".", "/", "~")) or not is_hub_id(name):
        raise ConfigError(f"{what}: there is no folder {name}{near(path)}")
    return name


def check_dataset_name(name: str, *, what: str) -> None:
    """Raise ConfigError for a path, and for what cannot be a name on the hub."""
    if Path(name).expanduser().exists():
        raise ConfigError(f"{what}: {name} is a local path; use train_file (and validation_file) for it")
    if not is_hub_id(name):
        raise ConfigError(
            f"{what}: {name} cannot be a dataset of the hub; expected a name such as stanfordnlp/sst2, or use "
            "train_file for files"
        )


def metric_on_hub(metric: str) -> tuple[str, str | None]:
    """Repository and revision of `hub:user/name@revision`. Raises ConfigError when the hub can have no such metric."""
    name, _, revision = metric.removeprefix(HUB_METRIC).partition("@")
    if not is_hub_id(name) or "/" not in name:
        raise ConfigError(f"eval.metrics: {metric} cannot be a metric of the hub; expected hub:user/name")
    return name, revision or None


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a repository of that name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def cached_commit(name: str, revision: str | None = None, *, kind: str = "model") -> str | None:
    """The commit of a branch, a tag or a commit as far as the local cache knows; None when it holds no file of it.

    Layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    folder = _cache_of(name, kind)
    commit = revision
    if not COMMIT.fullmatch(revision or ""):
        reference = folder / "refs" / (revision or constants.DEFAULT_REVISION)
        commit = reference.read_text().strip() if reference.is_file() else None
    snapshot = folder / "snapshots" / (commit or "none")
    return commit if snapshot.is_dir() and any(snapshot.iterdir()) else None


def remember(one: Asked, commit: str) -> None:
    """Write down what a branch or tag stood for, as the hub's client does when it downloads by that name.

    Everything is loaded by commit, so that nobody else writes it, and a later run without network would not know.
    """
    if COMMIT.fullmatch(one.revision or ""):
        return
    path = _cache_of(one.name, one.kind) / "refs" / (one.revision or constants.DEFAULT_REVISION)
    with suppress(OSError):  # a cache that several people read may be closed to this one
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, commit)


def _cache_of(name: str, kind: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def not_cached(one: Asked) -> str:
    """What to do about a model that is needed and not there."""
    revision = f" (revision {one.revision})" if one.revision else ""
    local = f" is no local folder{near(Path(one.name))} and" if one.kind == "model" else ""
    return (
        f"{one.key}: {one.name}{revision}{local} is not in the local cache "
        f"({constants.HF_HUB_CACHE}), and the hub is not reached; download it once with network access, or give a "
        "local folder"
    )


def refusal(one: Asked, error: HfHubHTTPError, api: huggingface_hub.HfApi) -> str:
    """What the hub's refusal means, and what to do."""
    hub, token = masked(constants.ENDPOINT), huggingface_hub.get_token()
    page = f"{hub}/{'' if one.kind == 'model' else one.kind + 's/'}{one.name}"
    status, sign_in = error.response.status_code, "`hf auth login`, or HF_TOKEN in the environment"
    if isinstance(error, GatedRepoError):
        who = "this account has no access yet" if token else "nobody is signed in"
        return f"{one.key}: {one.name} is gated and {who}; ask for access on {page}, then sign in ({sign_in})"
    if isinstance(error, RevisionNotFoundError):
        with suppress(Exception):  # the list is a kindness
            refs = api.list_repo_refs(one.name, repo_type=one.kind)
            hint = nearest(str(one.revision), [ref.name for ref in (*refs.branches, *refs.tags)])
            return f"{one.revision_key}: {one.name} has no branch, tag or commit {one.revision!r}; {hint}"
        return f"{one.revision_key}: {one.name} has no branch, tag or commit {one.revision!r}; see {page}"
    if isinstance(error, RepositoryNotFoundError):
        close = near(Path(one.name)) if one.kind == "model" else ""
        local = f" is no local folder{close} and" if one.kind == "model" else ""
        if token is None:
            return (
                f"{one.key}: {one.name}{local} is not a public {one.kind} of the hub ({hub}); check the name or, if it "
                f"is private, sign in ({sign_in})"
            )
        return (
            f"{one.key}: {one.name}{local} is no {one.kind} of the hub ({hub}), or a private one that your token does "
            f"not see; check the name, or sign in with an account that has access ({sign_in})"
        )
    if status == 401:
        source = "HF_TOKEN" if {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & set(os.environ) else "`hf auth login`"
        return (
            f"{one.key}: the hub ({hub}) refuses your token, which comes from {source}; make a new one on "
            f"{hub}/settings/tokens and sign in again ({sign_in})"
        )
    said = error.server_message or error.response.reason_phrase
    return f"{one.key}: the hub ({hub}) answered {status} for {one.name}: {said}"


def near(path: Path) -> str:
    """The end of a message about a missing folder: the nearest folder beside it, when one is near."""
    if not path.parent.is_dir():
        return ""
    hint = nearest(path.name, [folder.name for folder in path.parent.iterdir() if folder.is_dir()])
    if not hint.startswith("did you mean"):
        return ""
    return f" ({hint[:-1]} in {path.parent}?)"
