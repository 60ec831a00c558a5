"""metrics.jsonl: one JSON line per event, whole or not there, also through kills and a full disk."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files import write_text

logger = logging.getLogger("graft")


class Journal:
    """Lines on disk. Those that a full disk does not take are kept and written when there is room again."""

    def __init__(self, path: Path):
        self.path = path
        self.waiting: list[str] = []

    def forget_after(self, step: int, *, evaluated: bool) -> None:
        """Leave out what will be done again: later steps, what follows the last one, and a line that was cut off.

        `evaluated`: whether the evaluation of `step` itself is done and saved.
        """
        if not self.path.exists():
            return
        again = {"test"} if evaluated else {"test", "validation", "sample"}
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                found = json.loads(line)
                known = found["step"] < step or (
                    found["step"] == step and found.get("split", found["event"]) not in again
                )
            except (ValueError, KeyError, TypeError):
                continue
            if known:
                kept.append(f"{line}\n")
        try:
            write_text(self.path, "".join(kept))
        except OSError as error:  # a full disk: lines are there twice, which costs no run
            logger.warning("%s could not be cleared of later steps: %s", self.path.name, error)

    def write(self, event: Mapping[str, Any]) -> None:
        """Add one event."""
        self.waiting.append(json.dumps(finite(event)) + "\n")
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self.waiting:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                content = "".join(self.waiting).encode()
                if file.write(content) != len(content):  # the last room on the disk was not enough
                    file.truncate(end)
                    raise OSError("disk full")
        except OSError as error:
            if len(self.waiting) == 1:
                logger.warning("%s cannot be written now (%s); its lines wait in memory", self.path.name, error)
            return
        self.waiting.clear()


def finite(event: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity are no JSON: null in their place and their name under `not_finite`, never a made-up 0."""
    odd = {key: str(value) for key, value in event.items() if isinstance(value, float) and not math.isfinite(value)}
    return {**event, **dict.fromkeys(odd), "not_finite": odd} if odd else dict(event)
