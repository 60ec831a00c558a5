"""The file of a prediction: begun beside its place, gone on with after a stop, and there when it is whole."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ConfigError, UserError
from pipeline.failure import written
from pipeline.files import check_place

logger = logging.getLogger("graft")
PROGRESS_SECONDS = 10.0
Chunks = Callable[[int], Iterator[list[dict[str, Any]]]]
"""The lines of each chunk of rows, from a chunk's number on."""


def new_file(out: str | Path) -> Path:
    """Where to write. Raises ConfigError when something is there, or nothing can be."""
    path = Path(out).expanduser()
    if os.path.exists(path):
        raise ConfigError(f"out: {out} is there already and nothing is written over; name another file or delete it")
    check_place(path, "out")
    return path


def begun_file(out: Path, identity: str) -> Path:
    """Where the lines stand until they are all there."""
    return out.with_name(f"{out.name}.{identity}.part")


def write_lines(out: Path, identity: str, rows: int, chunk: int, chunks: Chunks) -> Path:
    """All lines in `out`, which appears when they are there; what is begun stands beside it, named after the job.

    There are as many lines as `rows`, made `chunk` at a time. Raises RunFailed when the disk does not take them.
    """
    part = begun_file(out, identity)
    for other in sorted(out.parent.glob(f"{out.name}.*.part")):
        if other != part:
            logger.warning("%s: begun by another model, or over other rows or settings; it is left as it is", other)
    with written(out, "what was written is kept"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            _hold(file, out)
            first = _whole_chunks(file, rows, chunk)
            if first:
                logger.info("going on at row %d of %d", min(first * chunk, rows) + 1, rows)
            said = time.monotonic()
            for number, lines in enumerate(chunks(first), start=first + 1):
                file.write("".join(f"{_line(line)}\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
                if time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    logger.info("%d of %d rows", min(number * chunk, rows), rows)
            part.rename(out)
    return out


def _line(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def _hold(file: BinaryIO, out: Path) -> None:
    """One writer at a time; the system frees the file when the process dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"out: another process is writing {out} at this moment; wait for it, or stop it") from error


def _whole_chunks(file: BinaryIO, rows: int, chunk: int) -> int:
    """How many chunks of a file that was begun are whole; what is behind them is cut off."""
    file.seek(0)
    kept = size = place = 0
    for count, line in enumerate(file, start=1):
        if not _is_whole(line):
            break
        place += len(line)
        if count % chunk == 0 or count == rows:
            kept, size = kept + 1, place
    file.truncate(size)
    file.seek(size)
    return kept


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
