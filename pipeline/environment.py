"""`graft env`: what an issue needs to say about a machine, without secrets and without the home folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.accelerator import available_device, has_fast_bf16
from pipeline.errors import ConfigError
from pipeline.launch import read_config
from pipeline.manifest import describe_machine, git
from pipeline.safe_text import clean, masked

ALSO = ("huggingface_hub", "pydantic", "cyclopts", "rich", "scikit-learn", "torchvision", "bitsandbytes", "deepspeed")
"""Packages worth a line when they are there, besides those that a manifest names."""
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
BEGINNINGS = ("ACCELERATE_", "CUDA_VISIBLE", "GRAFT_", "HF_", "MKL_NUM", "NCCL_", "OMP_", "PYTORCH_", "TORCH_")
ALSO_SET = ("TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "NO_COLOR", "SLURM_JOB_ID", "CUBLAS_WORKSPACE_CONFIG")
"""Environment variables that change what a run does, shown when they are set; tokens are only said to be there."""


def describe() -> dict[str, str]:
    """One short text per fact, in the order in which they are shown."""
    device = available_device()
    machine = describe_machine(device)
    packages = {**machine["versions"], **_installed((*ALSO, *TRACKERS))}
    return {
        "graft": f"{machine['graft_version']}{_commit()}",
        "python": machine["python"],
        "platform": machine["platform"],
        "packages": ", ".join(f"{name} {found}" for name, found in packages.items()),
        "processor": f"{machine['cpu']}, {psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads, "
        f"torch uses {torch.get_num_threads()}",
        "memory": f"{_gib(psutil.virtual_memory().total)}, {_gib(psutil.virtual_memory().available)} of it free",
        "devices": _devices(),
        "used here": f"{device.type}, {'with' if has_fast_bf16(device) else 'without'} fast bf16",
        "accelerate": _accelerate(),
        "hub": _hub(),
        "variables": _variables(os.environ) or "none that matter is set",
    }


def text() -> str:
    """The facts as lines to paste into an issue."""
    facts = describe()
    width = max(map(len, facts))
    lines = (f"{name.ljust(width)}  {without_home(clean(masked(value)))}" for name, value in facts.items())
    return "\n".join(lines)


def without_home(value: str) -> str:
    """Paths below the home folder begin with ~, so that no user's name is told."""
    home = os.path.expanduser("~")
    return value.replace(home, "~") if len(home) > 1 else value


def _commit() -> str:
    """Of graft's own code, when it is a checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here / "pyproject.toml").is_file():
        return ""
    commit = git("rev-parse", "--short=12", "HEAD", folder=here)
    changed = ", with changes" if commit and git("status", "--porcelain", folder=here) else ""
    return f" (commit {commit}{changed})" if commit else ""


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _devices() -> str:
    if not torch.cuda.is_available():
        found = torch.accelerator.current_accelerator(check_available=True)
        return "no GPU" if found is None else found.type
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    listed = ", ".join(f"{one.name} {_gib(one.total_memory)}" for one in names)
    return f"{listed}; CUDA {torch.version.cuda}; {_driver([str(one.uuid) for one in names])}"


def _driver(uuids: list[str]) -> str:
    """The driver, and who holds memory of these GPUs: what a run out of memory at its first step is often about."""
    if find_spec("pynvml") is None:
        return "driver, and who holds memory: pip install 'graft-pipeline[gpu]'"
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
        users = [user for handle in handles for user in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        driver = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        return f"the driver does not answer ({error})"
    held = [f"{_name(user.pid)} {_held(user.usedGpuMemory)}" for user in users if user.pid != os.getpid()]
    return f"driver {driver}; memory held by {', '.join(held) or 'nobody else'}"


def _held(size: int | None) -> str:
    return "an unknown amount" if size is None else _gib(size)  # in a container the driver does not tell


def _name(pid: int) -> str:
    """A process of this machine by name and number; of another container, by its number."""
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"


def _accelerate() -> str:
    """What `accelerate launch` without a file would do; `graft` chooses by itself."""
    from accelerate.commands.config.config_args import default_config_file

    file = Path(default_config_file)
    if not file.is_file():
        return "no default configuration"
    try:
        config = read_config(file)
    except ConfigError as error:
        return f"{file}: cannot be read ({error})"
    return f"{file}: {config.distributed_type.value}, {config.num_processes} processes, {config.mixed_precision}"


def _hub() -> str:
    from huggingface_hub import constants

    state = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online"
    return f"{state}; endpoint {constants.ENDPOINT}; cache {constants.HF_HUB_CACHE}; {_token()}"


def _token() -> str:
    from huggingface_hub import get_token

    return "a token is set" if get_token() else "no token"


def _variables(environment: Mapping[str, str]) -> str:
    shown: dict[str, Any] = {
        name: "(set)" if "TOKEN" in name or "KEY" in name or "SECRET" in name else value
        for name, value in sorted(environment.items())
        if name.startswith(BEGINNINGS) or name in ALSO_SET
    }
    return " ".join(f"{name}={value}" for name, value in shown.items())


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
