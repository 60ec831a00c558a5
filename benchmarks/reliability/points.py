"""A death after every single call that a save makes to the disk, and in the middle of every file it writes."""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import Tell, finish, start
from benchmarks.reliability.saves import KEEP, is_that_of
from benchmarks.reliability.saves import content as content_of
from pipeline import checkpoint, shards
from pipeline.accelerator import make_accelerator
from pipeline.processes import Processes

CALLS = ("mkdir", "open", "fsync", "close", "chmod", "rename", "unlink", "rmdir")
"""Functions of `os` that pathlib, shutil and checkpoint.py call."""
DIED = 9


class Death:
    """Ends the process after the call of a number; a file being written is cut in half when `half`."""

    def __init__(self, last: int, half: bool):
        self.last, self.half, self.count = last, half, 0

    def after(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, then perhaps the end. `half` deaths count the calls that write files and no others."""

        def counted(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            written = next(
                (found for found in arguments if name in ("save_file", "write_text") and is_path(found)), None
            )
            if written is None and self.half:
                return result
            self.count += 1
            if self.count == self.last:
                if self.half and written is not None:
                    os.truncate(written, os.stat(written).st_size // 2)
                os.write(2, f"died after {name}\n".encode())
                os._exit(DIED)
            return result

        return counted


def is_path(value: Any) -> bool:
    return isinstance(value, Path)


def install(death: Death) -> None:
    """In this process for good: it is a child."""
    for name in CALLS:
        setattr(os, name, death.after(name, getattr(os, name)))
    io.open = death.after("open a file", io.open)
    Path.write_text = death.after("write_text", Path.write_text)  # type: ignore[method-assign]
    shards.save_file = death.after("save_file", shards.save_file)


def save(folder: Path, step: int, death: Death | None = None) -> None:
    """One save and the rotation after it."""
    processes, tensors = Processes(make_accelerator()), content_of(step, 1)
    if death:
        install(death)
    checkpoint.save(folder, step, tensors, {"step": step}, processes)
    checkpoint.rotate(folder, keep=KEEP, pinned=[])
    os._exit(0)


def first_saves(folder: Path, tell: Tell) -> None:
    processes = Processes(make_accelerator())
    for step in (1, 2):
        checkpoint.save(folder, step, content_of(step, 1), {"step": step}, processes)


def die_everywhere(work: Path) -> dict[str, Any]:
    """Every death once, and the next save after each. Returns how many there were and what went wrong."""
    before, folder, log = work / "before", work / "points", work / "points.log"
    finish(lambda tell: first_saves(before, tell), log)
    counts, after = Counter[str](), Counter[str]()
    for half in (False, True):
        last, ended = 0, False
        while not ended:
            last += 1
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(before, folder)
            child = start(lambda tell, last=last, half=half: save(folder, 3, Death(last, half)), log)
            child.wait_until(lambda: False, 60)
            child.status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
            os.close(child.pipe)
            if child.status not in (0, DIED):
                raise RuntimeError(f"a save ended with {child.status}:\n{log.read_text()[-3000:]}")
            ended = child.status == 0
            if not ended:
                after[log.read_text().splitlines()[-1].removeprefix("died after ") + (", half" if half else "")] += 1
                look(folder, counts)
                finish(lambda tell: save(folder, 4), log)
                left = {path.name for path in folder.iterdir()}
                counts["left after the next save"] += bool(
                    {name for name in left if not checkpoint.NAME.fullmatch(name)}
                )
                counts["unusable"] += checkpoint.newest_good(folder)[0] != checkpoint.path_of(folder, 4)
    return {
        "deaths": sum(after.values()),
        "unusable": counts["unusable"],
        "left after the next save": counts["left after the next save"],
        "the old step was the newest": counts["old"],
        "the new step was the newest": counts["new"],
        "died after": dict(after.most_common()),
    }


def look(folder: Path, counts: Counter[str]) -> None:
    """The newest published checkpoint must be whole, and that of the old step or of the new one."""
    good, refused = checkpoint.newest_good(folder)
    step = checkpoint.step_of(good) if good is not None else None
    if good is None or refused or step not in (2, 3) or not is_that_of(good, step, 1):
        counts["unusable"] += 1
    else:
        counts["old" if step == 2 else "new"] += 1
