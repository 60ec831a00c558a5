"""One writer per run folder, and requests to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from pipeline.errors import UserError

NAME = ".lock"


@contextmanager
def only_writer(folder: Path, *, enabled: bool = True) -> Iterator[None]:
    """Hold the run folder; a second run is refused with who holds it. The system frees it when the process dies.

    One process of a run holds it for all (`enabled`).
    """
    if not enabled:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = json.loads(file.read() or "{}")
            raise UserError(
                f"{folder}: another run is writing here (process {owner.get('pid')} on {owner.get('host')}, since "
                f"{owner.get('since')}); wait for it, stop it, or choose another output_dir"
            ) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}))
        file.flush()
        yield


def launched() -> bool:
    """Whether the parent is a launcher, whose death must end us; a shell may go away (nohup)."""
    if "LOCAL_RANK" in os.environ:
        return True
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return False
    return any(Path(word).name.startswith("accelerate") for word in words[:4])


class StopRequest:
    """Notices SIGTERM, SIGINT and SIGUSR1, and a launcher that died; the loop asks between steps.

    The first Ctrl-C saves and stops, the second stops at once. `signal_number` says which one came.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.parent = os.getppid() if launched() else None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self.previous = {number: signal.signal(number, self._notice) for number in self.SIGNALS}
        except ValueError:  # not the main thread (a notebook's worker): its owner decides when to stop
            self.previous = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number

    def __call__(self) -> bool:
        if self.signal_number is None and self.parent not in (None, os.getppid()):
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """128 + signal, the shell's convention: 143 asks a scheduler to queue the run again."""
        return 128 + (self.signal_number or signal.SIGTERM)
