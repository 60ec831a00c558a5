"""Score a model on a split: exact over any number of processes, with memory that grows by a few numbers per row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad

from pipeline import out_of_memory
from pipeline.bootstrap import columns_of, numbers
from pipeline.config import Section
from pipeline.data.batching import draws
from pipeline.errors import ConfigError, UserError
from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.tasks.base import Task

Part = dict[str, Tensor]
Forward = Callable[[np.ndarray], tuple[Part, float, int]]
"""Row numbers -> columns of these rows (with their numbers as `row`), their summed loss, and how many terms it has."""
LOWER_IS_BETTER = {"loss", "perplexity", "bits_per_byte", "mse", "mae"}


class EvalConfig(Section):
    """When to evaluate, and what the best model is."""

    eval_steps: int | None = Field(None, ge=1)
    """Evaluate every so many optimizer steps; unset: at the end of each epoch. Always once at the end."""
    eval_batch_size: int | None = Field(None, ge=1)
    """Rows per process in one forward pass; unset: the training micro-batch."""
    metrics: list[str] = []
    """Metrics beside the task's own: a name, `./my_metric.py`, or `hub:user/name` (with `@revision`)."""
    metric_for_best_model: str | None = None
    """unset: the task's main metric."""
    greater_is_better: bool | None = None
    """unset: known for the metrics graft ships; a metric of your own counts as greater is better."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after so many evaluations without an improvement."""
    load_best_model_at_end: bool = True
    """Save the best evaluated weights rather than the last ones."""
    bootstrap: int = Field(0, ge=0)
    """Draw the rows anew so many times (1000, say) for 95 % intervals of the final metrics; 0: no intervals."""

    def problems(self) -> list[str]:
        """What makes no sense in any combination."""
        if 0 < self.bootstrap < 100:
            return ["eval.bootstrap: fewer than 100 draws say nothing of the ends; expected 0 (off), or 1000, say"]
        return []

    def better(self, metric: str, new: float, old: float | None) -> bool:
        """Whether a value improves on the best so far; what is not finite never does, a tie keeps the old one."""
        if not math.isfinite(new):
            return False
        return old is None or (new > old if self.is_greater_better(metric) else new < old)

    def is_greater_better(self, metric: str) -> bool:
        """The direction of a metric."""
        return self.greater_is_better if self.greater_is_better is not None else metric not in LOWER_IS_BETTER


def load_metrics(names: Sequence[str]) -> dict[str, Any]:
    """`evaluate` metrics by name. The import costs seconds, so it waits until something is evaluated."""
    from pipeline.metrics import load_metric

    return {name: load_metric(name) for name in names}


def reported_names(metric: Any) -> tuple[str, ...] | None:
    """The names under which a metric reports its numbers; None for one of the user's own, which may use any."""
    from pipeline.metrics import LocalMetric

    return (metric.reported or (metric.name,)) if isinstance(metric, LocalMetric) else None


