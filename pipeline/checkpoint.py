"""Checkpoints: safetensors and JSON, published by one rename, verified before anything is touched.

A checkpoint is written beside its final name, flushed to the disk, given a manifest with the size and sha256 of every
file, and renamed. A process killed at any moment leaves either the whole checkpoint or a folder that is never read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor

from pipeline.config import Section
from pipeline.errors import DataError
from pipeline.processes import Processes
from pipeline.shards import Saved, write

MANIFEST = "MANIFEST.json"
STATE = "state.json"
PINNED = "PINNED"
"""A file of this name keeps a checkpoint from being rotated away: `touch .../step-000500/PINNED`."""
NAME = re.compile(r"step-\d+")
VERSION = 2
FULL = ("os error 28", "os error 122", "os error 27", "No space left")
"""What a full disk, a used-up quota or a limit on file sizes is called by those who write."""


class CheckpointConfig(Section):
    """When the state of a run is saved, and what a new start does with it."""

    save_steps: int = Field(500, ge=1)
    """Save every so many optimizer steps; also when the run is asked to stop."""
    save_total_limit: int = Field(2, ge=1)
    """How many of the newest checkpoints stay; the best one and pinned ones (a file PINNED inside) stay besides."""
    resume: str = "auto"
    """auto: continue from the newest good checkpoint in output_dir if there is one; never: start again (an earlier
    run is moved aside, not deleted); or the folder of a checkpoint."""


class SaveFailed(Exception):
    """A checkpoint could not be written; the earlier ones are as they were."""


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    processes: Processes,
) -> Path:
    """Publish one checkpoint. `tensors`: what it is -> name -> tensor, of which sharded ones hold this process's share.

    All processes call it. Raises SaveFailed, on all of them, when one could not write its part.
    """
    final = path_of(folder, step)
    temporary = folder / f".tmp-{final.name}"
    try:
        _together(processes, lambda: _begin(temporary, tensors) if processes.is_main else None)
        written = _together(processes, lambda: _write(temporary, tensors, processes))
        manifest = {"format_version": VERSION, "step": step, "files": written}
        _together(processes, lambda: _publish(temporary, final, manifest, state) if processes.is_main else None)
    finally:
        if processes.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step of a published checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def _together(processes: Processes, work: Any) -> dict[str, Any]:
    """Every process does its part; what they return is merged. Raises SaveFailed everywhere when one could not."""
    try:
        said = {"files": work() or {}}
    except (OSError, SafetensorError) as error:
        said = {"problem": why(error)}
    everyone = [json.loads(text) for text in processes.share(json.dumps(said))]
    for rank, found in enumerate(everyone):
        if "problem" in found:
            raise SaveFailed(found["problem"] if rank == 0 else f"{found['problem']} (process {rank})")
    return {name: entry for found in everyone for name, entry in found["files"].items()}


def is_full(error: Exception) -> bool:
    """Whether an error in writing says that the disk is full, or a quota used up."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(word in str(error) for word in FULL)


def why(error: Exception) -> str:
    """The reason in the words people look for."""
    text = " ".join(str(error).split())
    return f"disk full ({text})" if is_full(error) else text


def _begin(temporary: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    for leftover in temporary.parent.glob(".tmp-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    needed = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    free = shutil.disk_usage(temporary).free
    if free < needed:  # better said before than found out after writing most of it
        raise OSError(errno.ENOSPC, f"the checkpoint needs {needed:,} bytes and {free:,} are free")


def _write(temporary: Path, tensors: Mapping[str, Mapping[str, Tensor]], processes: Processes) -> dict[str, Any]:
    """This process's files, flushed, with size and sha256."""
    if not temporary.is_dir():
        raise OSError(f"{temporary.parent} is not seen by all processes; output_dir must be on a shared file system")
    written = [write(temporary, stem, named, processes.rank, processes.count) for stem, named in tensors.items()]
    return {path.name: _publishable(path) for path in written if path is not None}


def _publish(temporary: Path, final: Path, manifest: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    (temporary / STATE).write_text(json.dumps(state, indent=1))
    files = {**manifest["files"], STATE: _publishable(temporary / STATE)}
    manifest = {**manifest, "files": dict(sorted(files.items()))}
    (temporary / MANIFEST).write_text(json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1))
    _flush(temporary / MANIFEST)
    _flush(temporary)
    set_aside(final, "replaced")  # the same step again: a leftover that did not verify
    temporary.rename(final)
    _flush(final.parent)


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


def _digest(manifest: Mapping[str, Any]) -> str:
    """Of the manifest's content, so that a damaged manifest is not taken at its word."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def problems(path: Path) -> list[str]:
    """What is wrong with a checkpoint, one sentence each, by file name; empty when it can be trusted."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path / MANIFEST}: cannot be read ({error})"]
    if digest != _digest(manifest):
        return [f"{path / MANIFEST}: its content has changed (sha256 differs)"]
    if manifest["format_version"] != VERSION:
        wrote = manifest["format_version"]
        return [f"{path / MANIFEST}: has format {wrote}, and this graft reads {VERSION}; use the graft that wrote it"]
    found = []
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            found.append(f"{file}: is missing")
        elif file.stat().st_size != expected["size"]:
            found.append(f"{file}: has {file.stat().st_size} bytes, expected {expected['size']}")
        elif _sha256(file) != expected["sha256"]:
            found.append(f"{file}: its content has changed (sha256 differs)")
    if NAME.fullmatch(path.name) and step_of(path) != manifest.get("step"):
        found.append(f"{path}: the manifest is that of step {manifest.get('step')}")
    return found


def steps(folder: Path) -> list[Path]:
    """The published checkpoints, oldest first, by step."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with the newer ones."""
    refused: list[str] = []
    for path in reversed(steps(folder)):
        found = problems(path)
        if not found:
            return path, refused
        refused += found
    return None, refused


def load(path: Path) -> tuple[Saved, dict[str, Any]]:
    """The tensors, read when asked for, and the state. Raises DataError, naming the files, unless all verifies."""
    found = problems(path)
    if found:
        raise DataError(found)
    listed = json.loads((path / MANIFEST).read_text())["files"]  # a file that is not in the manifest is never read
    saved = Saved(path / name for name in listed if name.endswith(".safetensors"))
    return saved, json.loads((path / STATE).read_text())


def rotate(folder: Path, *, keep: int, pinned: Iterable[int | None]) -> None:
    """Delete all but the newest `keep` and the pinned; only when the newest verifies, so that one good one is left."""
    found = steps(folder)
    safe = {path_of(folder, step) for step in pinned if step is not None}
    gone = [path for path in found[:-keep] if path not in safe and not (path / PINNED).exists()]
    if gone and not problems(found[-1]):
        for path in gone:  # renamed first: killed in the middle of deleting, no half of it has a published name
            shutil.rmtree(path.rename(folder / f".tmp-gone-{path.name}"))


def set_aside(path: Path, why: str) -> None:
    """Give a checkpoint a name that is never read."""
    if path.exists():
        path.rename(path.with_name(f"{why}-{path.name}-{time.time_ns()}"))


def set_aside_later(folder: Path, step: int) -> None:
    """A run that goes on from an earlier step leaves the later checkpoints behind."""
    for path in steps(folder):
        if step_of(path) > step:
            set_aside(path, "later")
