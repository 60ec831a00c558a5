"""In a notebook: several processes by accelerate's own notebook launcher, and what a cell shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.launched import environment
from tests.synthetic import checkpoint_for, settings

PROGRAM = """
import json, os, sys
from pathlib import Path
from accelerate import notebook_launcher
from pipeline import finetune
from pipeline.config import load
from pipeline.settings import RunConfig
from tests.synthetic import data_of

given = json.loads(Path(sys.argv[1]).read_text())
told = Path(sys.argv[2])

def train():
    def note(event):
        with told.open("a") as file:
            print(os.environ["RANK"], event.step, file=file)
    run = finetune(given, datasets=data_of(load(RunConfig, given)), on_step=note)
    assert run.results["steps"] == 3

notebook_launcher(train, num_processes=2, use_port=sys.argv[3])
given["output_dir"] += "-alone"
run = finetune(given, datasets=data_of(load(RunConfig, given)))
print(run._repr_html_())
"""


def test_the_notebook_launcher_starts_two_processes(tmp_path: Path) -> None:
    given = settings("causal_lm", None, checkpoint_for("causal_lm", tmp_path / "start"), tmp_path / "run")
    (tmp_path / "given.json").write_text(json.dumps(given))
    (tmp_path / "program.py").write_text(PROGRAM)
    port = str(20000 + os.getpid() % 10000)
    command = [sys.executable, "program.py", "given.json", "told", port]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment(), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert (tmp_path / "told").read_text() == "0 1\n0 2\n0 3\n"
    two, one = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("run", "run-alone"))
    assert (two["world_size"], one["world_size"]) == (2, 1)
    assert "<table>" in done.stdout
