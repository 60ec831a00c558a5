"""A run inside of somebody else's program: nothing of it is left, and it does not matter what ran before."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub import constants
from transformers.utils import logging as transformers_logging

from pipeline import Event, Run, evaluate, finetune, lora, merge, predict
from pipeline.config import load
from pipeline.rerun import compare_bytes
from pipeline.settings import RunConfig
from tests.launched import environment
from tests.synthetic import data_of, settings
from tests.tiny import tiny_checkpoint

ACCELERATE = (PartialState, AcceleratorState, GradientState)


def state() -> dict[str, Any]:
    """What other code in this process would notice."""
    loggers = {name: logger for name, logger in logging.root.manager.loggerDict.items() if name.startswith("graft")}
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        # every kind of bar of tqdm starts a watcher of its own, even when it is not shown
        "running": {thread for thread in threading.enumerate() if thread.name != "tqdm_monitor"},
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "environment": dict(os.environ),
        "path": [*sys.path],
        "folder": os.getcwd(),
        "filters": [*warnings.filters],
        "handlers": [*logging.root.handlers, *(h for each in loggers.values() for h in getattr(each, "handlers", []))],
        "level": logging.root.level,
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
        "hooks": (sys.excepthook, sys.stdout, sys.stderr),
        "accelerate": [dict(kind._shared_state) for kind in ACCELERATE],
        "offline": (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE),
        "transformers": (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()),
        "datasets": (datasets.are_progress_bars_disabled(), datasets.is_caching_enabled()),
    }


def difference(before: dict[str, Any]) -> dict[str, Any]:
    now = state()
    now["running"] |= before["running"]  # a thread of an earlier test may have ended meanwhile
    return {name: (value, now[name]) for name, value in before.items() if value != now[name]}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with dropout and adapters."""
    start = tiny_checkpoint(tmp_path_factory.mktemp("start"), "bert", "AutoModelForMaskedLM")
    return settings("text_classification", "lora", start, Path("unset"), eval_steps=2)


def with_rows(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"datasets": data_of(load(RunConfig, given)), "output_dir": str(folder)}


def disturb(event: Event) -> None:
    """What a run of somebody else might do to the process; put back with the rest."""
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    os.environ["LEFT_BEHIND"] = "1"
    os.environ.pop("HOME", None)
    sys.path.append("/left/behind")
    warnings.simplefilter("ignore")


@pytest.mark.parametrize("end", ["finished", "failed", "refused"])
def test_nothing_is_left_behind(end: str, given: dict[str, Any], tmp_path: Path) -> None:
    lora(given, **with_rows(given, tmp_path / "first"))  # what is imported late is imported
    random.seed(1)
    for kind in ACCELERATE:  # as in a program that has not used it yet
        kind._shared_state.clear()
    before = state()
    more = with_rows(given, tmp_path / "run")
    if end == "finished":
        lora(given, **more, on_save=disturb)
    elif end == "failed":
        with pytest.raises(ZeroDivisionError):
            lora(given, **more, on_step=[disturb, lambda event: 1 / 0])
    else:
        with pytest.raises(ValueError, match="learning_rate"):
            lora(given, **more, learning_rate=-1)
    assert not difference(before)


@pytest.fixture(scope="module")
def finished(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any]]:
    more = with_rows(given, tmp_path_factory.mktemp("finished") / "run")
    return lora(given, **more), more


@pytest.mark.parametrize("use", ["lora", "evaluate", "predict", "merge"])
def test_an_accelerator_of_the_program_is_what_it_was(
    use: str, given: dict[str, Any], finished: tuple[Run, dict[str, Any]], tmp_path: Path
) -> None:
    run, more = finished
    calls: dict[str, Callable[[], object]] = {
        "lora": lambda: lora(given, **{**more, "output_dir": str(tmp_path / "run")}),
        "evaluate": lambda: evaluate(run, datasets={"validation": more["datasets"]["validation"]}),
        "predict": lambda: predict(run, more["datasets"]["validation"]),
        "merge": lambda: merge(run, tmp_path / "merged"),
    }
    for kind in ACCELERATE:
        kind._shared_state.clear()
    own = Accelerator(cpu=True, mixed_precision="bf16")
    before = state()
    try:
        calls[use]()
        assert not difference(before) and own.mixed_precision == "bf16"
    finally:
        for kind in ACCELERATE:
            kind._shared_state.clear()


DATASETS_ALONE = """
import sys
if sys.argv[1] == "before":
    import datasets
from huggingface_hub import constants
from pipeline.untouched import untouched
with untouched():
    import datasets
    from pipeline.data.hub import ready
    ready()
assert datasets.config.HF_HUB_OFFLINE and not constants.HF_HUB_OFFLINE
assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS or sys.argv[1] != "before"
"""


@pytest.mark.parametrize("imported", ["before", "within"])
def test_datasets_stay_offline_by_themselves(imported: str) -> None:
    """HF_DATASETS_OFFLINE is another switch than HF_HUB_OFFLINE, though datasets keeps it under that name."""
    found = {**environment(), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "0"}
    del found["HF_UPDATE_DOWNLOAD_COUNTS"]
    done = subprocess.run(
        [sys.executable, "-c", DATASETS_ALONE, imported], capture_output=True, text=True, timeout=300, env=found
    )
    assert done.returncode == 0, done.stderr


SCRIPT = """
import json, sys
from pathlib import Path
from pipeline import finetune, lora
from pipeline.config import load
from pipeline.settings import RunConfig
from tests.synthetic import data_of
recipe, given, folder = json.loads(Path(sys.argv[1]).read_text())
{"lora": lora, "finetune": finetune}[recipe](given, datasets=data_of(load(RunConfig, given)), output_dir=folder)
"""


def test_two_runs_in_one_process_are_those_of_two_processes(given: dict[str, Any], tmp_path: Path) -> None:
    decoder = tiny_checkpoint(tmp_path / "decoder", "gpt2", "AutoModelForCausalLM")  # with dropout, too
    other = settings("causal_lm", None, decoder, Path("unset"))
    jobs = {"lora": given, "finetune": other}
    (tmp_path / "script.py").write_text(SCRIPT)
    for recipe, job in jobs.items():
        (tmp_path / "job.json").write_text(json.dumps([recipe, job, str(tmp_path / f"alone-{recipe}")]))
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "job.json")]
        subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment())
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError):
        lora(given, **with_rows(given, tmp_path / "failed"), on_step=lambda event: 1 / 0)
    finetune(other, **with_rows(other, tmp_path / "finetune"))
    lora(given, **with_rows(given, tmp_path / "lora"))
    for recipe in jobs:
        assert compare_bytes(tmp_path / f"alone-{recipe}", tmp_path / recipe) == 0
