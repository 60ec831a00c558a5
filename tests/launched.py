"""Real runs in real processes, with a fault on request."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.accelerator import config_path

SCRIPT = """
import sys
import tests.slow_import
import pipeline.api as api
from tests import faults
from tests.synthetic import data_of
prepare = api.prepare
api.prepare = lambda config, **more: prepare(config, **{**more, "datasets": data_of(config)})
faults.install()
api.main(sys.argv[1], arguments=sys.argv[2:])
"""


MANY = """
import sys
import yaml
from pipeline.api import read_config, run_recipe
from pipeline.stopping import Stopped
from tests import faults
from tests.synthetic import data_of
for job in yaml.safe_load(open(sys.argv[1])):
    with faults.stop_after(job["stop"]):
        try:
            config = read_config(job["recipe"], job["given"])
            run_recipe(job["recipe"], job["given"], datasets=data_of(config))
            assert job["stop"] is None
        except Stopped as stopped:
            assert stopped.saved_step == job["stop"] + 1
"""
"""Runs one after another in the same processes, so that many are tried for the price of one start."""


def many(folder: Path, jobs: list[dict[str, Any]], processes: int) -> None:
    """Each job: `recipe`, `given`, and `stop`, the step after which it gets a SIGTERM, or None."""
    words = command(folder, "", {}, processes)[:-3]
    script, file = folder / "many.py", folder / "jobs.yaml"
    script.write_text(MANY)
    file.write_text(yaml.safe_dump(jobs))
    done = subprocess.run(
        [*words, str(script), str(file)], capture_output=True, text=True, timeout=900, env=environment()
    )
    assert done.returncode == 0, done.stderr[-6000:]


def command(folder: Path, recipe: str, given: dict[str, Any], processes: int, *, launcher: bool = False) -> list[str]:
    """The command line of a run on synthetic rows; several processes always come from `accelerate launch`."""
    folder.mkdir(parents=True, exist_ok=True)
    script, config = folder / "script.py", folder / "config.yaml"
    script.write_text(SCRIPT)
    config.write_text(yaml.safe_dump(given))
    name = config_path("cpu" if processes == 1 else "cpu_2proc")
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(name)]
    start += ["--num_processes", str(processes)] if processes > 1 else ["--num_cpu_threads_per_process", "1"]
    return [*(start if processes > 1 or launcher else [sys.executable]), str(script), recipe, str(config)]


def environment(fault: str = "", says: Path | None = None) -> dict[str, str]:
    """That of this process, with one thread and the fault."""
    root = str(Path(__file__).parents[1])
    more = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "FAULT": fault, "FAULT_SAYS": str(says or "")}
    return {**os.environ, **more}


def run(
    folder: Path, recipe: str, given: dict[str, Any], processes: int, *, fault: str = "", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return what was said."""
    return subprocess.run(
        command(folder, recipe, given, processes),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(fault),
    )
