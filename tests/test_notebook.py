"""In a notebook: several processes by accelerate's own notebook launcher, and what a cell shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import ConfigError, DataError, NotPushed, Stopped, finetune
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


def shown(error: BaseException) -> str:
    """What IPython shows of an error: it asks for this before it makes a traceback."""
    return "\n".join(error._render_traceback_())  # type: ignore[attr-defined]


def test_a_mistake_is_shown_in_its_own_words() -> None:
    with pytest.raises(ConfigError) as caught:
        finetune({"task": "causal_lm", "learning_rat": 1, "train_batch_size": "many"})
    lines = shown(caught.value).splitlines()
    assert lines[0] == "ConfigError: 2 configuration problems:" and "did you mean 'learning_rate'?" in lines[1]
    assert shown(DataError("a.csv:2: text is empty")) == "DataError: a.csv:2: text is empty"
    assert "to push it later: graft push" in shown(NotPushed("no network", "graft push runs/x"))


def test_an_interrupted_cell_says_what_is_saved() -> None:
    stopped = Stopped()
    assert shown(stopped) == "Stopped: stopped; there was nothing to save yet"
    stopped.saved_step = 26
    assert shown(stopped) == "Stopped: stopped; saved at step 26; the same call goes on from there"
