"""Checkpoints: safetensors and JSON, published by one rename, verified before anything is touched.

A checkpoint is written beside its final name, flushed to the disk, given a manifest with the size and sha256 of every
file, and renamed. A process killed at any moment leaves either the whole checkpoint or a folder that is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from pipeline.config import Section
from pipeline.errors import DataError

MANIFEST = "MANIFEST.json"
NAME = re.compile(r"step-(\d+)")


class CheckpointConfig(Section):
    """When the state of a run is saved, and what a new start does with it."""

    save_steps: int = Field(500, ge=1)
    """Save every so many optimizer steps; also when the run is asked to stop."""
    save_total_limit: int = Field(2, ge=1)
    """How many of the newest checkpoints stay; the best one stays besides."""
    resume: str = "auto"
    """auto: continue from the newest good checkpoint in output_dir if there is one; never: start again (an earlier
    run is moved aside, not deleted); or the folder of a checkpoint."""


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Publish one checkpoint. `tensors`: file stem -> name -> tensor. Raises OSError when the disk does not take it."""
    final = folder / f"step-{step:06d}"
    temporary = folder / f".tmp-{final.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this process's number
    temporary.mkdir(parents=True)
    try:
        for stem, named in tensors.items():
            save_file(
                {key: value.detach().contiguous().cpu() for key, value in named.items()},
                temporary / f"{stem}.safetensors",
            )
        (temporary / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))
        files = {path.name: _publishable(path) for path in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps({"format_version": 1, "step": step, "files": files}, indent=1))
        _flush(temporary / MANIFEST)
        _flush(temporary)
        if final.exists():  # the same step again, after a resume from an earlier one
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def umask() -> int:
    """The permissions this process takes away from new files; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _publishable(path: Path) -> dict[str, Any]:
    """Flush a file to the disk, make it readable by whoever the umask allows, and return its size and sha256."""
    path.chmod(0o666 & ~umask())
    _flush(path)
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint, one sentence each, by file name; empty when it can be trusted."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        return [f"{path / MANIFEST}: cannot be read ({error})"]
    found = []
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            found.append(f"{file}: is missing")
        elif file.stat().st_size != expected["size"]:
            found.append(f"{file}: has {file.stat().st_size} bytes, expected {expected['size']}")
        elif _sha256(file) != expected["sha256"]:
            found.append(f"{file}: its content has changed (sha256 differs)")
    if (match := NAME.fullmatch(path.name)) and int(match[1]) != manifest.get("step"):
        found.append(f"{path}: the manifest is that of step {manifest.get('step')}")
    return found


def steps(folder: Path) -> list[Path]:
    """The published checkpoints, oldest first, by step."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with the newer ones."""
    refused: list[str] = []
    for path in reversed(steps(folder)):
        found = problems(path)
        if not found:
            return path, refused
        refused += found
    return None, refused


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file stem and the state. Raises DataError, naming the files, unless all of it verifies."""
    found = problems(path)
    if found:
        raise DataError(found)
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / "state.json").read_text())


def rotate(folder: Path, *, keep: int, pinned: Iterable[int | None]) -> None:
    """Delete all but the newest `keep` and the pinned steps; call it only after a new checkpoint is published."""
    safe = {f"step-{step:06d}" for step in pinned if step is not None}
    for path in steps(folder)[:-keep]:
        if path.name not in safe:
            shutil.rmtree(path)
    for leftover in folder.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def set_aside_later(folder: Path, step: int) -> None:
    """A run that goes on from an earlier step leaves the later checkpoints behind, under a name that is never read."""
    for path in steps(folder):
        if int(path.name.removeprefix("step-")) > step:
            path.rename(path.with_name(f"later-{path.name}-{time.time_ns()}"))


def model_tensors(model: nn.Module, names: set[str] | None = None) -> dict[str, Tensor]:
    """Parameters (those in `names`, or all) and persistent buffers; tied weights once."""
    buffers = {key for key, _ in model.named_buffers()} & model.state_dict().keys()
    found = {key: value for key, value in model.named_parameters() if names is None or key in names}
    return {**found, **{key: value for key, value in model.named_buffers() if key in buffers}}


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into a model that has them all, with the same shapes; anything else is an error by name."""
    own = model_tensors(model)
    unknown = [key for key in tensors if key not in own or own[key].shape != tensors[key].shape]
    if unknown:
        raise DataError(
            f"the checkpoint has tensors that are not this model's, or other shapes: {', '.join(unknown[:8])}"
        )
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)


def optimizer_tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>|<key>` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value is not None:
                found[f"{names[id(parameter)]}|{key}"] = torch.as_tensor(value)
    return found


def restore_optimizer(model: nn.Module, optimizer: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the state back, through the optimizer's own loader, which moves each value where it belongs."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, field = key.rpartition("|")
        by_name.setdefault(name, {})[field] = value
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    unknown = by_name.keys() - {names[id(parameter)] for parameter in flat}
    if unknown:
        raise DataError(
            f"the checkpoint has optimizer state of parameters that stand still here: {sorted(unknown)[:8]}"
        )
    state = optimizer.state_dict()
    state["state"] = {
        index: by_name[names[id(parameter)]] for index, parameter in enumerate(flat) if names[id(parameter)] in by_name
    }
    optimizer.load_state_dict(state)
