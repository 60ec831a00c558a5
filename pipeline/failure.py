"""What is said when a run on several processes ends badly: one block, from the process that knows the reason."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline import checkpoint
from pipeline.heartbeat import Heartbeat
from pipeline.processes import OtherProcessFailed

GRACE_SECONDS = 3.0
"""How long a survivor waits for the one that failed to say so, or to be gone."""
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out", "timeout")
"""What gloo and NCCL say when another process is gone or does not come."""


class RunFailed(RuntimeError):
    """The run ended by an error that is not the user's; the text says which process, where, why and what is saved."""

    exit_code = 1

    def __init__(self, text: str, *, cause: BaseException | None = None):
        """`cause`: the error, when it was raised in this process and not in one that this one waited for."""
        self.cause = cause
        super().__init__(text)


@contextmanager
def written(path: Path, then: str) -> Iterator[None]:
    """Raise RunFailed where the disk does not take what is written within; `then` is what that means."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise RunFailed(f"{path}: cannot be written ({why}); {then}") from error


def explain(error: BaseException, heartbeat: Heartbeat, folder: Path) -> BaseException:
    """What to raise in place of an error in one of several processes: a block, or silence where another has spoken."""
    if isinstance(error, RuntimeError) and any(word in str(error) for word in LOST):
        return _about_others(error, heartbeat, folder)
    heartbeat.fail(error)
    head = f"process {heartbeat.rank} of {heartbeat.count} failed {_place(heartbeat.line)}: {type(error).__name__}: "
    return RunFailed(f"{head}{error}\n{saved(folder)}", cause=error)


def _about_others(error: BaseException, heartbeat: Heartbeat, folder: Path) -> BaseException:
    """This process only waited. Look for the one it waited for."""
    heartbeat.wait()
    until = time.monotonic() + GRACE_SECONDS
    while True:
        others = heartbeat.others()
        for line in others:
            if line["failure"]:
                return OtherProcessFailed(line["rank"], line["failure"], RunFailed.exit_code)
        gone = [line for line in others if heartbeat.is_gone(line)]
        if gone or time.monotonic() > until:
            break
        time.sleep(0.1)
    lost = gone or [line for line in others if not line["waiting"]]
    waiting = {heartbeat.rank, *(line["rank"] for line in others if line["waiting"])}
    if heartbeat.rank != min(waiting - {line["rank"] for line in gone}):
        return OtherProcessFailed(min(waiting), str(error), RunFailed.exit_code)
    if gone:
        who = [f"process {line['rank']} of {heartbeat.count} is gone ({_who(line)})" for line in gone]
        why = "killed from outside, perhaps by the system for want of memory (`dmesg | tail` says so)"
    else:
        for line in lost:
            heartbeat.ask_for_stack(line)
        who = [f"process {line['rank']} of {heartbeat.count} does not answer ({_who(line)})" for line in lost]
        who = who or ["another process does not answer, and nothing is known of it here"]
        why = "it hangs, or is slower than train.ddp_timeout allows; where each one stands is printed below"
    return RunFailed("\n".join([*who, f"  why: {why} ({_first_line(error)})", saved(folder)]))


def _who(line: dict[str, Any]) -> str:
    seconds = max(0.0, time.time() - line["time"])
    return f"pid {line['pid']} on {line['host']}, last seen {_place(line)} {seconds:.0f} s ago"


def _place(line: dict[str, Any]) -> str:
    return f"in step {line['step']}, {line['phase']}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def saved(folder: Path) -> str:
    """What is left of the run: its newest good checkpoint."""
    good, _ = checkpoint.newest_good(folder / "checkpoints")
    if good is None:
        return "  saved: no checkpoint yet; the same command starts again"
    return f"  saved: {good}; checkpoint.resume auto goes on from there"
