"""The Accelerator of a process: its precision, and the refusal of a world that is not what was asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import accelerator
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "launcher", "device", "fast", "expected"),
    [
        ("auto", "no", CPU, False, "no"),
        ("auto", "no", CPU, True, "bf16"),
        ("auto", "no", GPU, True, "bf16"),
        ("auto", "no", GPU, False, "no"),
        ("auto", "fp16", GPU, True, "fp16"),
        ("auto", "bf16", CPU, False, "bf16"),
        ("bf16", "no", CPU, False, "bf16"),
        ("no", "bf16", GPU, True, "no"),
        ("fp16", "no", GPU, True, "fp16"),
    ],
)
def test_precision(
    asked: str, launcher: str, device: torch.device, fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    monkeypatch.setattr(accelerator, "has_fast_bf16", lambda device: fast)
    assert accelerator.resolve_precision(asked, device) == expected


def test_precision_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "has_fast_bf16", lambda device: False)
    for asked, device, message in (
        ("fp16", CPU, "fp16 needs a GPU"),
        ("bf16", GPU, "this GPU has no bf16"),
        ("bf17", CPU, "did you mean 'bf16'"),
    ):
        with pytest.raises(ConfigError, match=message):
            accelerator.resolve_precision(asked, device)


def test_two_runs_in_one_process_may_differ_in_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for precision in ("no", "bf16", "no"):
        made = accelerator.make_accelerator(precision)
        assert (made.mixed_precision, made.num_processes, made.device.type) == (precision, 1, "cpu")


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alone: Any = SimpleNamespace(num_processes=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 but this process works alone"):
        accelerator.check_world(alone)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv(accelerator.EXPECTED, "4")
    with pytest.raises(ConfigError, match="you asked for 4 processes, the launcher started 1"):
        accelerator.check_world(alone)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python bin/accelerate launch --cpu --num_processes 2 x.py --num_processes 9", 2),
        ("python bin/accelerate launch --num-processes=3 x.py", 3),
        ("python -W ignore -m accelerate.commands.launch --num_processes 4 -m some.module", 4),
        ("bin/accelerate-launch x.py --num_processes 9", None),
        ("accelerate launch --config_file {configs}/multi_node.yaml --machine_rank 1 x.py", 16),
        ("accelerate launch --config_file {configs}/multi_node.yaml --num_processes 4 x.py", 4),
        ("accelerate env", None),
        ("bash", None),
    ],
)
def test_the_launchers_command_line_is_understood(command: str, expected: int | None) -> None:
    arguments = accelerator.launcher_arguments(command.format(configs=ROOT / "accelerate_configs").split())
    assert (None if arguments is None else accelerator.asked_of_launcher(arguments).processes) == expected


@pytest.mark.parametrize(("config", "type_"), [("cpu_2proc", "cpu"), ("multi_gpu", "cuda")])
def test_use_cpu_of_the_launchers_configuration_counts_beside_a_gpu(
    config: str, type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's launcher tells it to a single process only."""
    launcher = ["python", "accelerate", "launch", "--config_file", f"{ROOT}/accelerate_configs/{config}.yaml", "x.py"]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: GPU)
    monkeypatch.setattr(accelerator, "words_of_parent", lambda: launcher)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    accelerator.launched_for_cpu.cache_clear()
    assert accelerator.available_device().type == type_
    accelerator.launched_for_cpu.cache_clear()


def test_two_processes_cannot_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    accelerator.check_devices(GPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    accelerator.check_devices(CPU)
    with pytest.raises(ConfigError, match="2 processes on this machine need a GPU each and it has 1; .* cpu_2proc"):
        accelerator.check_devices(GPU)
