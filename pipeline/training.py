"""What a run in training consists of: its settings, its state, and everything that a step needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn, optim

from pipeline.callbacks import Callbacks, Event, Moment
from pipeline.config import Section
from pipeline.data.batching import steps_per_epoch
from pipeline.evaluation import EvalConfig, collate
from pipeline.feed import Feed
from pipeline.guard import GuardConfig
from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.strategies import Strategy
from pipeline.tasks import Task


class TrainConfig(Section):
    """How long, in what portions, with what precision."""

    num_train_epochs: float = Field(3, gt=0)
    """Passes over the training rows; a part of one is allowed."""
    max_steps: int | None = Field(None, ge=0)
    """Optimizer steps; wins over num_train_epochs. 0 evaluates the start model and trains nothing."""
    train_batch_size: int = Field(32, ge=1)
    """Rows per optimizer step over all processes: what the optimizer sees."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per process that go through the model at once: only what fits in memory; no effect on the update. It is
    halved when the memory does not suffice."""
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = "random"
    """group_by_length lets rows of similar length meet: less padding, other batches. sequential: in their order."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies it, else full precision."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    fsdp: bool = False
    """Every process holds a share of weights, gradients and optimizer state (PyTorch FSDP2, ZeRO-3): for a model too
    large for one GPU."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    seed: int = Field(0, ge=0)
    """Of random weights, the order of rows, dropout and masking."""
    logging_steps: int = Field(10, ge=1)
    """Steps from one line of the log to the next."""
    dataloader_num_workers: int = Field(0, ge=0)
    """Threads that make coming batches ahead of time; 0: a batch is made when its step begins. No effect on results."""
    ddp_timeout: int = Field(600, ge=1)
    """Seconds that processes wait for one of them within a step before the run ends with a report."""


@dataclass
class TrainState:
    """All that a run knows besides weights and optimizer state; JSON in every checkpoint."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    window_loss: float = 0.0
    window_terms: int = 0
    skipped: list[int] = field(default_factory=list)
    recent: list[list[float]] = field(default_factory=list)
    """Loss and gradient norm of the last good steps, for the spike guard; empty without it."""
    rolled_back_at: int | None = None
    micro_batch_limit: int | None = None
    """Rows per process that fit in memory, once that has been found out."""
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
    processes: Processes
    model: nn.Module
    task: Task
    strategies: Sequence[Strategy]
    dataset: Any
    optimizer: optim.Optimizer
    learning_rate_at: Callable[[int], float]
    """Optimizer step, counted from 0 -> multiplier of every group's rate."""
    config: TrainConfig
    eval_config: EvalConfig
    guard: GuardConfig
    save_steps: int
    main_metric: str
    evaluate: Callable[[int], dict[str, float]]
    """Raises Stopped when the run is asked to stop meanwhile."""
    save: Callable[[TrainState], int | None]
    """Returns the step of the newest good checkpoint."""
    rollback: Callable[[], int | None]
    """Weights and optimizer as in the newest checkpoint; returns its step, None when there is none yet."""
    log: Callable[[dict[str, Any]], None]
    advance: Callable[[int], None]
    stop: StopRequest
    callbacks: Callbacks
    folder: Path
    state: TrainState = field(default_factory=TrainState)
    largest_micro_batch: int = 0
    """Positions of the largest micro-batch that went through on all processes; not saved, since a resumed run has to
    find out anew what fits: it may be on another machine."""

    @cached_property
    def feed(self) -> Feed:
        """The batches of every step."""
        return Feed(
            lambda rows, epoch: collate(
                self.task, self.dataset, rows, seed=self.config.seed, epoch=epoch, training=True
            ),
            np.asarray(self.dataset["length"]),
            config=self.config,
            steps_per_epoch=self.steps_per_epoch,
            rank=self.processes.rank,
            world_size=self.processes.count,
        )

    @cached_property
    def buffers(self) -> list[Tensor]:
        """Running statistics (batch normalization), which drift apart between processes unless they are shared."""
        saved = self.model.state_dict().keys()
        return [value for key, value in self.model.named_buffers() if key in saved and value.is_floating_point()]

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return steps_per_epoch(len(self.dataset), self.config.train_batch_size)

    @cached_property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return total_steps(self.config, len(self.dataset))

    def tell(
        self,
        moment: Moment,
        *,
        loss: float | None = None,
        metrics: Mapping[str, float] | None = None,
        split: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """Call the user's functions of a moment; what one of them raises ends the run, once this step is saved."""

        def event() -> Event:
            return Event(
                step=self.state.step,
                total_steps=self.total_steps,
                epoch=self.epoch,
                loss=loss,
                learning_rate=self.optimizer.param_groups[0]["lr"],
                folder=folder or self.folder,
                metrics=MappingProxyType(dict(metrics or {})),
                split=split,
            )

        if (error := self.callbacks.tell(moment, event)) is not None:
            self.save(self.state)
            raise error

    @property
    def epoch(self) -> float:
        """Passes over the rows so far."""
        return round(self.state.step / self.steps_per_epoch, 4)

    @property
    def micro_batch_size(self) -> int:
        """Rows per process that go through the model at once."""
        whole = -(-self.config.train_batch_size // self.processes.count)
        return min(self.config.micro_batch_size or whole, self.state.micro_batch_limit or whole, whole)

    def done(self) -> tuple[int, str]:
        """How much was trained on, and what is counted."""
        is_text = self.task.modality == "text"
        return (self.state.tokens, "tokens") if is_text else (self.state.samples, "rows")


def total_steps(config: TrainConfig, num_rows: int) -> int:
    """Optimizer steps of the whole run over so many rows."""
    if config.max_steps is not None:
        return config.max_steps
    return math.ceil(config.num_train_epochs * steps_per_epoch(num_rows, config.train_batch_size))
