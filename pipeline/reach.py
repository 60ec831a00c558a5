"""Where a name leads: a local folder, a commit on the hub when it answers, or in the local cache when it does not."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from pipeline.errors import ConfigError
from pipeline.hub_names import LOST, Asked, cached_commit, check_dataset_name, locate, not_cached, refusal, remember
from pipeline.safe_text import masked

logger = logging.getLogger("graft")

PROBE_SECONDS = 3.0
"""How long a run waits for the hub before it works without it."""
PAUSE_SECONDS = 0.3
"""Between two tries of a hub that answers with an error of its own."""
_answered: set[str] = set()
"""Endpoints that have answered this process, which need not be asked again."""


def resolve(
    name: str, revision: str | None = None, *, what: str, kind: str = "model", revision_key: str = "model.revision"
) -> str | None:
    """The commit that a hub name stands for now, for `from_pretrained(name, revision=commit)`; None for a local folder.

    Call it once, before anything is loaded by that name: what is loaded in several steps (config, tokenizer, weights)
    is then of one commit, and a hub that is not there costs 3 seconds and not a minute. `what` is the setting or the
    flag that names it, for messages (`--model`), `revision_key` the one that gives `revision`. When the hub does not
    answer, or in offline mode, it is the commit in the local cache. Raises ConfigError in one sentence with what to do:
    no such folder, repository or revision, a token that is refused, a gated repository, nothing in the cache.
    """
    return resolve_all([Asked(what, name, revision, kind, revision_key)]).get(what)


def resolve_all(asked: Sequence[Asked]) -> dict[str, str]:
    """The commits that hub names stand for, by their settings, all asked for at once; local folders are left out.

    See `resolve`. One ConfigError lists all problems.
    """
    asked = [one for one in asked if not _is_folder(one)]
    if not asked:
        return {}
    if not constants.is_offline_mode():
        found = _ask_all(asked)
        needed = [answer for one, answer in zip(asked, found, strict=True) if one.needed]
        if problems := [answer.text for answer in needed if isinstance(answer, Problem)]:
            raise ConfigError(list(dict.fromkeys(problems)))
        if None not in needed:
            return {one.key: answer for one, answer in zip(asked, found, strict=True) if isinstance(answer, str)}
        go_offline(notice=True)
    commits = {one.key: cached_commit(one.name, one.revision, kind=one.kind) for one in asked}
    # datasets has a cache of its own, and whoever reads from it says what is missing
    missing = [one for one in asked if commits[one.key] is None and one.needed and one.kind != "dataset"]
    if missing:
        raise ConfigError([not_cached(one) for one in missing])
    return {key: commit for key, commit in commits.items() if commit is not None}


def why_offline() -> str:
    """Why the hub cannot be reached, or nothing. Asks it at most once, and not at all after `resolve`."""
    if constants.is_offline_mode():
        return "offline mode"
    if constants.ENDPOINT in _answered or _within(PROBE_SECONDS, [_probe])[0]:
        _answered.add(constants.ENDPOINT)
        return ""
    go_offline(notice=True)
    return "it does not answer"


def is_offline() -> bool:
    """Whether offline mode is on, by the environment or because the hub did not answer."""
    return constants.is_offline_mode()


@contextmanager
def noticing_lost_connections() -> Iterator[None]:
    """Say it when a download broke off: what the libraries make of it is that the name must be wrong."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LOST):
            cause = cause.__cause__ or cause.__context__
        if cause is None or (isinstance(cause, HfHubHTTPError) and not _passes(cause)):
            raise
        raise ConfigError(
            f"the connection to the hub ({masked(constants.ENDPOINT)}) was lost while a model or data were read from "
            f"it ({str(cause).splitlines()[0]}); start the same command again: what is here already stays"
        ) from error


def _passes(error: HfHubHTTPError) -> bool:
    """Whether an answer says: later, perhaps."""
    return error.response.status_code == 429 or error.response.status_code >= 500


def answers() -> None:
    """Another process of this run has heard from the hub."""
    _answered.add(constants.ENDPOINT)


def go_offline(*, notice: bool = False) -> None:
    """Let every Hugging Face library of this process, and those it starts, use local files only."""
    if notice:
        logger.warning("The hub (%s) does not answer; working from the local cache.", masked(constants.ENDPOINT))
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    _answered.discard(constants.ENDPOINT)
    if "datasets" in sys.modules:
        # datasets copies the setting when it is imported.
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


@dataclass(frozen=True)
class Problem:
    """Why a name cannot be used, as a sentence for its user."""

    text: str


def _is_folder(one: Asked) -> bool:
    if one.kind == "dataset":
        check_dataset_name(one.name, what=one.key)
    if one.kind != "model":
        return False
    is_folder = Path(locate(one.name, what=one.key)).is_dir()
    if is_folder and one.revision is not None:
        raise ConfigError(f"{one.revision_key}: {one.name} is a local folder, which has no revisions; leave it out")
    return is_folder


def _ask_all(asked: Sequence[Asked]) -> list[str | Problem | None]:
    """Per name its commit, a problem, or None when no answer came in time."""
    deadline = time.monotonic() + PROBE_SECONDS
    found = _within(PROBE_SECONDS, [lambda one=one: _ask(one, deadline) for one in asked])  # type: ignore[misc]
    if any(answer is not None for answer in found):
        _answered.add(constants.ENDPOINT)
    for one, answer in zip(asked, found, strict=True):
        if isinstance(answer, str):
            remember(one, answer)
    return found


def _ask(one: Asked, deadline: float) -> str | Problem | None:
    """Ask the hub for one name; again while it answers with a passing error, and once after a lost connection."""
    api = huggingface_hub.HfApi()
    found: dict[str, Callable[..., Any]] = {"dataset": api.dataset_info, "space": api.space_info}
    about, expand = found.get(one.kind, api.model_info), ["sha", *(["gated"] if one.kind != "space" else [])]
    lost = False
    while True:
        try:
            info = about(one.name, revision=one.revision, timeout=PROBE_SECONDS, expand=expand)
            if one.kind != "space" and info.gated:  # everyone sees that it is there; its files are another matter
                api.auth_check(one.name, repo_type=one.kind)
            return str(info.sha)
        except HfHubHTTPError as error:
            if not _passes(error):
                return Problem(refusal(one, error, api))
            if time.monotonic() + PAUSE_SECONDS > deadline:
                return None
        except LOST:
            if lost:
                raise
            lost = True
        time.sleep(PAUSE_SECONDS)


def _within(seconds: float, work: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each function returns, all at once; None for one that raised or is not done in time.

    Threads, since looking up a host name has no timeout of its own.
    """
    results: list[Any] = [None] * len(work)

    def run(number: int) -> None:
        try:
            results[number] = work[number]()
        except Exception as error:  # whatever it is, the hub does not answer
            logger.debug("%s: %s", masked(constants.ENDPOINT), masked(str(error)))

    threads = [Thread(target=run, args=(number,), daemon=True) for number in range(len(work))]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(results)


def _probe() -> int:
    return huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS).status_code
