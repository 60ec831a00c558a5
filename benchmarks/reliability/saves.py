"""Kills within saving: a child saves without pause, and whatever it had acknowledged must be there after its end."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.reliability.children import READY, Tell, finish, kill_after, start
from pipeline import checkpoint, shards
from pipeline.accelerator import make_accelerator
from pipeline.processes import Processes

MEGABYTES = (1, 2, 4, 8, 14)
KEEP = 2
Save = Callable[[Path, int, dict[str, dict[str, Tensor]], dict[str, Any], Processes], Path]


def content(step: int, largest: int) -> dict[str, dict[str, Tensor]]:
    """The tensors of a step: 1 to `largest` MB, a third of them the model's; each value tells the step."""
    size = random.Random(step).choice([size for size in MEGABYTES if size <= largest])
    numbers = torch.arange(size * 2**18, dtype=torch.int32) * 1103 + step
    third = len(numbers) // 3
    return {
        "model": {"weight": numbers[:third].view(torch.float32)},
        "optimizer": {"weight|exp_avg": numbers[third : 2 * third], "weight|exp_avg_sq": numbers[2 * third :]},
    }


def is_that_of(path: Path, step: int, largest: int) -> bool:
    """Whether a checkpoint holds, bit by bit, the tensors of a step."""
    saved, state = checkpoint.load(path)
    return state == {"step": step} and all(
        torch.equal(saved.read(kind, name).view(torch.int32), tensor.view(torch.int32))
        for kind, named in content(step, largest).items()
        for name, tensor in named.items()
    )


def endless(folder: Path, first: int, save: Save, largest: int, tell: Tell, count: int | None = None) -> None:
    """Save one step after another, telling each when its save has returned, and how many milliseconds it took."""
    processes, step = Processes(make_accelerator()), first
    tell(READY)
    while count is None or step < first + count:
        tensors, began = content(step, largest), time.monotonic()
        save(folder, step, tensors, {"step": step}, processes)
        tell(f"{step} {1000 * (time.monotonic() - began):.2f}")
        checkpoint.rotate(folder, keep=KEEP, pinned=[])
        step += 1


def in_place(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], processes: Processes
) -> Path:
    """A planted bug: a save that writes under the final name."""
    final = checkpoint.path_of(folder, step)
    final.mkdir(parents=True, exist_ok=True)
    paths = [shards.write(final, stem, named, 0, 1) for stem, named in tensors.items()]
    (final / checkpoint.STATE).write_text(json.dumps(state))
    files = {path.name: checkpoint._publishable(path) for path in [*paths, final / checkpoint.STATE] if path}
    manifest = {"format_version": checkpoint.VERSION, "step": step, "files": files}
    (final / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    return final


def forgetful(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], processes: Processes
) -> Path:
    """A planted bug: a save that returns before there is a checkpoint, for every second step."""
    return checkpoint.save(folder, step, tensors, state, processes) if step % 2 else folder


def where_it_died(folder: Path, told: int) -> str:
    """What the child was doing, by what it left behind."""
    found = checkpoint.steps(folder)
    temporary = list(folder.glob(".tmp-*"))
    if temporary:
        inside = {path.name for path in temporary[0].iterdir()}
        if checkpoint.MANIFEST in inside:
            return "flushing the manifest, before the rename"
        return "writing and flushing tensors" if inside else "before the first byte"
    if found and any(checkpoint.problems(path) for path in found[:-1]):
        return "deleting an old checkpoint"
    if found and checkpoint.step_of(found[-1]) > told:
        return "after the rename, not acknowledged"
    return "between two saves" if len(found) <= KEEP else "before deleting an old checkpoint"


def verify(folder: Path, told: int, largest: int) -> tuple[bool, int]:
    """Whether the newest published checkpoint is whole and right, and the step of the newest good one."""
    published = checkpoint.steps(folder)
    good, refused = checkpoint.newest_good(folder)
    reached = checkpoint.step_of(good) if good else 0
    usable = not refused and (good is not None or (told == 0 and not published))
    return usable and (good is None or is_that_of(good, reached, largest)), reached


def kill_saves(kills: int, seed: int, work: Path, save: Save = checkpoint.save, largest: int = 14) -> dict[str, Any]:
    """Kill so many children within their saves. Returns counts: what was unusable, lost, left behind."""
    draw, folder, log = random.Random(seed), work / "saves", work / "saves.log"
    folder.mkdir(parents=True)
    told = finish(lambda tell: endless(folder, 1, save, largest, tell, 12), log).lines[1:]
    alone = [float(line.split()[1]) for line in told]
    reached = acknowledged = 12
    died: Counter[str] = Counter()
    counts, most_lost, took = Counter[str](), 0, list(alone)
    began = time.monotonic()
    while sum(died.values()) < kills:
        first = max(reached, acknowledged) + 1
        child = start(lambda tell, first=first: endless(folder, first, save, largest, tell), log)
        if not kill_after(child, draw.uniform(0, 1.5 * fmean(took[-30:])) / 1000, 1 + draw.choice((0, 1, 1, 2))):
            raise RuntimeError(f"a child ended by itself with {child.status}:\n{log.read_text()[-3000:]}")
        told = [line.split() for line in child.lines if line != READY]
        took += [float(milliseconds) for _, milliseconds in told]
        acknowledged = max([acknowledged, *(int(step) for step, _ in told)])
        died[where_it_died(folder, acknowledged)] += 1
        counts["half-written folders left"] += len(list(folder.glob(".tmp-*")))
        usable, reached = verify(folder, acknowledged, largest)
        counts["unusable"] += not usable
        counts["acknowledged saves lost"] += max(0, acknowledged - reached)
        most_lost = max(most_lost, acknowledged + 1 - reached)  # the one at work when it was killed
    finish(lambda tell: endless(folder, max(reached, acknowledged) + 1, save, largest, tell, KEEP), log)
    left = [path.name for path in folder.iterdir() if path not in checkpoint.steps(folder)[-KEEP:]]
    return {
        "kills": kills,
        "unusable": counts["unusable"],
        "acknowledged saves lost": counts["acknowledged saves lost"],
        "most saves lost, with the one at work": most_lost,
        "half-written folders left by kills": counts["half-written folders left"],
        "left after the next save": left,
        "mean save ms": round(fmean(took), 1),
        "saves": len(took),
        "killed while": dict(died.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }
