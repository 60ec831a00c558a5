"""Where each process of a run is, written down as it goes, so that the others can say who is gone or stuck."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

FOLDER = ".processes"
BYTES = 1000
"""Room for one line; a write of so few bytes replaces the one before as a whole."""
SHOW_STACK = signal.SIGUSR2


class Heartbeat:
    """One process's line in the run folder: rank, process id, host, what it does and in which step.

    A single process has nobody who would read it and writes nothing.
    """

    def __init__(self, folder: Path, rank: int, count: int):
        self.folder, self.rank, self.count = folder / FOLDER, rank, count
        self.line: dict[str, Any] = {"rank": rank, "pid": os.getpid(), "host": socket.gethostname()}
        self.descriptor: int | None = None
        self.tell: Callable[[str], None] = lambda phase: None
        """Who else wants to know what is done."""
        if count > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.folder / f"{rank:05d}.json", os.O_RDWR | os.O_CREAT, 0o644)
            faulthandler.register(SHOW_STACK, all_threads=True)  # a peer may ask where we are stuck
        self.at("start", 0)

    def at(self, phase: str, step: int, failure: str = "") -> None:
        """Write down what is done from now on."""
        self.line |= {"phase": phase, "step": step, "time": time.time(), "failure": _short(failure), "waiting": False}
        self._write()
        self.tell(phase)

    def _write(self) -> None:
        if self.descriptor is not None:
            with suppress(OSError):  # a full disk must not end a run
                os.pwrite(self.descriptor, json.dumps(self.line).encode().ljust(BYTES), 0)

    def fail(self, error: BaseException) -> None:
        """Leave word for the others."""
        self.at(self.line["phase"], self.line["step"], f"{type(error).__name__}: {error}")

    def wait(self) -> None:
        """Tell the others that this process is not the one that they wait for."""
        self.line["waiting"] = True
        self._write()

    def others(self) -> list[dict[str, Any]]:
        """The last lines of the other processes that can be read here, by rank."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return [line for line in found if line["rank"] != self.rank]

    def is_gone(self, line: dict[str, Any]) -> bool:
        """Whether the process of a line has ended; of other machines nobody here knows."""
        if line["host"] != self.line["host"]:
            return False
        try:
            return psutil.Process(line["pid"]).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def ask_for_stack(self, line: dict[str, Any]) -> None:
        """Have a process of this machine print where it is stuck."""
        if line["host"] == self.line["host"]:
            with suppress(OSError):
                os.kill(line["pid"], SHOW_STACK)

    def close(self) -> None:
        """Write no more. The line stays: after a failure the others read it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def forget(folder: Path) -> None:
    """Take away the lines of an earlier start, before anybody writes new ones."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _short(text: str) -> str:
    """As much of a text as has room in a line, where a character outside ASCII takes up to twelve bytes."""
    while len(json.dumps(text)) > BYTES // 2:
        text = text[: len(text) * 3 // 4]
    return text
