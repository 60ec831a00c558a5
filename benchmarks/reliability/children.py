"""Forked children that are killed: start one, hear what it says, end it with SIGKILL at a chosen moment."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Tell = Callable[[str], None]
READY = "ready"
PATIENCE = 120.0
"""Seconds after which a child that should have ended counts as hung."""


@dataclass
class Child:
    """A forked process and the lines it has said so far."""

    pid: int
    pipe: int
    said: bytes = b""
    status: int | None = None
    """None while it runs; the exit status, or minus the signal that ended it."""
    lines: list[str] = field(default_factory=list)

    def hear(self, seconds: float) -> bool:
        """Wait so long for something to be said; False when the child has ended."""
        if not select.select([self.pipe], [], [], max(0.0, seconds))[0]:
            return True
        content = os.read(self.pipe, 65536)
        self.said += content
        self.lines = self.said.decode().split("\n")[:-1]  # a line that a kill has cut off was not said
        return bool(content)

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Listen until `done`, the child's end or the time; False when the child has ended."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            if not self.hear(end - time.monotonic()):
                return False
        return True

    def end(self) -> None:
        """SIGKILL, unless it has ended by itself, and the last things it said."""
        os.kill(self.pid, signal.SIGKILL)
        while self.hear(PATIENCE):
            pass
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)


def start(work: Callable[[Tell], None], log: Path) -> Child:
    """Fork; the child works, with what it prints in `log`, and never comes back here."""
    mine, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Child(pid, mine)
    code = 1
    try:
        os.close(mine)
        printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        work(lambda text: _say(theirs, text))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _say(pipe: int, text: str) -> None:
    os.write(pipe, f"{text}\n".encode())


def finish(work: Callable[[Tell], None], log: Path) -> Child:
    """A child that is left in peace. Raises RuntimeError with what it printed when it does not end well."""
    child = start(work, log)
    alive = child.wait_until(lambda: False, PATIENCE)
    if not alive:
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pipe)
        child.status = os.waitstatus_to_exitcode(status)
        if child.status == 0:
            return child
    else:
        child.end()
    raise RuntimeError(f"a child {'hung' if alive else f'ended with {child.status}'}:\n{log.read_text()[-3000:]}")


def kill_after(child: Child, seconds: float, lines: int = 1) -> bool:
    """Kill a child so long after it has said so many lines; False when it had ended by itself before."""
    alive = child.wait_until(lambda: len(child.lines) >= lines, PATIENCE)
    alive = alive and child.wait_until(lambda: False, seconds)
    if alive:
        child.end()
        return child.status == -signal.SIGKILL
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    child.status = os.waitstatus_to_exitcode(status)
    return False
