"""What a run says while it runs: metrics.jsonl, the terminal, and trackers that may fail without harm."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from rich.console import Console
from rich.text import Text

from pipeline.config import Section
from pipeline.journal import Journal
from pipeline.manifest import peak_memory_bytes
from pipeline.progress import Progress, clock, kind_of, short
from pipeline.safe_text import clean

logger = logging.getLogger("graft")
NOT_SHOWN = ("event", "step", "seconds", "tokens", "split")
SHORTER = {"learning_rate": "lr"}


class TrackingConfig(Section):
    """Where numbers go besides the run folder."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Trackers, through accelerate. metrics.jsonl is written in any case."""
    run_name: str | None = None
    """Name of the run for the trackers; unset: the name of output_dir."""
    disable_tqdm: bool = False
    """One plain line per logged step instead of two that stay in place (so it is too when stderr is no terminal)."""


class RunLog:
    """Writes events on the main process: one JSON line each, lines on the terminal, and the trackers."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, plain: bool, total_steps: int):
        self.accelerator = accelerator
        self.journal = Journal(folder / "metrics.jsonl")
        self.console = Console(file=sys.stderr, quiet=not accelerator.is_main_process)
        self.total_steps = total_steps
        self.trackers: list[Any] = []
        memory = partial(peak_memory_bytes, accelerator.device)
        self.progress = Progress(self.console, kind_of(self.console, plain=plain), total_steps, memory)
        self.begun = False

    def begin(self, step: int, *, evaluated: bool, done: Callable[[], tuple[int, str]], metric: str) -> None:
        """Start the clock at `step`, and forget the lines of later steps: they will be done again.

        `done`: how much was trained on, and the name of what is counted; `metric`: the evaluation's number to show.
        """
        self.trackers = list(self.accelerator.trackers)
        if not self.accelerator.is_main_process:
            return
        self.journal.forget_after(step, evaluated=evaluated)
        self.progress.start(step, done, metric)
        self.begun = True

    def event(self, event: Mapping[str, Any]) -> None:
        """Record one event with its `event` name, `step` and numbers; NaN and inf are written as null with a note."""
        if not self.accelerator.is_main_process:
            return
        self.journal.write(event)
        self.progress.event(event)
        if event["event"] != "train" or self.progress.kind == "plain":
            self._show(event)
        numbers = {key: value for key, value in event.items() if isinstance(value, (int, float)) and key != "step"}
        self._track({f"{event['event']}/{key}": value for key, value in numbers.items()}, event["step"])

    def advance(self, step: int) -> None:
        """A step is done."""
        if self.begun:
            self.progress.advance(step)

    def doing(self, phase: str) -> None:
        """What the run is at, when that is not training."""
        self.progress.doing = "" if phase == "training" else phase

    def say(self, text: str) -> None:
        """One line for people; only a terminal wraps it, between words."""
        self.console.print(Text(clean(text)), soft_wrap=self.progress.kind == "plain")

    def _show(self, event: Mapping[str, Any]) -> None:
        parts = [f"{SHORTER.get(key, key)} {short(value)}" for key, value in event.items() if key not in NOT_SHOWN]
        head = "" if event["event"] == "train" else f"{event.get('split', event['event'])}: "
        if event["event"] == "train" and self.begun:
            left = self.progress.seconds_left()
            parts += [self.progress.throughput(), "" if left is None else f"left {clock(left)}"]
        self.say(f"step {event['step']}/{self.total_steps}  {head}{'  '.join(filter(None, parts))}")

    def _track(self, values: Mapping[str, float], step: int) -> None:
        for tracker in list(self.trackers):
            try:
                tracker.log(values, step=step)
            except Exception as error:  # a tracker is somebody else's service: it may fail in any way
                self.trackers.remove(tracker)
                logger.warning("tracker %s failed and is left out from here on: %s", tracker.name, error)

    def close(self) -> None:
        """Take the progress away, end the trackers, and write what waited for room on the disk."""
        self.journal.flush()
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
