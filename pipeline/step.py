"""One optimizer step over a global batch: the only place that divides, and where a bad step is caught."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from pipeline import out_of_memory
from pipeline.across_rows import whole_batch
from pipeline.errors import UserError
from pipeline.evaluation import to_device
from pipeline.feed import Portion
from pipeline.guard import is_finite, is_spike
from pipeline.training import Training


class OutOfMemory(RuntimeError):
    """One process has run out of memory where the others cannot be asked to begin again."""


@dataclass(frozen=True)
class Outcome:
    """What a step did, the same on all processes."""

    portion: Portion
    loss: float
    """Summed over its terms, over all processes."""
    terms: int
    norm: float
    """Of the gradient, before it was scaled down."""
    verdict: Literal["taken", "empty", "overflow", "not finite", "spike"]
    """Only `taken` has changed the weights."""
    stop: bool
    """Some process was asked to stop."""


def take_step(training: Training) -> Outcome:
    """Forward, backward and update of the step that the state stands at; nothing moves unless all processes agree.

    Every micro-batch's summed loss is divided by the number of terms of the whole global batch. A step that does not
    fit in memory is done again in smaller micro-batches, from the same weights and random numbers.
    """
    state, processes = training.state, training.processes
    for strategy in training.strategies:
        strategy.at_step(training.model, state.step)
    while True:
        portion = training.feed.take(state.step, training.micro_batch_size, last_step=training.total_steps)
        own = sum(
            training.task.terms(batch)
            for batch, part in zip(portion.batches, portion.parts, strict=True)
            if part.counts
        )
        terms = int(processes.total(own)[0])
        apart = _is_watched(training, portion)
        loss, fits = _attempt(training, portion, max(1, terms), apart=apart)
        loss, unfit, stop = processes.total(loss, not fits, training.stop())
        if not unfit:
            break
        _halve(training, portion)
    if apart:
        processes.average_gradients(training.model)
        if training.optimizer.state:  # its memory is taken at the first update, so what fitted before proves nothing
            training.largest_micro_batch = max(training.largest_micro_batch, portion.largest)
    norm = _gradient_norm(training)
    verdict = _judge(training, loss / max(1, terms), norm, terms)
    if verdict == "taken":
        multiplier = training.learning_rate_at(state.step)
        for group in training.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        training.optimizer.step()
        processes.share_buffers(training.buffers)
    elif verdict == "overflow":
        training.optimizer.step()  # the scaler leaves the weights alone and lowers its scale
    elif training.accelerator.scaler is not None:
        training.accelerator.scaler.update()  # else it would refuse to look at the next step's gradients
    training.optimizer.zero_grad(set_to_none=True)
    return Outcome(portion, loss, terms, norm, verdict, stop > 0)


def _is_watched(training: Training, portion: Portion) -> bool:
    """Whether gradients travel after backward and not within it, where a process that runs out of memory would leave
    the others waiting. On a GPU that costs time, so there it is done only for micro-batches larger than any that has
    fitted; a processor cannot compute and send at once anyway."""
    if training.processes.count == 1 or isinstance(training.model, FSDPModule):
        return False
    on_processor = training.accelerator.device.type == "cpu"
    return on_processor or portion.largest > training.largest_micro_batch


def _attempt(training: Training, portion: Portion, terms: int, *, apart: bool) -> tuple[float, bool]:
    """This process's summed loss with gradients accumulated, and whether it fitted in memory."""
    _seed(training)
    try:
        return _backward(training, portion, terms, apart=apart), True
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory.is_out_of_memory(error):
            raise
        if training.processes.count > 1 and not apart:  # the others wait within backward and cannot be asked
            raise OutOfMemory(_too_large(training, portion)) from error
    training.optimizer.zero_grad(set_to_none=True)
    out_of_memory.release()
    return 0.0, False


def _halve(training: Training, portion: Portion) -> None:
    """Smaller micro-batches from here on, for this step too. The global batch, and so the update, stays the same."""
    training.optimizer.zero_grad(set_to_none=True)
    if portion.most_rows == 1:
        raise UserError(_too_large(training, portion))
    training.state.micro_batch_limit = portion.most_rows // 2
    training.log(
        {
            "event": "out_of_memory",
            "step": training.state.step,
            "micro_batch_size": portion.most_rows // 2,
            "was": portion.most_rows,
        }
    )


def _too_large(training: Training, portion: Portion) -> str:
    place = f"step {training.state.step + 1}: out of memory with {portion.most_rows} rows at once"
    if portion.most_rows == 1:
        return f"{place}; {out_of_memory.ADVICE}"
    return f"{place}; run the same command with --train.micro_batch_size {portion.most_rows // 2} to go on"


def _backward(training: Training, portion: Portion, terms: int, *, apart: bool) -> float:
    """Accumulate the gradient of the mean over all terms."""
    accelerator, model = training.accelerator, training.model
    # data-parallel wrappers average over processes, and a mean over terms is a sum over processes
    scale = accelerator.num_processes / terms
    total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    whole = whole_batch(training, portion, lambda: _seed(training))
    for number, (batch, part) in enumerate(zip(portion.batches, portion.parts, strict=True)):
        last = number == len(portion.batches) - 1
        # gradients of copies travel once per step; those of shares must be spread at once
        with nullcontext() if last and not apart else accelerator.no_sync(model):
            with accelerator.autocast():
                inputs = to_device(batch, accelerator.device)
                loss = whole.stand_in(training, inputs, number) if whole else training.task.loss(model, inputs)[0]
            loss = loss if part.counts else loss * 0.0
            total += loss.detach().double()
            objective = loss * scale
            if last:
                for penalty in _penalties(training):
                    objective = objective + penalty
            accelerator.backward(objective)
    return whole.loss if whole else float(total)


def _penalties(training: Training) -> Iterable[Tensor]:
    terms = (strategy.penalty(training.model) for strategy in training.strategies)
    return (term for term in terms if term is not None)


def _gradient_norm(training: Training) -> float:
    moving = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    norm = training.accelerator.clip_grad_norm_(moving, training.config.max_grad_norm or float("inf"))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)  # sharded gradients: all processes' share


def _judge(
    training: Training, loss: float, norm: float, terms: int
) -> Literal["taken", "empty", "overflow", "not finite", "spike"]:
    """Whether the step may reach the weights; from sums over all processes, so that all judge alike."""
    scaler = training.accelerator.scaler
    if not is_finite(loss, norm):
        overflow = scaler is not None and is_finite(loss, 0.0) and scaler.get_scale() > 1.0
        return "overflow" if overflow else "not finite"
    if not terms:
        return "empty"
    return "spike" if is_spike(training.guard, training.state.recent, loss, norm) else "taken"


def _seed(training: Training) -> None:
    """Dropout from (seed, step, process): any step can be replayed alone, with no generator state to save."""
    key = f"dropout {training.config.seed} {training.state.step} {training.processes.rank}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
