"""What a model writes after a few fixed prompts, at every evaluation: to be read, not to be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pipeline.processes import Processes
from pipeline.tasks import Task


def log_samples(
    model: nn.Module,
    task: Task,
    processes: Processes,
    log: Callable[[Mapping[str, Any]], None],
    *,
    step: int,
    split: str | None = None,
) -> None:
    """One event per prompt of the task's settings, beside the scores of a split or alone. All processes call it; the
    main process writes."""
    if not task.has_samples:
        return
    event = {"event": "sample", **({"split": split} if split else {}), "step": step}
    processes.on_main(lambda: _write(model, task, processes, log, event))


def _write(
    model: nn.Module,
    task: Task,
    processes: Processes,
    log: Callable[[Mapping[str, Any]], None],
    event: Mapping[str, Any],
) -> None:
    was_training = model.training
    model.eval()
    with torch.inference_mode(), processes.accelerator.autocast():
        found = task.samples(model)
    model.train(was_training)
    for prompt, text in found:
        log({**event, "prompt": prompt, "text": text})
