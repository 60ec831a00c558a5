"""A sweep that is killed takes its runs along: real processes, which save what they have first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline.parent import OF_A_SWEEP
from tests.launched import environment
from tests.tiny import tiny_checkpoint

PATIENCE = 180
"""Seconds for imports on a busy machine; nothing here is timed."""


def until(true: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.1)


@pytest.mark.promise(6, "sweeps killed with -9 whose runs saved and ended")
@pytest.mark.parametrize(
    ("axes", "options", "processes"),
    [("1,2", ["--jobs", "2"], 2), ("1,2", ["--accelerate_config", "cpu_2proc"], 3)],
    ids=["two at a time", "a launcher with two processes"],
)
def test_no_run_outlives_its_sweep(axes: str, options: list[str], processes: int, tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "bert", "bert", "AutoModelForMaskedLM")
    for split in ("train", "validation"):
        rows = "".join(f"{split} cat number {row},{'good' if row % 2 else 'bad'}\n" for row in range(16))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    given = {
        "task": "text_classification",
        "model": {"model_name_or_path": str(start)},
        "data": {"train_file": "train.csv", "validation_file": "validation.csv"},
        "train": {"max_steps": 1_000_000, "train_batch_size": 8, "logging_steps": 1},
        "eval": {"eval_steps": 1_000_000},
        "checkpoint": {"save_steps": 1_000_000},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(given))
    command = [sys.executable, "-m", "pipeline", "sweep", "my.yaml", "--seed", axes, *options]
    with (tmp_path / "said").open("wb") as said:
        sweep = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=said, stderr=said)
    runs = [tmp_path / "runs" / "my-sweep" / f"seed-{seed}" for seed in axes.split(",")]
    runs = runs[: 2 if "--jobs" in options else 1]
    children: list[psutil.Process] = []
    try:
        until(lambda: all(b'"step": 3' in _lines(run) for run in runs), sweep)
        children = psutil.Process(sweep.pid).children(recursive=True)
        assert len(children) >= processes
        sweep.kill()
        sweep.wait()
        until(lambda: not [child for child in children if alive(child)])
    finally:
        for child in children:
            if alive(child):
                child.kill()
        if sweep.poll() is None:
            sweep.kill()
    for run in runs:
        assert list((run / "checkpoints").glob("step-*")), (tmp_path / "said").read_text()[-3000:]
        assert json.loads((run / "manifest.json").read_text())["status"] != "finished"


def _lines(run: Path) -> bytes:
    file = run / "metrics.jsonl"
    return file.read_bytes() if file.is_file() else b""


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_run_of_a_sweep_starts_is_no_run_of_the_sweep() -> None:
    """A task of the user's may start commands of graft: their parent is the run, and they are not to stop."""
    says = "import subprocess, sys; from pipeline.parent import watched; print(watched(), flush=True)\n"
    starts = f"{says}subprocess.run([sys.executable, '-c', {says!r}])"
    done = subprocess.run(
        [sys.executable, "-c", starts],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**environment(), OF_A_SWEEP: str(os.getpid())},
    )
    assert done.stdout.split() == [str(os.getpid()), "None"], done.stderr
