"""Before training: whether a push will be possible, found out in three seconds, while it costs nothing to fix."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Thread
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from pipeline.errors import ConfigError
from pipeline.hub.patience import passes, quietly, short_reason, status_of
from pipeline.hub.settings import HubConfig
from pipeline.safe_text import masked

logger = logging.getLogger("graft")
SECONDS = 3.0
PAUSE = 0.3
NO_TOKEN = "there is no access token for the hub; log in with `hf auth login`, or set HF_TOKEN"
LATER = "will train, cannot push now; the push is tried once more at the end"


@dataclass
class Facts:
    """What the hub says of the token and of the repository."""

    user: Mapping[str, Any]
    name: str
    """The repository's name with its namespace."""
    private: bool | None
    """None: it is not there yet."""


def check_push(config: HubConfig) -> bool:
    """Whether the hub answers. Raises ConfigError when it does and the push could not work.

    A hub that does not answer within three seconds, or is out of order, is a notice: the run is not the worse for it.
    """
    if constants.is_offline_mode():
        logger.warning("Offline mode is on (HF_HUB_OFFLINE): will train, cannot push; the last line says how to later.")
        return False
    found: list[Facts | Exception] = []
    # A thread, since looking up a host name has no timeout of its own.
    thread = Thread(target=lambda: found.append(_asked(config, time.monotonic() + SECONDS - PAUSE)), daemon=True)
    with quietly():
        thread.start()
        thread.join(SECONDS)
    answer = found[0] if found else TimeoutError("no answer")
    if isinstance(answer, ConfigError):
        raise answer
    if isinstance(answer, Exception):
        if status_of(answer) == 401:
            raise ConfigError(f"hub.push_to_hub: {short_reason(answer)}") from answer
        silent = not found or status_of(answer) is None
        reason = f"the hub ({masked(constants.ENDPOINT)}) does not answer" if silent else short_reason(answer)
        logger.warning("%s: %s.", reason[0].upper() + reason[1:], LATER)
        return not silent
    check_facts(answer, config)
    return True


def _asked(config: HubConfig, until: float) -> Facts | Exception:
    try:
        if get_token() is None:
            return ConfigError(f"hub.push_to_hub: {NO_TOKEN}")
    except Exception as error:  # a token that is exchanged for another one, over the network
        return error
    while True:
        try:
            return ask(config)
        except Exception as error:
            if not passes(error) or time.monotonic() > until:
                return error
        time.sleep(PAUSE)


def ask(config: HubConfig) -> Facts:
    """Who the token belongs to, and whether the repository is there."""
    api = HfApi()
    user = api.whoami()
    assert config.hub_model_id is not None, "the settings ask for it"
    name = full_name(config.hub_model_id, user)
    try:
        private = bool(api.model_info(name).private)
    except RepositoryNotFoundError:
        private = None
    return Facts(user, name, private)


def full_name(name: str, user: Mapping[str, Any]) -> str:
    return name if "/" in name else f"{user['name']}/{name}"


def check_facts(facts: Facts, config: HubConfig) -> None:
    """Raise ConfigError when the token may not do what is asked for; log what may be a surprise."""
    if config.hub_create_pr:
        if facts.private is None:
            raise ConfigError(
                f"hub.hub_create_pr: there is no repository {facts.name} that this token sees, to open a pull request "
                "on; correct hub_model_id, or leave hub_create_pr out to make the repository"
            )
    elif problem := forbidden(facts.name, facts.user):
        raise ConfigError(f"hub.hub_model_id: {problem}")
    if facts.private is not None and facts.private != config.hub_private_repo:
        logger.warning("%s", kept_visibility(facts.name, facts.private))


def kept_visibility(name: str, private: bool) -> str:
    is_, other = ("private", "public") if private else ("public", "private")
    return f"{name} is there already and is {is_}; it stays so (hub_private_repo makes new repositories {other})"


def forbidden(name: str, user: Mapping[str, Any]) -> str | None:
    """Why the token may not write to a repository's namespace; None when nothing speaks against it."""
    namespace, me = name.split("/")[0], user["name"]
    organisations = {one.get("name"): one.get("roleInOrg") for one in user.get("orgs") or []}
    if namespace != me and namespace not in organisations:
        known = ", ".join([me, *filter(None, organisations)])
        return f"the token belongs to {me}, who may not write to {namespace}; expected one of {known} before the slash"
    token = (user.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return "the token may only read; make one that may write, and log in again with `hf auth login`"
    if organisations.get(namespace) == "read":
        return f"{me} may only read in {namespace}; ask its owners for the right to write, or push to {me}/..."
    scopes = (token.get("fineGrained") or {}).get("scoped")
    if token.get("role") == "fineGrained" and isinstance(scopes, list):
        writes = {scope["entity"].get("name") for scope in scopes if "repo.write" in scope.get("permissions", [])}
        if not writes & {namespace, name}:
            return f"the token has no right to write to {namespace} (repo.write); add it in the token's settings"
    return None
