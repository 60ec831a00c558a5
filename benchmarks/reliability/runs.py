"""Kills of whole runs: started again with the same settings until they end, they must end as undisturbed ones do."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import READY, Tell, finish, kill_after, start
from pipeline import checkpoint
from pipeline.api import run_recipe
from pipeline.data.stdlib import train_tokenizer

STEPS, EVERY = 8, (1, 2)
"""Steps of a run, and the values of save_steps that runs take in turn."""
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "looked",
    "at",
    "moon",
    "dog",
    "ran",
    "over",
    "green",
    "hill",
    "in",
    "rain",
    "good",
    "bad",
    "movies",
    "make",
    "people",
]
SMALL = {
    **{"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    **{"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
}


def prepare(work: Path) -> None:
    """Rows and a tokenizer on disk."""
    draw = random.Random(0)
    for split, count in {"train": 60, "validation": 12, "test": 12}.items():
        rows = [{"text": " ".join(draw.choices(WORDS, k=draw.randint(4, 16)))} for _ in range(count)]
        (work / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer([" ".join(WORDS)] * 4, 300, work / "tokenizer")


def settings(work: Path, name: str, every: int) -> dict[str, Any]:
    """A run of seconds: dropout, evaluation, the best model at the end, a test split, and a cache of its own."""
    return {
        "task": "causal_lm",
        "model": {"config": SMALL, "tokenizer_name_or_path": str(work / "tokenizer")},
        "data": {f"{split}_file": str(work / f"{split}.jsonl") for split in ("train", "validation", "test")}
        | {"max_length": 32, "cache_dir": str(work / f"{name}.cache")},
        "output_dir": str(work / name),
        **{"max_steps": STEPS, "train_batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-2, "seed": 3},
        **{"eval_steps": 3, "save_steps": every, "logging_steps": 1, "mixed_precision": "no", "disable_tqdm": True},
    }


class Telling(logging.Handler):
    """What a run says, to the one who kills it."""

    def __init__(self, tell: Tell):
        super().__init__()
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(" ".join(record.getMessage().split()))


def whole(given: dict[str, Any], tell: Tell) -> None:
    """A run from its first line to the card."""
    logging.getLogger("graft").addHandler(Telling(tell))
    tell(READY)
    run_recipe("pretrain", given)


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, times apart."""
    path, found = folder / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut off by a kill
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same in a run that was killed and one that was not."""
    return {
        "model": digest(folder / "model"),
        "checkpoint": digest(checkpoint.path_of(folder / "checkpoints", STEPS)),
        "results.json": (folder / "results.json").read_text(),
        "metrics.jsonl": lines_of(folder),
        "names": sorted(path.name for path in folder.iterdir()),
        "names of checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
        "status": json.loads((folder / "manifest.json").read_text())["status"],
        "card": (folder / "README.md").stat().st_size > 0,
    }


def where_it_died(folder: Path, cache: Path) -> str:
    """What the run was doing, by what it left behind."""
    if not (folder / "config.yaml").exists():
        made = len(list(cache.glob("*.arrow")))
        return "reading and tokenizing" if made < 3 else "building the model"
    if (folder / "results.json").exists():
        return "drawing curves and writing the card"
    if (folder / ".tmp-model").exists():
        return "exporting"
    if (folder / "model").exists():
        return "checking the exported model"
    if list((folder / "checkpoints").glob(".tmp-*")):
        return "saving"
    lines = lines_of(folder)
    if lines and lines[-1].get("split") == "test":
        return "after the test evaluation"
    if not lines or lines[-1]["event"] == "evaluate":
        return "training, after an evaluation or a start"
    return "training"


class Killed:
    """One run that is killed again and again; `counts` are shared by all runs."""

    def __init__(self, work: Path, name: str, every: int, counts: Counter[str], most: list[int]):
        self.folder, self.cache, self.log = work / name, work / f"{name}.cache", work / f"{name}.log"
        self.given, self.every, self.counts, self.most = settings(work, name, every), every, counts, most
        self.good = 0

    def once(self, seconds: float | None) -> bool:
        """Start it and kill it after so long, or never; False when it came to its end."""
        if seconds is None:
            child, killed = finish(lambda tell: whole(self.given, tell), self.log), False
        else:
            child = start(lambda tell: whole(self.given, tell), self.log)
            killed = kill_after(child, seconds)
            if not killed and child.status != 0:
                raise RuntimeError(f"{self.folder.name} ended with {child.status}:\n{self.log.read_text()[-3000:]}")
        said = [line for line in child.lines if line.startswith("continuing from ")]
        if said and checkpoint.step_of(Path(said[0].removeprefix("continuing from "))) < self.good:
            self.counts["went on from an earlier step than the newest"] += 1
        if self.good and any("held an earlier run" in line for line in child.lines):
            self.counts["started again in spite of a checkpoint"] += 1
        self.counts["went on from a checkpoint"] += bool(said)
        return killed

    def look(self) -> None:
        """After a kill: is the newest checkpoint good, and how many steps are to be done again."""
        good, refused = checkpoint.newest_good(self.folder / "checkpoints")
        self.counts["unusable"] += bool(refused)
        self.good = checkpoint.step_of(good) if good else 0
        done = max([line["step"] for line in lines_of(self.folder) if line["event"] == "train"], default=0)
        self.most[0] = max(self.most[0], done - self.good)
        self.counts["lost more than an interval"] += done - self.good > self.every


def kill_runs(kills: int, seed: int, work: Path) -> dict[str, Any]:
    """Kill runs at any moment of their lives so often in all, and compare each with one that was left in peace."""
    began, draw = time.monotonic(), random.Random(seed)
    finish(lambda tell: prepare(work), work / "prepare.log")
    expected, life = {}, {}
    for every in EVERY:
        started = time.monotonic()
        finish(partial(whole, settings(work, f"alone-{every}", every)), work / "alone.log")
        life[every], expected[every] = time.monotonic() - started, outcome(work / f"alone-{every}")
    died, counts, most, different, runs = Counter[str](), Counter[str](), [0], Counter[str](), 0
    differences: list[dict[str, Any]] = []
    while sum(died.values()) < kills:
        every = EVERY[runs % len(EVERY)]
        run = Killed(work, f"killed-{runs}", every, counts, most)
        while run.once(draw.uniform(0, life[every]) if sum(died.values()) < kills else None):
            died[where_it_died(run.folder, run.cache)] += 1
            run.look()
        found = outcome(run.folder)
        unlike = [key for key, value in expected[every].items() if found[key] != value]
        different.update(unlike)
        differences += [
            {"run": runs, "what": key, "expected": expected[every][key], "found": found[key]} for key in unlike
        ]
        runs += 1
        for path in work.glob(f"{run.folder.name}*"):
            if path.is_dir():
                shutil.rmtree(path)
    problems = ("unusable", "lost more than an interval", "went on from an earlier step than the newest")
    return {
        "kills": kills,
        "runs": runs,
        **{name: counts[name] for name in (*problems, "started again in spite of a checkpoint")},
        "different at the end": dict(different),
        "differences": differences,
        "most steps lost": most[0],
        "save_steps": list(EVERY),
        "went on from a checkpoint": counts["went on from a checkpoint"],
        "seconds of an undisturbed run": round(max(life.values()), 2),
        "killed while": dict(died.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }
