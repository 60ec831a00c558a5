"""The Accelerator of this process, and the refusal to run with another number of processes than was asked for."""

from __future__ import annotations

import atexit
import datetime
import gc
import os
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import parse_flag_from_env, patch_environment

from pipeline.errors import ConfigError, nearest

EXPECTED = "GRAFT_EXPECTED_PROCESSES"
"""Environment variable: how many processes our own launcher starts in all."""
NAMED = "GRAFT_ACCELERATE_CONFIG"
"""Environment variable: the `--accelerate_config` that our own launcher was given."""
PRECISIONS = ("auto", "no", "bf16", "fp16")
OTHER_SHARDING = ("DEEPSPEED", "MEGATRON_LM")
PACKAGE = Path(__file__).resolve().parent


def make_accelerator(
    mixed_precision: str = "auto", *, log_with: Any = None, project_dir: str | None = None, timeout_seconds: int = 600
) -> Accelerator:
    """The Accelerator of this process, on the processor when there is nothing faster.

    A collective that waits longer than `timeout_seconds` ends the run. Raises ConfigError for a precision that the
    device does not have, and when fewer or more processes came than were asked for.
    """
    device = available_device()
    check_devices(device)
    precision = resolve_precision(mixed_precision, device)
    # The state is global and keeps its first precision and device; a second run in one process may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    with patch_environment(ACCELERATE_USE_FSDP="false"):  # pipeline/sharding.py shards, the same way on every device
        accelerator = _make(device, precision, log_with, project_dir, timeout_seconds)
    check_world(accelerator)
    refuse_sharding(accelerator)
    if accelerator.num_processes > 1:
        atexit.register(leave_together)
    return accelerator


def _make(
    device: torch.device, precision: str, log_with: Any, project_dir: str | None, timeout_seconds: int
) -> Accelerator:
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with=log_with,
        project_dir=project_dir,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=timeout_seconds)),
            # buffers are shared after each step: within forward, a process out of memory would miss that
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )


def leave_together() -> None:
    """Close the process group before Python takes its threads apart, which now and then aborted a finished process.

    A data-parallel model holds on to the group, and what is left of a run holds on to the model.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def asked_to_shard() -> bool:
    """Whether accelerate's launcher was given an FSDP configuration, which means train.fsdp here."""
    asked = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if asked and parse_flag_from_env("FSDP_OFFLOAD_PARAMS"):
        raise ConfigError("fsdp_offload_params: weights are not moved to the processor here; set it to false")
    return asked


def refuse_sharding(accelerator: Accelerator) -> None:
    """Say no before anything is spent: one way of sharding is written and tested, PyTorch's own."""
    kind = accelerator.distributed_type.value
    if kind in OTHER_SHARDING:
        raise ConfigError(
            f"distributed_type {kind}: is not supported, since its checkpoints could not be resumed; use "
            "accelerate_configs/fsdp2.yaml, or multi_gpu with train.fsdp: true, which shards the same things"
        )


def available_device() -> torch.device:
    """The accelerator of this machine unless ACCELERATE_USE_CPU or the launcher's use_cpu turns it off, else the
    processor.

    Apple's has no double precision, which sums and metrics are counted in: there the processor is used.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    unusable = found is None or found.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU")
    if found is None or unusable or launched_for_cpu():
        return torch.device("cpu")
    return found


def check_devices(device: torch.device) -> None:
    """Raise ConfigError when processes of this machine would have to share a GPU, which NCCL cannot."""
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if device.type != "cpu" and here > devices:
        raise ConfigError(too_few_devices(here, devices))


def too_few_devices(processes: int, devices: int) -> str:
    """The message about more processes than GPUs, with the option that works."""
    return (
        f"{processes} processes on this machine need a GPU each and it has {devices}; to train on the processor use "
        f"--accelerate_config {'cpu' if processes == 1 else 'cpu_2proc'}"
    )


def resolve_precision(asked: str, device: torch.device) -> str:
    """`no`, `bf16` or `fp16`. `auto` follows the launcher's --mixed_precision, else takes bf16 where it is fast."""
    if asked not in PRECISIONS:
        raise ConfigError(f"train.mixed_precision: unknown {asked!r}; {nearest(asked, PRECISIONS)}")
    if asked == "auto":
        # The launcher always sets the variable; its `no` is a default, not a wish.
        launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        asked = launcher if launcher in ("bf16", "fp16") else "bf16" if has_fast_bf16(device) else "no"
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError(
            "train.mixed_precision: fp16 needs a GPU and there is none in use; expected 'auto', 'no' or 'bf16' here"
        )
    if asked == "bf16" and device.type == "cuda" and not has_fast_bf16(device):
        raise ConfigError("train.mixed_precision: this GPU has no bf16; expected 'auto', 'no' or 'fp16'")
    return asked


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself; processors without it emulate it, slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The public torch.cpu.get_capabilities is younger than the oldest torch we accept.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_world(accelerator: Accelerator) -> None:
    """Raise ConfigError unless as many processes work together as were asked for."""
    real = accelerator.num_processes
    world = os.environ.get("WORLD_SIZE", "")
    if real == 1 and world.isdecimal() and int(world) > 1:
        raise ConfigError(
            f"WORLD_SIZE is {world} but this process works alone, so each of the {world} would train its own model; "
            "set ACCELERATE_USE_CPU=true to train on the processor, or unset WORLD_SIZE"
        )
    expected = requested_processes()
    if expected is not None and expected != real:
        raise ConfigError(not_as_asked(expected, real))


