"""Switching from offline mode to the tests' hub, in this process and in those it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets.config
import evaluate.config
import pytest
from huggingface_hub import constants

from tests.hub_server import OWNER, Hub


def environment(hub: Hub, home: Path, *, token: str | None = OWNER, **more: str) -> dict[str, str]:
    """For a new process: it uses the hub, with nothing in the cache, as the user of a token (None: as nobody)."""
    switches = {name: "0" for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE")}
    found = {**os.environ, **switches, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)}
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_EVALUATE_CACHE"):
        found.pop(name, None)
    return found | ({"HF_TOKEN": token} if token else {}) | more


@contextmanager
def online(hub: Hub, home: Path) -> Iterator[Hub]:
    """This process uses the hub as `owner`, with nothing in the cache (`home`); all is as before afterwards.

    Who it is can be changed by the environment (`HF_TOKEN`), where the cache is by a second `online`.
    """
    hub.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "0")
        patch.setenv("HF_TOKEN", OWNER)
        # Each library keeps its own copy of what the environment said when it was imported.
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        # Otherwise it asks a second server, whose name it makes from the endpoint.
        patch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
        patch.setattr(evaluate.config, "HF_EVALUATE_CACHE", home / "evaluate")
        try:
            yield hub
        finally:
            hub.released.set()
