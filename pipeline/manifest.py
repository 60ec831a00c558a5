"""What a run was: versions, machine, data, cost. No path of the machine and no secret goes in."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.files import write_text

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "safetensors", "tokenizers", "numpy")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the bytes of a run depend on beside its settings and data: versions and hardware."""
    return {
        "graft_version": version("graft-pipeline"),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
    }


def describe_run(accelerator: Accelerator) -> dict[str, Any]:
    """Versions, hardware and code of this process."""
    return {
        **describe_machine(accelerator.device),
        "cpu_threads": torch.get_num_threads(),
        "world_size": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def git(*arguments: str, folder: Path | None = None) -> str | None:
    """Of a folder, by default the one the user works in; None outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def earlier_cost(folder: Path) -> dict[str, float]:
    """What the run in a folder has cost so far; nothing where no manifest can be read: only a count is lost."""
    try:
        return json.loads((folder / "manifest.json").read_text()).get("cost", {})
    except (OSError, ValueError):
        return {}


def cost_of(
    earlier: Mapping[str, float],
    *,
    seconds: float,
    evaluation_seconds: float,
    saving_seconds: float,
    samples: int,
    tokens: int,
    peak_memory: int,
    model_folder: Path,
) -> dict[str, float]:
    """What a run has cost, over all its sessions. `earlier`: what the sessions before this one had cost; `samples` and
    `tokens` are those of all."""
    seconds += earlier.get("train_seconds", 0.0)
    return {
        "train_seconds": round(seconds, 3),
        "evaluation_seconds": round(evaluation_seconds + earlier.get("evaluation_seconds", 0.0), 3),
        "saving_seconds": round(saving_seconds + earlier.get("saving_seconds", 0.0), 3),
        "samples_per_second": round(samples / seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_memory_bytes": max(peak_memory, int(earlier.get("peak_memory_bytes", 0))),
        "model_size_bytes": folder_size(model_folder),
    }


def restart_peak_memory(device: torch.device) -> None:
    """Count the peak from here on, so that two runs in one process do not share it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark of resident memory
    except OSError:
        return  # elsewhere the mark is that of the whole process


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held since `restart_peak_memory`: of the accelerator, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
