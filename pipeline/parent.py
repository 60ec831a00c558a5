"""Who started this process, looked at before anything slow is imported: a launcher may die during that."""

from __future__ import annotations

import os
from pathlib import Path

started_by = os.getppid()
"""Process id of who started this process."""
ONLY_FROM_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"
"""Environment variable that accelerate's launcher sets for every process it starts, and nobody else has a reason to."""


def _forked() -> None:
    """In a child of `fork` (a notebook's launcher makes them): who has started it is another one now."""
    global started_by
    started_by = os.getppid()


os.register_at_fork(after_in_child=_forked)


def launched() -> bool:
    """Whether the parent is a launcher, whose death must end us; a shell may go away (nohup)."""
    import psutil

    if "LOCAL_RANK" in os.environ:
        return True
    if os.getppid() != started_by:
        return ONLY_FROM_ACCELERATE in os.environ
    try:
        words = psutil.Process(started_by).cmdline()
    except psutil.Error:
        return False
    return any(Path(word).name.startswith("accelerate") for word in words[:4])
