"""Where a model name leads: a local folder, the hub when it answers, or the local cache when it does not."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pipeline.errors import ConfigError, nearest
from pipeline.safe_text import masked

logger = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
CACHED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json")


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
        raise ConfigError(f"{what}: there is no folder {name}{_near(path)}")
    return name


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a repository of that name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def prepare_hub(names: Mapping[str, str | None], *, revision: str | None = None) -> None:
    """Find out once, in at most 3 seconds, whether the hub answers; without it, work from the cache.

    `names` holds a model or a tokenizer by the setting that names it.
    Nothing is asked when all names are local folders or offline mode is on. Offline, a name that is not in the cache
    is a ConfigError at once (transformers itself would try for most of a minute).
    """
    asked = {key: name for key, name in names.items() if name is not None}
    remote = {key: name for key, name in asked.items() if locate(name, what=key) == name and not Path(name).is_dir()}
    if not remote:
        return
    if not constants.is_offline_mode() and not _reachable():
        go_offline()
        logger.warning("The hub (%s) does not answer; working from the local cache.", masked(constants.ENDPOINT))
    if constants.is_offline_mode():
        problems = [
            f"{key}: {name} is no local folder{_near(Path(name))} and is not in the local cache "
            f"({constants.HF_HUB_CACHE}), and the hub is not reached; download it once with network access, "
            "or give a local folder"
            for key, name in remote.items()
            # The revision is the model's; a tokenizer from elsewhere has its own.
            if not _cached(name, revision) and not _cached(name, None)
        ]
        if problems:
            raise ConfigError(problems)


def go_offline() -> None:
    """Let every Hugging Face library of this process, and those it starts, use local files only."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        # datasets copies the setting when it is imported.
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def _reachable() -> bool:
    answers: list[int] = []

    def ask() -> None:
        try:
            answers.append(huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS).status_code)
        except Exception as error:  # whatever it is, the hub does not answer
            logger.debug("probe of %s: %s", masked(constants.ENDPOINT), masked(str(error)))

    # A thread, since looking up a host name has no timeout of its own.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


def _cached(name: str, revision: str | None) -> bool:
    found = (huggingface_hub.try_to_load_from_cache(name, file, revision=revision) for file in CACHED_FILES)
    return any(isinstance(path, str) for path in found)


def _near(path: Path) -> str:
    """The end of a message about a missing folder: the nearest folder beside it, when one is near."""
    if not path.parent.is_dir():
        return ""
    hint = nearest(path.name, [folder.name for folder in path.parent.iterdir() if folder.is_dir()])
    if not hint.startswith("did you mean"):
        return ""
    return f" ({hint[:-1]} in {path.parent}?)"