def refuse_misfits(own: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """ConfigError for metrics of graft that take other columns than the task's own do; the user's may take any."""
    from pipeline.metrics import LocalMetric

    given: dict[str, Any] = {}
    for metric in own.values():
        given |= metric.inputs if isinstance(metric, LocalMetric) else {}
    problems = [
        f"metric: {name} is for {_described(metric.inputs)}, and this task gives {_described(given)}"
        for name, metric in asked.items()
        if isinstance(metric, LocalMetric) and not metric.inputs.items() <= given.items()
    ]
    if problems:
        raise ConfigError(problems)


def unscorable(metric: Any, references: Sequence[Any]) -> dict[int, str]:
    """See `LocalMetric.unscorable`; of a metric of the user's own nothing is known, nor of one of other columns."""
    from pipeline.metrics import LocalMetric

    return metric.unscorable(references) if isinstance(metric, LocalMetric) else {}


def _described(inputs: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in inputs.items())


def metric_settings(metrics: Mapping[str, Any]) -> dict[str, str]:
    """How exactly the metrics score that others compute in other ways: their signatures, by the metric's name."""
    from pipeline.metrics import LocalMetric

    ours = {name: metric.signature for name, metric in metrics.items() if isinstance(metric, LocalMetric)}
    return {name: signature for name, signature in ours.items() if signature is not None}


def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Any,
    metrics: dict[str, Any],
    *,
    rows: Any,
    processes: Processes,
    batch_size: int,
    seed: int,
    stop: StopRequest,
    tune: bool = False,
    look: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Mean loss per term, the metrics over all examples, and `num_samples`, how many those are.

    Every process gets the same result. `dataset` holds the encoded split, `rows` the rows it was made from. With
    `tune` the task may choose on these rows what it applies to outputs. `look` gets the columns that the metrics take.

    Rows are sorted by length and dealt out to the processes; what a metric needs comes back as a few numbers per row
    with its row number, so that nothing is counted twice and the order never depends on the number of processes.
    Raises Stopped, on all processes, when one of them was asked to stop.
    """
    found, (loss, terms) = over_rows(
        model,
        dataset,
        lambda rows: _forward(model, task, dataset, rows, processes.accelerator, seed),
        processes=processes,
        batch_size=batch_size,
        stop=stop,
    )
    if tune:
        task.tune(found)
    columns = task.examples(found, rows, dataset)
    if task.across_rows:  # what a batch says of its own rows depends on where the split was cut
        loss = float(np.sum(columns["loss"]))
    result = {"loss": loss / terms}
    for name, metric in metrics.items():
        result.update(_compute(name, metric, columns))
    if look is not None:
        look(columns)
    return {**result, "num_samples": len(next(iter(columns.values())))}


def over_rows(
    model: nn.Module, dataset: Any, forward: Forward, *, processes: Processes, batch_size: int, stop: StopRequest
) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """`forward` over all rows without dropout or gradients: its columns in row order, and its loss and terms summed.

    Every process does its share and gets the whole. Raises Stopped, on all of them, when one was asked to stop.
    """
    order = np.argsort(np.asarray(dataset["length"]), kind="stable")[::-1]
    mine = order[processes.rank :: processes.count]
    was_training = model.training
    model.eval()
    with without_gradients(model):
        rounds = _together if isinstance(model, FSDPModule) else _alone
        parts, total = rounds(forward, Share(order, mine, batch_size, processes, stop))
    model.train(was_training)
    loss, terms, stopped = processes.total(*total, stop())
    if stopped:
        raise stop.stopped()
    return _gather(parts, processes), (loss, terms)


def without_gradients(model: nn.Module) -> AbstractContextManager[Any]:
    """Forward passes alone; sharded weights are gathered into buffers that inference mode would not let them reuse."""
    return torch.no_grad() if isinstance(model, FSDPModule) else torch.inference_mode()


@dataclass(frozen=True)
class Share:
    """The rows of one process in an evaluation."""

    order: np.ndarray
    """All rows of the split."""
    mine: np.ndarray
    batch_size: int
    processes: Processes
    stop: StopRequest


def _alone(forward: Forward, share: Share) -> tuple[list[Part], list[float]]:
    """Every process goes through its own rows; a batch that does not fit in memory is done again in halves."""
    parts: list[Part] = []
    total, size, first = [0.0, 0.0], share.batch_size, 0
    while first < len(share.mine) and not share.stop():
        try:
            part, loss, terms = forward(share.mine[first : first + size])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory.is_out_of_memory(error) or size == 1:
                raise
            fits = False
        else:
            fits = True
        if not fits:  # outside of the handler, which holds on to the memory
            out_of_memory.release()
            size //= 2
            continue
        parts.append(_on_the_processor(part))
        total = [total[0] + loss, total[1] + terms]
        first += size
    return parts or [_on_the_processor(_none_of(forward(share.order[:1])[0]))], total


def _together(forward: Forward, share: Share) -> tuple[list[Part], list[float]]:
    """Forward passes over sharded weights are the work of all processes: one out of rows repeats a row for nothing."""
    parts, total = [], [0.0, 0.0]
    for number in range(-(-len(share.order) // (share.processes.count * share.batch_size))):
        if share.processes.total(share.stop())[0]:
            break
        rows = share.mine[number * share.batch_size : (number + 1) * share.batch_size]
        part, loss, terms = forward(rows if len(rows) else share.order[:1])
        parts.append(_on_the_processor(part if len(rows) else _none_of(part)))
        if len(rows):
            total = [total[0] + loss, total[1] + terms]
    return parts, total


def _on_the_processor(part: Part) -> Part:
    """Columns that are kept, copied: they take no memory of the device, and a view would keep what it is a view of."""
    return {key: value.to("cpu", copy=True) for key, value in part.items()}


def _none_of(part: Part) -> Part:
    """The columns of a process that has no row."""
    return {key: value[:0] for key, value in part.items()}


def _forward(
    model: nn.Module, task: Task, dataset: Any, rows: np.ndarray, accelerator: Accelerator, seed: int
) -> tuple[Part, float, int]:
    """What the metrics need of some rows, with the loss summed over its terms, and their number."""
    batch = to_device(collate(task, dataset, rows, seed=seed, epoch=0), accelerator.device)
    with accelerator.autocast():
        loss, logits = task.loss(model, batch)
        found = {**task.postprocess(logits, batch), **task.generate(model, batch)}
    return {**found, "row": torch.as_tensor(rows.copy())}, float(loss), task.terms(batch)


def collate(
    task: Task, dataset: Any, rows: np.ndarray, *, seed: int, epoch: int, training: bool = False
) -> dict[str, Tensor]:
    """Rows of a split to one batch of tensors; what is drawn depends on (seed, epoch, row) alone."""
    features, generators = [dataset[int(row)] for row in rows], draws(rows, seed=seed, epoch=epoch)
    if training:
        features = [task.augment(feature, draw) for feature, draw in zip(features, generators, strict=True)]
    return task.collate(features, generators)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch where the model is."""
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def _gather(parts: list[Part], processes: Processes) -> dict[str, np.ndarray]:
    """All rows of all processes in row order. Plain tensors on the wire: nothing is pickled."""
    everyone = processes.in_row_order({key: joined([part[key] for part in parts]) for key in parts[0]})
    return {key: value.numpy() for key, value in everyone.items() if key != "row"}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts below each other, with -1 behind the end of rows that are narrower than the widest."""
    widest = max(part.shape[-1] for part in parts)
    return torch.cat([pad(part, (0, widest - part.shape[-1]), value=-1) if part.ndim > 1 else part for part in parts])


def _compute(name: str, metric: Any, columns: dict[str, Any]) -> dict[str, float]:
    taken = columns_of(metric)
    missing = [key for key in taken if key not in columns]
    if missing:
        raise ConfigError(f"eval.metrics: {name} needs {', '.join(taken)}, and this task gives {', '.join(columns)}")
    try:
        return numbers(metric.compute(**{key: columns[key] for key in taken}))
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # texts for numbers, lists for single values
        raise ConfigError(f"eval.metrics: {name} does not fit what this task gives ({error})") from error
