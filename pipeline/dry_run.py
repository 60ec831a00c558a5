"""The plan of a run without running it: what moves, what it needs and writes, two rows as the model sees them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.data.batching import steps_per_epoch
from pipeline.data_report import describe_data, lines
from pipeline.evaluation import collate
from pipeline.models import count_parameters, free_memory, memory_estimate
from pipeline.prepare import Prepared
from pipeline.safe_text import clean
from pipeline.training import total_steps

SAMPLES = 2


def print_plan(prepared: Prepared, console: Console | None = None) -> None:
    """Print the whole plan; nothing is trained or written."""
    console = console or Console(soft_wrap=True, highlight=False)
    _sizes(prepared, console)
    _movement(prepared, console)
    _memory(prepared, console)
    _data(prepared, console)
    for note in prepared.task.notes():
        console.print(Text(clean(note)))
    _files(prepared, console)
    _samples(prepared, console)


def _sizes(prepared: Prepared, console: Console) -> None:
    config, accelerator = prepared.config, prepared.accelerator
    total, trainable = count_parameters(prepared.model)
    rows = len(prepared.splits["train"])
    steps, per_epoch = total_steps(config.train, rows), steps_per_epoch(rows, config.train.train_batch_size)
    tokens = int(np.sum(prepared.splits["train"]["length"])) * steps / per_epoch
    amount = f", about {tokens:,.0f} tokens" if prepared.task.modality == "text" else ""
    console.print(Text.assemble(("plan", "bold"), clean(f"  {config.task.name} -> {config.output_dir}")))
    console.print(f"parameters   {total:,}, of which {trainable:,} move ({100 * trainable / total:.2f} %)")
    console.print(
        f"steps        {steps:,} of {config.train.train_batch_size} rows ({steps / per_epoch:.2f} epochs of {rows:,} "
        f"rows){amount}"
    )
    console.print(
        f"hardware     {accelerator.num_processes} process(es) on {accelerator.device.type}, "
        f"mixed precision {accelerator.mixed_precision}"
    )


def _movement(prepared: Prepared, console: Console) -> None:
    """One line per distinct movement: how many parameters, at which rate, and which rule said so."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for name, parameter in prepared.model.named_parameters():
        movement = prepared.movements[name]
        groups[(movement.multiplier, movement.weight_decay, movement.reasons)].append(parameter.numel())
    table = Table("tensors", "parameters", "learning rate", "weight decay", "rule", box=None, title_justify="left")
    rate = prepared.config.optim.learning_rate
    for (multiplier, decay, reasons), sizes in groups.items():
        moves, shrinks = (f"{rate * multiplier:.3g}", f"{decay:g}") if multiplier else ("frozen", "")
        table.add_row(str(len(sizes)), f"{sum(sizes):,}", moves, shrinks, Text(clean(", ".join(reasons) or "all")))
    console.print(table)


def _memory(prepared: Prepared, console: Console) -> None:
    config = prepared.config
    whole = -(-config.train.train_batch_size // prepared.accelerator.num_processes)
    parts = memory_estimate(
        prepared.model,
        config.optim.name,
        min(config.train.micro_batch_size or whole, whole),
        prepared.task.sequence_length(prepared.splits["train"], prepared.model.config),
        prepared.accelerator.mixed_precision,
        recompute=config.train.gradient_checkpointing,
    )
    listed = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items() if name != "total")
    free = free_memory()
    verdict = "" if parts["total"] < free else "  MORE THAN IS FREE: lower train.micro_batch_size"
    console.print(f"memory       about {_gigabytes(parts['total'])} ({listed}); free {_gigabytes(free)}{verdict}")


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _data(prepared: Prepared, console: Console) -> None:
    for line in lines(describe_data(prepared.data)):
        console.print(Text(clean(line)))


def _files(prepared: Prepared, console: Console) -> None:
    names = [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "data.json",
        "results.json",
        "checkpoints/",
        "model/",
        "curves.png",
        "README.md",
    ]
    folder = Path(prepared.config.output_dir)
    console.print(Text(clean(f"will write   {', '.join(str(folder / name) for name in names)}")))
    hub = prepared.config.hub
    if hub.push_to_hub:
        kind = "private" if hub.hub_private_repo else "public"
        console.print(Text(clean(f"will push    to {hub.hub_model_id}, {kind} when it is new")))


def _samples(prepared: Prepared, console: Console) -> None:
    """Two rows piece by piece: bold green is learned, grey is only read."""
    task = prepared.task
    rows = np.arange(min(SAMPLES, len(prepared.splits["train"])))
    batch = collate(task, prepared.splits["train"], rows, seed=prepared.config.train.seed, epoch=0)
    for row in range(len(rows)):
        text = Text(f"row {row + 1}: ", style="bold")
        for piece, learned in task.show(batch, row):
            piece = f"[{piece}]" if learned and not console.is_terminal else piece
            text.append(clean(piece), style="bold green" if learned else "dim")
        console.print(text)
    console.print("(green, or in brackets: what is learned)", style="dim", highlight=False, markup=False)
