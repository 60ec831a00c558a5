"""`graft sweep`: a grid of runs, each in a process and a folder of its own, then a table."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.accelerator import available_device
from pipeline.api import say
from pipeline.errors import ConfigError
from pipeline.grid import Point, checked, plan
from pipeline.launch import own_code
from pipeline.lock import only_writer
from pipeline.parent import OF_A_SWEEP
from pipeline.reports.sweep_table import SweepTable, tabulate
from pipeline.reports.terminal import as_page
from pipeline.stopping import StopRequest
from pipeline.untouched import untouched
from pipeline.yaml_file import read_value, write_yaml

START = (sys.executable, "-m", "pipeline")
POLL_SECONDS = 0.05
LAST_LINES = 3
STOPPED = (130, 138, 143)


@dataclass
class Sweep:
    """A sweep that has come to its end. `exit_code`: 0, 1 when a run failed, 128 + signal when it was stopped."""

    output_dir: Path
    points: list[Point]
    status: dict[str, str]
    """Run -> `finished`, `failed, exit code N`, `stopped` or `not started`."""
    table: SweepTable | None
    """None when no run finished."""
    exit_code: int

    @property
    def best(self) -> dict[str, str]:
        """The best setting on validation, as it was written (the first of several)."""
        if self.table is None or not self.table.best():
            return {}
        row = next(row for row in self.table.rows if row["name"] == self.table.best()[0])
        return dict(row["settings"])

    def _repr_html_(self) -> str:
        ended = "<br>".join(escape(f"{name}: {status}") for name, status in self.status.items())
        return ended if self.table is None else as_page(self.table)

    def print(self) -> None:
        """The table, where the best model is, and how to go on with what is left."""
        if self.table is not None:
            self.table.print()
            say(f"  table    {self.output_dir / 'sweep.md'}, {self.output_dir / 'sweep.json'}")
            if run := self.table.best_run():
                say(f"  model    {Path(run['folder']) / 'model'}  (the best run of the best setting)")
        if self.exit_code > 1:
            say("stopped; the same command goes on: what is finished is skipped, the rest is continued")
        elif self.exit_code:
            names = [name for name, status in self.status.items() if status != "finished"]
            say(
                f"{len(names)} of {len(self.points)} runs failed: {', '.join(names)}; the same command tries them again"
            )


@dataclass
class Jobs:
    """Runs at work, at most `most` at a time, each in a slot that has its share of the machine."""

    source: Path
    folder: Path
    most: int
    launcher: Sequence[str]
    running: dict[int, tuple[Point, subprocess.Popen[bytes]]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    told: bool = False

    def run(self, points: Sequence[Point], stop: StopRequest) -> dict[str, str]:
        """Run all points that are not finished; returns what became of each."""
        self.status = {point.name: "finished" if point.state == "finished" else "not started" for point in points}
        waiting = [point for point in points if point.state != "finished"]
        try:
            while waiting and not stop() or self.running:
                while waiting and not stop() and len(self.running) < self.most:
                    self._start(waiting.pop(0), len(points) - len(waiting), len(points))
                self._look(stop)
                time.sleep(POLL_SECONDS)
        finally:  # the second Ctrl-C
            for _, process in self.running.values():
                process.terminate()
                process.wait()
        return self.status

    def _start(self, point: Point, number: int, count: int) -> None:
        slot = next(slot for slot in range(self.most) if slot not in self.running)
        goes_on = " (goes on)" if point.state == "half-finished" else ""
        say(f"[{number}/{count}] {point.name}{goes_on}")
        words = [*START, *words_of(point, self.source, self.launcher)]
        environment = {**os.environ, **own_code(), **share_of(slot, self.most), OF_A_SWEEP: str(os.getpid())}
        if self.most == 1:
            process = subprocess.Popen(words, env=environment)
        else:
            log = self._log(point)
            log.parent.mkdir(exist_ok=True)
            with log.open("wb") as file:
                process = subprocess.Popen(words, env=environment, stdout=file, stderr=file)
        self.running[slot] = (point, process)

    def _look(self, stop: StopRequest) -> None:
        """Pass a request to stop on, once, and take note of what has ended."""
        if stop() and not self.told:
            self.told = True
            for _, process in self.running.values():
                with suppress(ProcessLookupError):
                    process.send_signal(stop.signal_number or 15)
        for slot, (point, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[slot]
            stopped = code in STOPPED or (self.told and code == -(stop.signal_number or 15))
            ended = "stopped" if stopped else f"failed, exit code {code}" if code else "finished"
            self.status[point.name] = ended
            if self.most > 1 or ended.startswith("failed"):
                say(f"{point.name}: {ended}")
            if ended.startswith("failed"):
                self._say_why(point)

    def _log(self, point: Point) -> Path:
        return self.folder / "logs" / f"{point.name}.log"

    def _say_why(self, point: Point) -> None:
        if self.most > 1:
            lines = self._log(point).read_text(encoding="utf-8", errors="replace").splitlines()
            for line in [line for line in lines if line.strip()][-LAST_LINES:]:
                say(f"  {line}")
            say(f"  all of it: {self._log(point)}")
        say(f"  alone: {shlex.join(['graft', *words_of(point, self.source, self.launcher)])}")


def words_of(point: Point, source: Path, launcher: Sequence[str] = ()) -> list[str]:
    """What stands after `graft` to run this point alone."""
    return [point.recipe, str(source), *point.arguments, *launcher]


def share_of(slot: int, most: int) -> dict[str, str]:
    """Environment of a run that has one of `most` shares of the machine: its GPUs, or its part of the cores."""
    if most == 1:
        return {}
    found = {}
    if "OMP_NUM_THREADS" not in os.environ:
        found["OMP_NUM_THREADS"] = str(max(1, (psutil.cpu_count(logical=False) or 1) // most))
    if available_device().type == "cuda":
        known = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = known.split(",") if known else [str(index) for index in range(torch.cuda.device_count())]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot::most] or [devices[slot % len(devices)]])
    return found


@untouched()
def sweep(
    config: str | Path | Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    *,
    recipe: str | None = None,
    jobs: int = 1,
    output_dir: str | Path = "runs/sweep",
    **settings: Any,
) -> Sweep:
    """Run every combination of `axes` (setting -> values); the same call goes on after a stop.

    `settings` are the same in all runs. Each run is a process of its own, at most `jobs` at a time. Raises ConfigError
    or DataError with the problems of all runs before the first one starts; a run that fails is in `status`.
    """
    folder = Path(output_dir)
    source = folder / "sweep.yaml" if isinstance(config, Mapping) else Path(config)
    if isinstance(config, Mapping):
        folder.mkdir(parents=True, exist_ok=True)
        source.write_text(write_yaml(dict(config)), encoding="utf-8")
    arguments = [word for name, value in settings.items() for word in (f"--{name}", as_text(value))]
    for name, values in axes.items():
        arguments += [f"--{name}", ",".join(as_text(value) for value in values)]
    return run_sweep(source, arguments, recipe=recipe, jobs=jobs, output_dir=folder)


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, str) and not set(value) & set(",[]{}'\"") and read_value(value).values == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def run_sweep(
    source: str | Path,
    arguments: Sequence[str],
    *,
    recipe: str | None = None,
    jobs: int = 1,
    output_dir: str | Path | None = None,
    launcher: Sequence[str] = (),
    dry_run: bool = False,
) -> Sweep:
    """As `sweep`, from the words of a command line: `--learning_rate 1e-5,3e-5 --seed 0,1,2`."""
    if jobs < 1:
        raise ConfigError(f"jobs: {jobs} at a time; expected at least 1")
    source = Path(source)
    folder = Path(output_dir or f"runs/{source.stem}-sweep")
    points = plan(source, arguments, recipe=recipe, output_dir=folder)
    with StopRequest() as stop:
        points = checked(points, stop)
        done = [point for point in points if point.state == "finished"]
        say(f"sweep: {len(points)} runs in {folder}{f', {len(done)} finished already' if done else ''}")
        if dry_run:
            for point in points:
                say(f"  {point.state.ljust(14)}{shlex.join(['graft', *words_of(point, source, launcher)])}")
            return Sweep(folder, points, {point.name: point.state for point in points}, None, 0)
        with only_writer(folder):
            status = Jobs(source, folder, jobs, launcher).run(points, stop)
            table = _table(source, folder, points, status, launcher)
        failed = any(text.startswith("failed") for text in status.values())
        left = any(text != "finished" for text in status.values())
        code = stop.exit_code if stop() and left else int(failed)
        if not code and left:  # somebody stopped a run of ours, not us
            code = StopRequest().exit_code
    return Sweep(folder, points, status, table, code)


def _table(
    source: Path, folder: Path, points: Sequence[Point], status: Mapping[str, str], launcher: Sequence[str]
) -> SweepTable | None:
    if "finished" not in status.values():
        return None
    rows = [
        {
            "name": point.name,
            "folder": point.folder,
            "varied": point.varied(),
            "status": status[point.name],
            "again": shlex.join(["graft", *words_of(point, source, launcher)]),
        }
        for point in points
    ]
    table = tabulate(f"Sweep of {source.stem}", rows)
    table.write(folder)
    return table
