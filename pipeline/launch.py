"""Start a recipe, on one process or many."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import DistributedType, patch_environment

from pipeline.accelerator import (
    EXPECTED,
    NAMED,
    PACKAGE,
    available_device,
    config_path,
    make_accelerator,
    not_as_asked,
    too_few_devices,
)
from pipeline.errors import ConfigError, nearest
from pipeline.parent import ending_with_sweep

__all__ = ["config_path", "launch", "make_accelerator"]

ALONE = ("NO", "MULTI_CPU")
"""The distributed types for which `accelerate launch` starts one process, whatever number is asked (without MPI)."""
AUTOMATIC = {(True, True): "cpu", (True, False): "cpu_2proc", (False, True): "single_gpu", (False, False): "multi_gpu"}
"""The configuration by (on the processor, one process)."""


def recipe_path(name: str) -> Path:
    """The recipe's file: `lora`, or the path of a script of the user's own."""
    if name.endswith(".py"):
        if Path(name).is_file():
            return Path(name).resolve()
        raise ConfigError(f"recipe: there is no file {name!r}")
    known = {path.stem: path for path in (PACKAGE.parent / "recipes").glob("[!_]*.py")}
    if name not in known:
        raise ConfigError(f"recipe: unknown name {name!r}; {nearest(name, known)}")
    return known[name]


def launch(
    recipe: str, arguments: Sequence[str], *, accelerate_config: str | None = None, num_processes: int | None = None
) -> int:
    """Run a recipe; returns its exit code.

    Without a configuration: all GPUs, else one process on the processor, else `num_processes` of them. One process
    needs no launcher and runs right here, so that its imports are paid once and signals reach it; an exception other
    than SystemExit passes through. Several are started by accelerate's launcher, inside this process too: it passes
    SIGTERM and Ctrl-C on to them, gives them 30 seconds, and the code of the first that failed is returned.
    """
    script = recipe_path(recipe)
    if "LOCAL_RANK" in os.environ:
        return run_here(script, arguments, {})  # a launcher has started us: this process is one of its workers
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"num_processes: {num_processes} processes were asked for; expected at least 1")
    named = {} if accelerate_config is None else {NAMED: accelerate_config}
    if accelerate_config is None:
        on_cpu = available_device().type == "cpu"
        devices = 0 if on_cpu else torch.accelerator.device_count()
        num_processes = num_processes or max(devices, 1)
        accelerate_config = AUTOMATIC[on_cpu, num_processes == 1]
    file = config_path(accelerate_config)
    config = read_config(file)
    num_processes = num_processes or config.num_processes
    check_config(config, num_processes, file)
    if config.distributed_type.value in ALONE:
        return run_here(script, arguments, {**environment(config), **named})
    options = ["--config_file", str(file), "--num_processes", str(num_processes)]
    if config.use_cpu and "OMP_NUM_THREADS" not in os.environ:
        threads = (psutil.cpu_count(logical=False) or 1) * config.num_machines // num_processes
        options += ["--num_cpu_threads_per_process", str(max(threads, 1))]
    return run_workers(script, arguments, options, {**environment(config), **named, EXPECTED: str(num_processes)})


def read_config(file: Path) -> Any:
    """The ClusterConfig of a file, by accelerate's own reader."""
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    try:
        config = load_config_from_file(str(file))
    except Exception as error:  # anything from yaml's errors to a KeyError: all mean that the file is not one
        raise ConfigError(f"{file}: accelerate cannot read this configuration: {error}") from error
    if not isinstance(config, ClusterConfig):
        raise ConfigError(f"{file}: it is for a managed service; use `accelerate launch --config_file {file}` itself")
    if not isinstance(config.distributed_type, DistributedType):
        raise ConfigError(f"{file}: distributed_type: write 'NO' in quotes; without them YAML reads it as false")
    return config


def check_config(config: Any, num_processes: int, file: Path) -> None:
    """Raise ConfigError when the file cannot start that many processes on this machine."""
    if num_processes < 1:
        raise ConfigError(f"{file}: it leaves the number of processes open; add --num_processes N")
    alone = config.distributed_type.value in ALONE
    if alone and num_processes > 1:
        raise ConfigError(
            f"{file}: distributed_type {config.distributed_type.value} starts one process; "
            + not_as_asked(num_processes, 1)
        )
    unused = [key for key in ("dynamo_config", "fp8_config", "mpirun_config") if alone and vars(config)[key]]
    if unused:
        raise ConfigError(
            f"{file}: {', '.join(unused)}: not read here; use `accelerate launch --config_file {file}` itself"
        )
    here = -(-num_processes // config.num_machines)
    devices = torch.accelerator.device_count()
    if not config.use_cpu and here > devices:
        raise ConfigError(f"{file}: {too_few_devices(here, devices)}")


def environment(config: Any) -> dict[str, str]:
    """What the configuration says to the recipe's processes through their environment."""
    found = {"ACCELERATE_USE_CPU": str(bool(config.use_cpu)).lower()}
    if config.mixed_precision:
        found["ACCELERATE_MIXED_PRECISION"] = str(config.mixed_precision)
    if config.gpu_ids not in (None, "all"):
        found["CUDA_VISIBLE_DEVICES"] = str(config.gpu_ids)
    return found


def own_code() -> dict[str, str]:
    """Environment of a Python process that imports this very code.

    Without the safe path, a folder `pipeline` beside the recipe or in the current folder would be imported for ours.
    """
    found = {"PYTHONSAFEPATH": "1"}
    if (PACKAGE.parent / "pyproject.toml").is_file():  # a checkout, which need not be installed
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return found


def run_here(script: Path, arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the recipe as the main program of this process, with more environment variables while it runs."""
    before = sys.argv
    sys.argv = [str(script), *arguments]
    try:
        with patch_environment(**variables):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
            return 1
        return left.code or 0
    finally:
        sys.argv = before
    return 0


def run_workers(script: Path, arguments: Sequence[str], options: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the recipe in several processes under accelerate's launcher; returns the exit code."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    found = {**variables, **own_code()}
    parsed = launch_command_parser().parse_args([*options, str(script), *arguments])
    try:
        with kept_signal_handlers(), patch_environment(**found), ending_with_sweep():
            launch_command(parsed)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f"process {rank} ended with exit code {code}; the others were stopped", file=sys.stderr)
        return int(code)
    except subprocess.CalledProcessError as failed:
        return failed.returncode
    return 0


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Put the signal handlers back that the launcher replaces. SIGUSR1, a scheduler's early warning, means SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGUSR1, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
