"""Functions of the user's own: what they are told, that they change nothing, and how they end a run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline import ConfigError, Event, Run, finetune
from pipeline.accelerator import config_path
from pipeline.checkpoint import problems
from pipeline.config import load
from pipeline.rerun import compare_bytes, refuse_unrepeatable
from pipeline.settings import RunConfig
from tests.launched import environment
from tests.synthetic import data_of, settings
from tests.tiny import tiny_checkpoint

STEPS = 6


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, so that a random number too many would show."""
    return tiny_checkpoint(tmp_path_factory.mktemp("start"), "bert", "AutoModelForMaskedLM")


def run(start: Path, folder: Path, **more: Any) -> Run:
    given = settings("text_classification", None, start, folder, max_steps=STEPS, eval_steps=2, save_steps=3)
    data = data_of(load(RunConfig, given))
    return finetune(given, datasets={**data, "test": data["validation"]}, **more)


@pytest.fixture(scope="module")
def alone(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(start, tmp_path_factory.mktemp("alone") / "run")


def test_functions_are_told_what_the_log_says_and_change_nothing(start: Path, alone: Run, tmp_path: Path) -> None:
    told: dict[str, list[Event]] = {"on_step": [], "on_evaluate": [], "on_save": []}

    def disturb(event: Event) -> int:
        torch.manual_seed(event.step)
        random.seed(0)
        np.random.seed(0)
        return torch.rand(3).numel()  # true, and not True

    seen = {moment: [disturb, events.append] for moment, events in told.items()}
    found = run(start, tmp_path / "run", **seen)
    assert compare_bytes(alone.output_dir, found.output_dir) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [
        (line["step"], line["epoch"], line["loss"], line["learning_rate"]) for line in log if line["event"] == "train"
    ]
    assert steps == [(event.step, event.epoch, event.loss, event.learning_rate) for event in told["on_step"]]
    assert len(steps) == STEPS and all(event.total_steps == STEPS for event in told["on_step"])
    scores = [(line["step"], line["split"], line["loss"]) for line in log if line["event"] == "evaluate"]
    assert scores == [(event.step, event.split, event.loss) for event in told["on_evaluate"]]
    last = [event for event in told["on_evaluate"] if event.split == "test"][0]
    assert dict(last.metrics).items() >= found.results["metrics"]["test"].items()
    assert [event.folder.name for event in told["on_save"]][-1] == f"step-{STEPS:06d}"
    assert not any(problems(event.folder) for event in told["on_save"])
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["functions"] == [*told]


@pytest.mark.parametrize("moment", ["on_step", "on_evaluate", "on_save"])
def test_true_ends_the_training_and_finishes_the_run(moment: str, start: Path, tmp_path: Path) -> None:
    found = run(start, tmp_path / "run", **{moment: lambda event: event.step >= 2})
    assert found.results["steps"] == 2 and found.results["stopped_early"]
    assert found.metrics["accuracy"] >= 0 and (tmp_path / "run" / "model" / "config.json").is_file()
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    with pytest.raises(ConfigError, match=f"your {moment} asked for it"):
        refuse_unrepeatable(tmp_path / "run", {**manifest, "rows_in_memory": False}, tmp_path / "again")


@pytest.mark.parametrize("moment", ["on_step", "on_evaluate", "on_save"])
def test_what_a_function_raises_comes_out_after_saving(moment: str, start: Path, alone: Run, tmp_path: Path) -> None:
    def my_function(event: Event) -> None:
        if event.step >= 4:
            print(1 / 0)

    with pytest.raises(ZeroDivisionError) as raised:
        run(start, tmp_path / "run", **{moment: my_function})
    assert "print(1 / 0)" in "".join(traceback.format_exception(raised.value))
    step = 6 if moment == "on_save" else 4
    assert f"step-{step:06d}" in "".join(raised.value.__notes__)
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:06d}").is_dir()
    run(start, tmp_path / "run")
    assert compare_bytes(alone.output_dir, tmp_path / "run") == 0


@pytest.mark.parametrize("wrong", [3, "print", [print, 3], {"a": print}])
def test_what_cannot_be_called_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_step: expected a function") as raised:
        finetune({"task": "text_classification"}, on_step=wrong, on_save=wrong, output_dir=str(tmp_path / "run"))
    assert len(raised.value.problems) == 2


SCRIPT = """
import os, sys, yaml
from pathlib import Path
from pipeline import finetune, RunFailed
from pipeline.config import load
from pipeline.processes import OtherProcessFailed
from pipeline.settings import RunConfig
from tests.synthetic import data_of

given = yaml.safe_load(Path(sys.argv[1]).read_text())
data = data_of(load(RunConfig, given))
called = []
run = finetune(given, datasets=data, on_step=lambda event: called.append(event.step) or event.step == 2)
assert called == ([1, 2] if os.environ["RANK"] == "0" else []), called
assert run.results["steps"] == 2 and run.results["stopped_early"]

def wrong(event):
    raise KeyError("my own mistake")

try:
    finetune(given, datasets=data, on_evaluate=wrong, output_dir=given["output_dir"] + "-wrong")
except RunFailed as error:
    assert os.environ["RANK"] == "0" and isinstance(error.cause, KeyError) and "step-000002" in str(error), error
except OtherProcessFailed as error:
    assert os.environ["RANK"] == "1" and "my own mistake" in str(error), error
print("as expected", flush=True)
os._exit(0)
"""


def test_two_processes_agree_on_what_the_main_one_was_told(start: Path, tmp_path: Path) -> None:
    given = settings("text_classification", None, start, tmp_path / "run", max_steps=STEPS, eval_steps=2)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(given))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu_2proc"))]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path / "given.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0 and done.stdout.count("as expected") == 2, done.stderr[-6000:]
