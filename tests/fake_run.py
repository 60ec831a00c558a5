"""Run folders made from plain dicts, as a finished run leaves them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

HOSTILE = "a|b`c`<script>x</script>[l](http://e) \x1b[31mred\x1b[0m $5$ *b*\nnext \u202elatin"
"""Text that would break a table, a page, a figure or a terminal."""


def fake_run(
    folder: Path,
    *,
    steps: int = 80,
    start: float = 2.6,
    end: float = 2.2,
    trainable: int = 40_900,
    total: int = 599_000,
    seconds: float = 21.0,
    strategies: tuple[str, ...] = ("lora",),
    results: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    test: bool = False,
) -> Path:
    """A causal language model whose bits per byte fall from `start` to `end`; `results` and `manifest` replace keys."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(folder.name))
    nats_per_token = 2.9

    def scores(step: int) -> dict[str, float]:
        level = end + (start - end) * math.exp(-4 * step / max(steps, 1)) if steps else start
        return {
            "loss": level * nats_per_token * math.log(2),
            "perplexity": math.exp(level * nats_per_token * math.log(2)),
            "bits_per_byte": level,
            "token_accuracy": 0.9 - 0.25 * level,
        }

    events: list[dict[str, Any]] = []
    for step in range(steps + 1):
        if step:
            loss = scores(step)["loss"] + draw.normal(0, 0.15)
            events.append({"event": "train", "step": step, "epoch": step / steps, "loss": loss, "learning_rate": 3e-4})
        if step % max(1, steps // 8) == 0:
            row = {"event": "evaluate", "split": "validation", "step": step, **scores(step), "num_samples": 300}
            events.append(row)
    metrics = {"validation": scores(steps)} | ({"test": scores(steps)} if test else {})
    write(folder / "metrics.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    base_results = {
        "task": "causal_lm",
        "purpose": "goes on writing where a text ends",
        "model_class": "AutoModelForCausalLM",
        "pipeline_tag": "text-generation",
        "start": "checkpoint",
        "strategies": list(strategies),
        "name": folder.name,
        "steps": steps,
        "epochs": 2.0,
        "tokens": steps * 1024,
        "best_step": steps,
        "parameters": {"total": total, "trainable": trainable, "trainable_percent": 100 * trainable / total},
        "metrics": metrics,
        "main_metric": "loss",
        "greater_is_better": False,
        "num_samples": {"validation": 300},
    }
    write(folder / "results.json", json.dumps(base_results | (results or {})))
    base_manifest = {
        "graft_version": "0.1.0",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "python": "3.11.7",
        "platform": "Linux-x86_64",
        "cpu": "a processor",
        "device": "cpu",
        "world_size": 1,
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "command": "graft train config.yaml",
        "model": {"name": "acme/tiny-llama", "revision": None},
        "data": {
            "train": {"rows": 309, "fingerprint": "a" * 64},
            "validation": {"rows": 300, "fingerprint": "b" * 64},
            "test": {"rows": 300, "fingerprint": "c" * 64},
        },
        "started": "2026-11-22T20:00:00+00:00",
        "cost": {
            "train_seconds": seconds,
            "evaluation_seconds": 3.0,
            "samples_per_second": 29.4,
            "tokens_per_second": 4000.0,
            "peak_memory_bytes": 812 * 2**20,
            "model_size_bytes": 4 * trainable,
        },
        "status": "finished",
    }
    write(folder / "manifest.json", json.dumps(base_manifest | (manifest or {})))
    write(folder / "config.yaml", "task: causal_lm\n")
    (folder / "model").mkdir(exist_ok=True)
    if "lora" in strategies:
        write(folder / "model" / "adapter_config.json", "{}")
    return folder


def four_ways(root: Path) -> dict[str, Path]:
    """The untouched model, one from scratch, and three ways to adapt it."""
    total = 558_000
    return {
        "zero": fake_run(root / "zero", steps=0, start=2.59, trainable=0, total=total, seconds=0.0, strategies=()),
        "scratch": fake_run(
            root / "scratch", start=3.72, end=2.54, trainable=total, total=total, seconds=22.0, strategies=()
        ),
        "full": fake_run(
            root / "full", start=2.59, end=2.12, trainable=total, total=total, seconds=20.6, strategies=()
        ),
        "freeze": fake_run(
            root / "freeze", start=2.59, end=2.17, trainable=213_000, total=total, seconds=8.4, strategies=("freeze",)
        ),
        "lora": fake_run(root / "lora", start=2.59, end=2.19, trainable=40_900, total=total + 40_900, seconds=15.2),
    }


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
