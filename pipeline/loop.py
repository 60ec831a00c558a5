"""The loop: epochs, windows, steps. It names no task and no strategy."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn, optim

from pipeline.config import Section
from pipeline.data.batching import MicroBatch, micro_batches, plan, steps_per_epoch
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation import EvalConfig, collate, to_device
from pipeline.strategies import Strategy
from pipeline.tasks import Task

MOST_SKIPS_IN_A_ROW = 3


class TrainConfig(Section):
    """How long, in what portions, with what precision."""

    num_train_epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=0)
    """Optimizer steps; wins over num_train_epochs. 0 evaluates the start model and trains nothing."""
    train_batch_size: int = Field(32, ge=1)
    """Rows per optimizer step over all processes: what the optimizer sees."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per process that go through the model at once: only what fits in memory; no effect on the update."""
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """group_by_length lets rows of similar length meet: less padding, other batches."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies it, else full precision."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    seed: int = Field(0, ge=0)
    logging_steps: int = Field(10, ge=1)


@dataclass
class TrainState:
    """All that a run knows besides weights and optimizer state; JSON in every checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    window_loss: float = 0.0
    window_terms: int = 0
    skipped: list[int] = field(default_factory=list)
    best_metric: float | None = None
    best_step: int | None = None
    best_results: dict[str, float] = field(default_factory=dict)
    last_results: dict[str, float] = field(default_factory=dict)
    evaluations_without_improvement: int = 0
    last_evaluated_step: int | None = None
    stopped_early: bool = False

    as_dict = asdict

    def forget_best(self) -> None:
        """Start to look for the best model anew."""
        self.best_metric = self.best_step = self.last_evaluated_step = None
        self.best_results, self.evaluations_without_improvement = {}, 0


@dataclass
class Training:
    """Everything a step needs, and what the loop calls around the steps."""

    accelerator: Accelerator
    model: nn.Module
    task: Task
    strategies: Sequence[Strategy]
    dataset: Any
    optimizer: optim.Optimizer
    learning_rate_at: Callable[[int], float]
    """Optimizer step, counted from 0 -> multiplier of every group's rate."""
    config: TrainConfig
    eval_config: EvalConfig
    total_steps: int
    steps_per_epoch: int
    save_steps: int
    main_metric: str
    evaluate: Callable[[int], dict[str, float]] | None
    save: Callable[[TrainState], None]
    log: Callable[[dict[str, Any]], None]
    advance: Callable[[int], None]
    stop_asked: Callable[[], bool]
    state: TrainState = field(default_factory=TrainState)

    def __post_init__(self) -> None:
        self.lengths = np.asarray(self.dataset["length"])
        processes = self.accelerator.num_processes
        whole = -(-self.config.train_batch_size // processes)
        self.micro_batch_size = min(self.config.micro_batch_size or whole, whole)


class Stopped(Exception):
    """The run was asked to stop and has saved its state."""

    exit_code = 143


def total_steps(config: TrainConfig, num_rows: int) -> int:
    """Optimizer steps of the whole run."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.num_train_epochs * steps_per_epoch(num_rows, config.train_batch_size))


def fit(training: Training) -> TrainState:
    """Train until the last step, the last patience, or the first request to stop (then raises Stopped)."""
    state, config = training.state, training.config
    batches: list[np.ndarray] = []
    planned_epoch = -1
    began = time.monotonic()
    training.model.train()
    while state.step < training.total_steps and not state.stopped_early:
        epoch, position = divmod(state.step, training.steps_per_epoch)
        if epoch != planned_epoch:
            batches, planned_epoch = _plan(training, epoch), epoch
        loss, terms, norm = _step(training, batches[position], epoch)
        finite = math.isfinite(loss) and math.isfinite(norm)
        state.step += 1
        state.samples += len(batches[position])
        state.tokens += int(training.lengths[batches[position]].sum())
        if finite:
            state.window_loss += loss
            state.window_terms += terms
        else:
            _skip(training, batches[position], loss, norm)
        training.advance(state.step)
        last = state.step == training.total_steps
        if state.step % config.logging_steps == 0 or last:
            _log(training, norm, time.monotonic() - began)
        due = state.step % (training.eval_config.eval_steps or training.steps_per_epoch) == 0
        improved = due and _evaluate(training)
        stop = _total(training, float(training.stop_asked())) > 0  # one process's request counts for all
        if stop or not last and (improved or state.step % training.save_steps == 0):
            training.save(state)
        if stop:
            raise Stopped
    _evaluate(training)
    return state


def _plan(training: Training, epoch: int) -> list[np.ndarray]:
    config = training.config
    return plan(
        training.lengths,
        seed=config.seed,
        epoch=epoch,
        train_batch_size=config.train_batch_size,
        group_by_length=config.train_sampling_strategy == "group_by_length",
    )


def _step(training: Training, rows: np.ndarray, epoch: int) -> tuple[float, int, float]:
    """One optimizer step over a global batch: (loss summed over its terms, terms, gradient norm), over all processes.

    The only place that divides: every micro-batch's summed loss by the number of terms of the whole global batch.
    """
    accelerator, model, state = training.accelerator, training.model, training.state
    _seed(training, state.step)
    shares = micro_batches(
        rows, training.lengths, world_size=accelerator.num_processes, micro_batch_size=training.micro_batch_size
    )
    mine = shares[accelerator.process_index]
    task, seed = training.task, training.config.seed
    batches = [collate(task, training.dataset, part.rows, seed=seed, epoch=epoch) for part in mine]
    own = sum(task.terms(batch) for batch, part in zip(batches, mine, strict=True) if part.counts)
    terms = int(_total(training, own))
    for strategy in training.strategies:
        strategy.at_step(model, state.step)
    loss = _backward(training, batches, mine, max(1, terms))
    norm = _gradient_norm(training)
    total = _total(training, loss)
    if math.isfinite(total) and math.isfinite(norm) and terms:
        multiplier = training.learning_rate_at(state.step)
        for group in training.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        training.optimizer.step()
    elif accelerator.scaler is not None and math.isfinite(total):
        training.optimizer.step()  # fp16 overflow: the scaler leaves the weights alone and lowers its scale
    training.optimizer.zero_grad(set_to_none=True)
    return total, terms, norm


def _backward(training: Training, batches: list[dict[str, Tensor]], parts: list[MicroBatch], terms: int) -> float:
    """Accumulate the gradient of the mean over all terms; returns this process's summed loss."""
    accelerator, model = training.accelerator, training.model
    # data-parallel wrappers average over processes, and a mean over terms is a sum over processes
    scale = accelerator.num_processes / terms
    total = torch.zeros((), dtype=torch.float64)
    for number, (batch, part) in enumerate(zip(batches, parts, strict=True)):
        last = number == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):  # gradients travel once per step
            with accelerator.autocast():
                loss, _ = training.task.loss(model, to_device(batch, accelerator.device))
            loss = loss if part.counts else loss * 0.0
            total += loss.detach().double().cpu()
            objective = loss * scale
            if last:
                for penalty in _penalties(training):
                    objective = objective + penalty
            accelerator.backward(objective)
    return float(total)


