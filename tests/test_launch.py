"""Launching: as many processes as were asked for, or a refusal; signals and exit codes come through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

from pipeline import accelerator, launch
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
CPU = torch.device("cpu")
GPU = torch.device("cuda")
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from pipeline.errors import UserError
from pipeline.launch import make_accelerator

def main():
    accelerator = make_accelerator("no", timeout_seconds=60)
    total = int(accelerator.reduce(__import__("torch").tensor(1, device=accelerator.device)))
    rank = accelerator.process_index
    Path(sys.argv[1], f"rank{rank}").write_text(f"{accelerator.num_processes} {total} {os.getpid()} {sys.argv[2:]}")
    if "fail" in sys.argv:
        sys.exit(3 if rank == 1 else 0)
    if "wait" in sys.argv:
        stopped = []
        signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
        Path(sys.argv[1], f"ready{rank}").touch()
        while not stopped:
            time.sleep(0.05)
        Path(sys.argv[1], f"stopped{rank}").touch()
        sys.exit(143)

try:
    main()
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
DRIVER = """
import sys
from pipeline.launch import launch
sys.exit(launch(sys.argv[1], sys.argv[3:], num_processes=int(sys.argv[2])))
"""

ON_CPU = {"ACCELERATE_USE_CPU": "true"}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    # What a user may have beside the script: nothing of it may be imported for ours.
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit('the wrong pipeline')")
    return path


def start(*command: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **variables}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_processes_share_the_work(script: Path, tmp_path: Path) -> None:
    code, errors = finish(
        start("-c", DRIVER, str(script), "2", str(tmp_path), "--flag", "a b", folder=tmp_path, **ON_CPU)
    )
    assert code == 0, errors
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}").read_text().startswith("2 2 ")
        assert (tmp_path / f"rank{rank}").read_text().endswith("['--flag', 'a b']")


def test_accelerate_launch_with_our_configuration_starts_two(script: Path, tmp_path: Path) -> None:
    options = ("--config_file", str(ROOT / "accelerate_configs" / "cpu_2proc.yaml"))
    command = ("-m", "accelerate.commands.launch", *options, str(script), str(tmp_path))
    code, errors = finish(start(*command, folder=tmp_path))
    assert code == 0, errors
    assert sorted(path.name for path in tmp_path.glob("rank*")) == ["rank0", "rank1"]


def test_a_launcher_that_starts_one_of_two_is_refused(script: Path, tmp_path: Path) -> None:
    options = ("--cpu", "--num_processes", "2")
    command = ("-m", "accelerate.commands.launch", *options, str(script), str(tmp_path))
    code, errors = finish(start(*command, folder=tmp_path))
    assert code == 1  # the launcher's own; it prints the script's
    assert "returned non-zero exit status 2" in errors
    assert "you asked for 2 processes, the launcher started 1" in errors and "cpu_2proc.yaml" in errors
    assert not list(tmp_path.glob("rank*"))


def test_one_process_asked_of_accelerate_launch_is_fine(script: Path, tmp_path: Path) -> None:
    command = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(script), str(tmp_path))
    code, errors = finish(start(*command, folder=tmp_path, MASTER_PORT="29555"))
    assert code == 0, errors
    assert (tmp_path / "rank0").read_text().startswith("1 1 ")


def test_one_process_runs_right_here(script: Path, tmp_path: Path) -> None:
    process = start("-c", DRIVER, str(script), "1", str(tmp_path), folder=tmp_path)
    code, errors = finish(process)
    assert code == 0, errors
    assert (tmp_path / "rank0").read_text() == f"1 1 {process.pid} []"


def test_the_code_of_the_first_failure_is_returned(script: Path, tmp_path: Path) -> None:
    code, errors = finish(start("-c", DRIVER, str(script), "2", str(tmp_path), "fail", folder=tmp_path, **ON_CPU))
    assert code == 3, errors
    assert "process 1 ended with exit code 3" in errors and "Traceback" not in errors


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_reaches_every_process_and_none_outlives_us(processes: int, script: Path, tmp_path: Path) -> None:
    process = start("-c", DRIVER, str(script), str(processes), str(tmp_path), "wait", folder=tmp_path, **ON_CPU)
    wait_for(lambda: len(list(tmp_path.glob("ready*"))) == processes or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    code, errors = finish(process)
    assert code == 143, errors
    assert len(list(tmp_path.glob("stopped*"))) == processes
    for rank in range(processes):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"rank{rank}").read_text().split()[2]), 0)


def test_a_schedulers_warning_means_sigterm_and_handlers_come_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with launch.kept_signal_handlers():
            signal.raise_signal(signal.SIGUSR1)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM, signal.SIGTERM]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_accelerate_accepts_every_configuration(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig) and config.num_processes >= 1
    first = file.read_text().splitlines()
    assert first[0].startswith("# ") and any("accelerate launch --config_file" in line for line in first)
    # Keys that are not options of the launcher would be dropped without a word.
    options = {action.dest for action in launch_command_parser()._actions}
    for prefix, section in (("fsdp_", config.fsdp_config), ("deepspeed_", config.deepspeed_config)):
        assert {key if key.startswith(prefix) or prefix == "deepspeed_" else prefix + key for key in section} <= options


def test_all_configurations_are_there() -> None:
    names = "cpu cpu_2proc deepspeed_zero2 deepspeed_zero3 fsdp2 multi_gpu multi_node single_gpu"
    assert [file.stem for file in CONFIGS] == names.split()


def test_names_are_found_and_unknown_ones_get_the_nearest(tmp_path: Path) -> None:
    assert launch.config_path("cpu_2proc") == ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    own = tmp_path / "mine.yaml"
    own.touch()
    assert launch.config_path(str(own)) == own
    assert launch.recipe_path("lora") == ROOT / "recipes" / "lora.py"
    for call, message in (
        (lambda: launch.config_path("cpu_2procs"), "did you mean 'cpu_2proc'"),
        (lambda: launch.config_path("no/such.yaml"), "there is no file"),
        (lambda: launch.recipe_path("loar"), "did you mean 'lora'"),
        (lambda: launch.recipe_path("loar.py"), "there is no file"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.mark.parametrize(
    ("file", "processes", "message"),
    [
        ("cpu", 2, "starts one process; you asked for 2 processes, the launcher started 1; .*cpu_2proc"),
        ("single_gpu", 1, "need a GPU each and it has 0; .*--accelerate_config cpu"),
        ("multi_gpu", None, "2 processes on this machine need a GPU each and it has 0"),
        ("cpu_2proc", 0, "expected at least 1"),
        ("num_processes: 2\n", None, "cannot read this configuration: A `distributed_type` must be"),
        ("distributed_type: MULTI_GPU\n", None, "leaves the number of processes open"),
        ("distributed_type: NO\nnum_processes: 1\n", None, "write 'NO' in quotes"),
        ("distributed_type: 'NO'\ndynamo_config: {dynamo_backend: INDUCTOR}\n", None, "dynamo_config: not read here"),
    ],
)
def test_what_cannot_start_is_refused(
    file: str, processes: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if "\n" in file:
        (tmp_path / "mine.yaml").write_text(file)
        file = str(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=message):
        launch.launch("lora", [], accelerate_config=file, num_processes=processes)


@pytest.mark.parametrize(
    ("device", "devices", "asked", "file", "started"),
    [
        (CPU, 0, None, "cpu.yaml", 1),
        (CPU, 0, 3, "cpu_2proc.yaml", 3),
        (GPU, 1, None, "single_gpu.yaml", 1),
        (GPU, 4, None, "multi_gpu.yaml", 4),
        (GPU, 4, 1, "single_gpu.yaml", 1),
        (GPU, 4, 2, "multi_gpu.yaml", 2),
    ],
)
def test_the_machine_decides_without_a_configuration(
    device: torch.device, devices: int, asked: int | None, file: str, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "available_device", lambda: device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: devices)
    seen: list[tuple[str, int]] = []
    read = launch.read_config

    def noticed(path: Path) -> Any:
        seen.append((path.name, 1))
        return read(path)

    monkeypatch.setattr(launch, "read_config", noticed)
    monkeypatch.setattr(launch, "run_here", lambda *arguments: 0)

    def run_workers(script: Path, arguments: list[str], options: list[str], variables: dict[str, str]) -> int:
        number = options[options.index("--num_processes") + 1]
        seen[-1] = (seen[-1][0], int(number))
        assert variables[accelerator.EXPECTED] == number
        return 0

    monkeypatch.setattr(launch, "run_workers", run_workers)
    assert launch.launch("lora", [], num_processes=asked) == 0
    assert seen == [(file, started)]


def test_a_worker_of_a_launcher_starts_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    own = tmp_path / "own.py"
    own.write_text("import sys\nprint(sys.argv[1:])\nsys.exit('broken')")
    before = list(sys.argv)
    assert launch.launch(str(own), ["a", "--b"], num_processes=2) == 1
    assert sys.argv == before
    out, err = capsys.readouterr()
    assert (out, err) == ("['a', '--b']\n", "broken\n")