def not_as_asked(expected: int, real: int) -> str:
    """The message about a launcher that started another number of processes, with the command that works."""
    config = config_path("multi_gpu" if available_device().type == "cuda" else "cpu_2proc")
    return (
        f"you asked for {expected} processes, the launcher started {real}; "
        f"use `accelerate launch --config_file {shlex.quote(str(config))} --num_processes {expected} ...` "
        f"or `graft train ... --accelerate_config {config.stem} --num_processes {expected}`"
    )


def requested_processes() -> int | None:
    """How many processes whoever launched us was asked for; None when nobody said.

    Nothing in the environment tells it when `accelerate launch` starts a single process, so the launcher's own command
    line is read, with the launcher's own parser.
    """
    if EXPECTED in os.environ:
        return int(os.environ[EXPECTED])
    asked = asked_by_launcher()
    return None if asked is None else asked.processes


@cache
def launched_for_cpu() -> bool:
    """Whether the configuration that `accelerate launch` was given says use_cpu, which it keeps to itself when it
    starts several processes."""
    asked = asked_by_launcher() if "LOCAL_WORLD_SIZE" in os.environ else None
    return asked is not None and asked.use_cpu


def configuration_named() -> str | None:
    """The accelerate configuration that graft, or accelerate's own launcher, was given to start this process."""
    if NAMED in os.environ:
        return os.environ[NAMED]
    asked = asked_by_launcher()
    return None if asked is None else asked.config_file


def words_of_parent() -> list[str]:
    """The command line of the process that started this one; empty when it cannot be read."""
    try:
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else []
    except psutil.Error:
        return []


def launcher_arguments(words: list[str]) -> list[str] | None:
    """What follows `accelerate launch` in a command line; None when it is another command."""
    for index, word in enumerate(words):
        name = Path(word).name.removesuffix(".exe")
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return words[index + 1 :]
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and words[index + 1 :][:1] == ["launch"]:
            return words[index + 2 :]
    return None


class Asked(NamedTuple):
    """What a command line of `accelerate launch` asks for."""

    processes: int | None
    """All machines together; None when it is left open."""
    use_cpu: bool
    config_file: str | None
    """The configuration it names; None for that of the user's home."""


def asked_by_launcher() -> Asked | None:
    """What `accelerate launch`, when it started this process, was asked for; None when something else did."""
    arguments = launcher_arguments(words_of_parent())
    return None if arguments is None else asked_of_launcher(arguments)


def asked_of_launcher(arguments: list[str]) -> Asked:
    """What these arguments of `accelerate launch`, and the configuration that they or the user's home name, ask for."""
    from accelerate.commands.config.config_args import ClusterConfig, default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    options, _ = launch_command_parser().parse_known_args(arguments)
    file = options.config_file
    if file is None and not options.cpu and Path(default_config_file).is_file():
        file = default_config_file
    config = load_config_from_file(file) if file else None
    if not isinstance(config, ClusterConfig):
        return Asked(options.num_processes, bool(options.cpu), options.config_file)
    processes = options.num_processes or (config.num_processes if config.num_processes > 0 else None)
    return Asked(processes, bool(options.cpu or config.use_cpu), options.config_file)


def config_path(name: str) -> Path:
    """The accelerate configuration file `name`: one of ours (`cpu_2proc`), or a path."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml", ".json"):
        if given.is_file():
            return given.resolve()
        raise ConfigError(f"accelerate_config: there is no file {name!r}")
    known = launcher_files()
    if name not in known:
        raise ConfigError(
            f"accelerate_config: unknown name {name!r}; {nearest(name, known)} (or the path of a .yaml file)"
        )
    return known[name]


def launcher_files() -> dict[str, Path]:
    """Our accelerate configuration files by name."""
    # In a checkout the folder lies beside the package, in an installed wheel inside it.
    folders = (PACKAGE / "accelerate_configs", PACKAGE.parent / "accelerate_configs")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