def _penalties(training: Training) -> Iterable[Tensor]:
    terms = (strategy.penalty(training.model) for strategy in training.strategies)
    return (term for term in terms if term is not None)


def _gradient_norm(training: Training) -> float:
    moving = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    most = training.config.max_grad_norm or math.inf
    return float(training.accelerator.clip_grad_norm_(moving, most))


def _skip(training: Training, rows: np.ndarray, loss: float, norm: float) -> None:
    """A step whose loss or gradient is not finite never reaches the weights; too many in a row end the run."""
    state = training.state
    state.skipped.append(state.step)
    ids = ", ".join(str(int(row) + 1) for row in rows[:8])
    training.log({"event": "skipped", "step": state.step, "loss": loss, "grad_norm": norm, "rows": rows.tolist()})
    recent = state.skipped[-MOST_SKIPS_IN_A_ROW:]
    if recent == list(range(state.step - MOST_SKIPS_IN_A_ROW + 1, state.step + 1)):
        raise UserError(
            f"step {state.step}: the loss was {loss} and the gradient norm {norm}, {MOST_SKIPS_IN_A_ROW} steps in a "
            f"row (last training rows: {ids}, ...); the weights were left as they were before. A lower "
            "optim.learning_rate, longer optim.warmup_steps or mixed_precision: no usually helps"
        )


def _log(training: Training, norm: float, seconds: float) -> None:
    state = training.state
    if state.window_terms:
        training.log(
            {
                "event": "train",
                "step": state.step,
                "epoch": round(state.step / training.steps_per_epoch, 4),
                "loss": state.window_loss / state.window_terms,
                "learning_rate": training.optimizer.param_groups[0]["lr"],
                "grad_norm": norm,
                "tokens": state.tokens,
                "seconds": round(seconds, 3),
            }
        )
    state.window_loss, state.window_terms = 0.0, 0


def _evaluate(training: Training) -> bool:
    """Evaluate once per step at most and keep count of the best; True when this model is to be kept as the best."""
    state = training.state
    if training.evaluate is None or state.last_evaluated_step == state.step:
        return False
    results = training.evaluate(state.step)
    if training.main_metric not in results:
        raise ConfigError(
            f"eval.metric_for_best_model: {training.main_metric!r} was not reported; {', '.join(results)} were"
        )
    value = results[training.main_metric]
    state.last_evaluated_step, state.last_results = state.step, results
    if training.eval_config.better(training.main_metric, value, state.best_metric):
        state.best_metric, state.best_step, state.best_results = value, state.step, results
        state.evaluations_without_improvement = 0
        return training.eval_config.load_best_model_at_end
    state.evaluations_without_improvement += 1
    patience = training.eval_config.early_stopping_patience
    state.stopped_early = patience is not None and state.evaluations_without_improvement >= patience
    return False


def _seed(training: Training, step: int) -> None:
    """Dropout from (seed, step, process): any step can be replayed alone, with no generator state to save."""
    key = f"dropout {training.config.seed} {step} {training.accelerator.process_index}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))


def _total(training: Training, value: float) -> float:
    """The sum over all processes, in double precision."""
    if training.accelerator.num_processes == 1:
        return float(value)
    tensor = torch.tensor(float(value), dtype=torch.float64, device=training.accelerator.device)
    return float(training.accelerator.reduce(tensor, "sum"))
