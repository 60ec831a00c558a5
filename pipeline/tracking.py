"""What a run says while it runs: metrics.jsonl, the terminal, and trackers that may fail without harm."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.config import Section
from pipeline.journal import Journal
from pipeline.safe_text import clean

logger = logging.getLogger("graft")
SPARKS = "▁▂▃▄▅▆▇█"


class TrackingConfig(Section):
    """Where numbers go besides the run folder."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Trackers, through accelerate. metrics.jsonl is written in any case."""
    run_name: str | None = None
    """Name of the run for the trackers; unset: the name of output_dir."""
    disable_tqdm: bool = False
    """One plain line per logged step instead of a progress bar (also chosen when the output is not a terminal)."""


class RunLog:
    """Writes events on the main process: one JSON line each, one line or a bar on the terminal, and the trackers."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, plain: bool, total_steps: int):
        self.accelerator = accelerator
        self.journal = Journal(folder / "metrics.jsonl")
        self.console = Console(file=sys.stderr, quiet=not accelerator.is_main_process)
        self.plain = plain or not self.console.is_terminal
        self.total_steps = total_steps
        self.losses: list[float] = []
        self.trackers: list[Any] = []
        self.progress: Progress | None = None

    def begin(self, step: int, *, evaluated: bool) -> None:
        """Start the clock and the bar at `step`, and forget the lines of later steps: they will be done again."""
        self.trackers = list(self.accelerator.trackers)
        self.begun, self.first_step = time.monotonic(), step
        if not self.accelerator.is_main_process:
            return
        self.journal.forget_after(step, evaluated=evaluated)
        if not self.plain:
            self.progress = _bar(self.console)
            self.bar = self.progress.add_task("train", total=self.total_steps, completed=step, note="")
            self.progress.start()

    def event(self, event: Mapping[str, Any]) -> None:
        """Record one event with its `event` name, `step` and numbers; NaN and inf are written as null with a note."""
        if not self.accelerator.is_main_process:
            return
        self.journal.write(event)
        self._show(event)
        numbers = {key: value for key, value in event.items() if isinstance(value, (int, float)) and key != "step"}
        self._track({f"{event['event']}/{key}": value for key, value in numbers.items()}, event["step"])

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self.progress:
            self.progress.update(self.bar, completed=step)

    def say(self, text: str) -> None:
        """One line for people."""
        self.console.print(Text(clean(text)), soft_wrap=True)

    def _show(self, event: Mapping[str, Any]) -> None:
        names = {"learning_rate": "lr", "event": None, "step": None, "seconds": None, "tokens": None, "split": None}
        parts = [f"{names.get(key, key)} {_short(value)}" for key, value in event.items() if names.get(key, key)]
        if event["event"] == "train" and self.progress:
            self.losses.append(event["loss"])
            self.progress.update(self.bar, note=f"loss {_short(event['loss'])} {sparkline(self.losses[-24:])}")
            return
        head = "" if event["event"] == "train" else f"{event.get('split', event['event'])}: "
        left = "" if event["event"] != "train" else self._time_left(event["step"])
        self.say(f"step {event['step']}/{self.total_steps}  {head}{'  '.join(parts)}{left}")

    def _time_left(self, step: int) -> str:
        seconds = (time.monotonic() - self.begun) / max(1, step - self.first_step) * (self.total_steps - step)
        return f"  left {int(seconds // 60)}:{int(seconds % 60):02d}"

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in list(self.trackers):
            try:
                tracker.log(values, step=step)
            except Exception as error:  # a tracker is somebody else's service: it may fail in any way
                self.trackers.remove(tracker)
                logger.warning("tracker %s failed and is left out from here on: %s", tracker.name, error)

    def close(self) -> None:
        """Stop the bar, end the trackers, and write what waited for room on the disk."""
        self.journal.flush()
        if self.progress:
            self.progress.stop()
        for tracker in self.trackers:
            try:
                tracker.finish()
            except Exception as error:  # as above
                logger.warning("tracker %s failed while closing: %s", tracker.name, error)


def start_trackers(accelerator: Accelerator, config: TrackingConfig, settings: Mapping[str, Any], name: str) -> None:
    """Start the trackers asked for; one that cannot start is left out with a warning."""
    if not config.report_to or not accelerator.is_main_process:
        return
    ready = {tracker.value for tracker in accelerator.log_with}
    for name_missing in [name for name in config.report_to if name not in ready]:
        logger.warning(
            "tracker %s is not installed and is left out: pip install 'graft-pipeline[%s]'", name_missing, name_missing
        )
    try:
        accelerator.init_trackers(config.run_name or name, config=flatten(settings))
    except Exception as error:  # as in RunLog._track
        logger.warning("trackers %s could not start and are left out: %s", config.report_to, error)
        accelerator.trackers = []


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings to `section.key` scalars: TensorBoard's tracker refuses anything else."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat


def sparkline(values: list[float]) -> str:
    """The last values as a row of bars."""
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    scale = (len(SPARKS) - 1) / ((high - low) or 1.0)
    return "".join(SPARKS[int((value - low) * scale)] for value in known)


def _bar(console: Console) -> Progress:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
