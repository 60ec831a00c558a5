"""Requests to stop: signals, and a launcher that died. Noticed at once, acted on where nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Any

from pipeline import parent
from pipeline.errors import SaysAll

ECHO_SECONDS = 1.0
"""A terminal's Ctrl-C reaches a launched process twice, from the terminal and from the launcher."""


class Stopped(SaysAll, Exception):
    """The run was asked to stop; what it had reached is saved."""

    exit_code = 143
    saved_step: int | None = None
    """The step that was saved; None when there was none to save, as before training."""

    def __str__(self) -> str:
        if self.saved_step is None:
            return "stopped; there was nothing to save yet"
        return f"stopped; saved at step {self.saved_step}; the same call goes on from there"


class StopRequest:
    """Notices SIGTERM, SIGINT and SIGUSR1, and a launcher that died; whoever works asks between two pieces of work.

    The first Ctrl-C saves and stops, the second stops at once. `signal_number` says which one came.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.noticed = 0.0
        self.parent = parent.watched()
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self.previous = {number: signal.signal(number, self._notice) for number in self.SIGNALS}
        except ValueError:  # not the main thread (a notebook's worker): its owner decides when to stop
            self.previous = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            if handler is not None:  # one that was not installed from Python cannot be put back
                signal.signal(number, handler)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self.noticed = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.noticed > ECHO_SECONDS:
            raise KeyboardInterrupt

    def __call__(self) -> bool:
        if self.signal_number is None and self.parent not in (None, os.getppid()):
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None

    def poll(self) -> None:
        """Raise Stopped when there is a request: for work that saves nothing of its own."""
        if self():
            raise self.stopped()

    def stopped(self, saved_step: int | None = None) -> Stopped:
        """The end of a run that was asked to stop."""
        found = Stopped()
        found.exit_code, found.saved_step = self.exit_code, saved_step
        return found

    @property
    def exit_code(self) -> int:
        """128 + signal, the shell's convention: 143 asks a scheduler to queue the run again."""
        return 128 + (self.signal_number or signal.SIGTERM)
