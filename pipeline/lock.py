"""One writer per run folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import UserError

NAME = ".lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the run folder; a second run is refused with who holds it. The system frees it when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner(file)
            raise UserError(
                f"{folder}: another run is writing here (process {owner.get('pid')} on {owner.get('host')}, since "
                f"{owner.get('since')}); wait for it, stop it, or choose another output_dir"
            ) from error
        with suppress(OSError):  # a full disk: the lock is held all the same
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}))
            file.flush()
        yield


def _owner(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except ValueError:  # it is being written at this moment
        return {}
