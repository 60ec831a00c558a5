"""What the start model says about every row, kept beside the rows, so that no second model is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.evaluation import Part, collate, over_rows, to_device
from pipeline.export import is_adapter
from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.tasks import Task


def add_reference(
    splits: dict[str, Any],
    model: nn.Module,
    task: Task,
    *,
    processes: Processes,
    batch_size: int,
    seed: int,
    stop: StopRequest,
) -> None:
    """Add the columns of `task.reference` to every split, in place; nothing to do for a task without a reference.

    `model` must still have the start's weights; adapters are switched off meanwhile, and so is dropout. Every process
    works through its share of the rows and gets the columns of all. Raises Stopped when asked to stop.
    """
    if type(task).reference is Task.reference:
        return
    with without_adapter(model):
        for split, dataset in splits.items():
            forward = partial(_forward, model, task, dataset, processes.accelerator, seed)
            columns, _ = over_rows(model, dataset, forward, processes=processes, batch_size=batch_size, stop=stop)
            for name, values in columns.items():
                # without a fingerprint of its own the dataset would hash every byte
                dataset = dataset.add_column(name=name, column=values, new_fingerprint=f"{split}-{name}")
            splits[split] = dataset


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """The model under its adapters; afterwards what moved before moves again, and nothing else.

    PEFT would let all adapters move when it switches them on, also those that a rule has frozen.
    """
    if not is_adapter(model):
        yield
        return
    moving = [parameter.requires_grad for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, moves in zip(model.parameters(), moving, strict=True):
            parameter.requires_grad_(moves)


def _forward(
    model: nn.Module, task: Task, dataset: Any, accelerator: Accelerator, seed: int, rows: np.ndarray
) -> tuple[Part, float, int]:
    batch = to_device(collate(task, dataset, rows, seed=seed, epoch=0), accelerator.device)
    with accelerator.autocast():
        found = task.reference(model, batch)
    return {**found, "row": torch.as_tensor(rows.copy())}, 0.0, 0
