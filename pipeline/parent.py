"""Who started this process, looked at before anything slow is imported: a launcher may die during that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

started_by = os.getppid()
"""Process id of who started this process."""
ONLY_FROM_ACCELERATE = "ACCELERATE_DYNAMO_BACKEND"
"""Environment variable that accelerate's launcher sets for every process it starts, and nobody else has a reason to."""
OF_A_SWEEP = "GRAFT_SWEEP"
"""Environment variable with the process id of the sweep that has started a run."""
_given = os.environ.pop(OF_A_SWEEP, "")  # for this process alone: what it starts has another parent
sweep = int(_given) if _given.isdigit() else None
"""Process id of the sweep that has started this process, also when it is gone by now; None for any other."""
LOOK_SECONDS = 0.5


def _forked() -> None:
    """In a child of `fork` (a notebook's launcher makes them): who has started it is another one now."""
    global started_by, sweep
    started_by, sweep = os.getppid(), None


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


def watched() -> int | None:
    """Process id of the parent whose death must end this process: a launcher, or a sweep; None of any other."""
    return sweep or (started_by if launched() else None)


@contextmanager
def ending_with_sweep() -> Iterator[None]:
    """Send this process SIGTERM when its sweep is gone: for one that only waits for children of its own."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            if os.getppid() != sweep:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if sweep is not None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
